"""HTTP/1.1 in Uvicorn (0.54), with limits for requests and a safe upgrade to WebSockets."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ws_support._protocol.handshake import refusal
from ws_support.servers._run.limits import HEAD_TIMEOUT, LINGER, MAX_HEAD, MAX_HEADERS, SILENCE

logger = logging.getLogger("ws_support.servers")

_PIECE: Final = 2**13
"""Bytes that are parsed at once, at most."""

_TURN: Final = 0.002
"""Seconds of parsing after which other tasks get a turn."""

_LAST_WORDS: Final = 1.0
"""Seconds to wait for the end of TLS, which a client that is gone never confirms."""


class _Phase(Enum):
    """The part of a request to which the client's next byte belongs."""

    HEAD = auto()
    BODY = auto()
    """The body or the trailers."""
    NOTHING = auto()
    """The client was refused, and everything that it sends is dropped."""


class HTTPProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, with limits for each client.

    Uvicorn 0.54 itself limits neither the size nor the time of a head or of trailers, parses all
    requests of a read before the first is answered, hands the connection over for an upgrade while
    a request is being answered, and drops the frames that a client sends right after an upgrade
    request.

    This protocol parses what was read in pieces, none of which goes beyond the end of a request.
    The next request waits until the one before is answered, and reading is paused meanwhile.
    """

    flow: _Flow

    _phase = _Phase.HEAD
    _unparsed = b""
    """The data of the last read, of which the first `_position` bytes are parsed."""

    _position = 0
    _overhead = 0
    """Bytes of a head, or of a body's trailers and chunk sizes, since the last progress.

    A complete head, a part of a body and a complete chunk are progress."""

    _rest: int | None = None
    """Bytes of the body that are still to come; `None` for a chunked body, of unknown size."""

    _trailers = 0
    _is_pipelined = False
    """True if the data that is parsed came before the previous request was answered."""

    _status = HTTPStatus.BAD_REQUEST
    """The status of the answer to the parser's next error."""

    _limit: asyncio.TimerHandle | None = None
    _is_silent = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._main_parser = self.parser
        self._limit = self.loop.call_later(HEAD_TIMEOUT, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._unparsed = b""
        super().connection_lost(exc)
        del self._main_parser

    # Reading

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.NOTHING:
            self._is_silent = False
            return
        if self._position == len(self._unparsed) and not self._overhead:
            self._is_pipelined = self._is_answering
        if self._position == len(self._unparsed) and self._rest is not None:
            # A large body is not copied.
            self._unparsed, self._position = data, 0
        else:
            # The end of a head may be split between two reads.
            start = max(self._position - 2, 0)
            self._unparsed = self._unparsed[start:] + data
            self._position -= start
        self._go_on()

    @property
    def _is_answering(self) -> bool:
        """Return True if a complete request has no complete answer yet."""
        cycle = self.cycle
        return self._phase is _Phase.HEAD and cycle is not None and not cycle.response_complete

    def _go_on(self) -> None:
        end = self.loop.time() + _TURN
        while self._position < len(self._unparsed) and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            if self._is_answering:
                self._is_pipelined = True
                self.flow.hold()
                return
            self._parse_piece()
            if self._position < len(self._unparsed) and self.loop.time() > end:
                self.flow.hold()
                self.loop.call_soon(self._go_on)
                return
        if not self.transport.is_closing():
            self.flow.let_go()
            self._watch()

    def _parse_piece(self) -> None:
        start = self._position
        room = MAX_HEAD - self._overhead
        if self._phase is _Phase.BODY and self._rest is not None:
            end = start + self._rest
        elif room == 0:
            what = "The head of a request" if self._phase is _Phase.HEAD else "What ends a request"
            reason = f"{what} may have at most {MAX_HEAD} bytes."
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, reason)
            return
        else:
            end = start + min(room, _PIECE)
            found = self._unparsed.find(b"\n\r\n", max(start - 2, 0), end)
            if found >= 0:
                end = found + 3
        piece = self._unparsed[start:end]
        self._position += len(piece)
        self._overhead += len(piece)
        if self._rest is not None:
            self._rest -= len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            # The parser raises this at the end of a head, which is also the end of the piece.
            self._upgrade()
        except httptools.HttpParserError:
            reason = "Invalid HTTP request received."
            if self._status is not HTTPStatus.BAD_REQUEST:
                reason = f"A request may have at most {MAX_HEADERS} header lines."
            self._refuse(self._status, reason)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is _Phase.BODY:
            # A trailer is not a header (RFC 9110, section 6.5.1). Uvicorn adds it to the headers.
            self._trailers += 1
        else:
            super().on_header(name, value.strip(b" \t"))
        if max(self._trailers, len(self.headers)) > MAX_HEADERS:
            self._status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError

    def on_headers_complete(self) -> None:
        self._progress()
        super().on_headers_complete()
        self._begin_body()

    def _begin_body(self) -> None:
        self._phase = _Phase.BODY
        self._trailers = 0
        lengths = [int(value) for name, value in self.headers if name == b"content-length"]
        self._rest = lengths[0] if lengths else None

    def on_body(self, body: bytes) -> None:
        self._progress()
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        self._progress()

    def on_message_complete(self) -> None:
        self._progress()
        self._phase = _Phase.HEAD
        self._rest = None
        self.parser = self._main_parser
        super().on_message_complete()

    def _progress(self) -> None:
        self._overhead = 0

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._position < len(self._unparsed):
            self.loop.call_soon(self._go_on)
        else:
            self._watch()

    # Waiting

    def _watch(self) -> None:
        """Limit the wait for the rest of a head, of trailers, or of a body that nobody reads."""
        is_left = self._phase is _Phase.BODY and self.cycle.response_complete
        if self._phase is _Phase.NOTHING:
            pass
        elif not self._overhead and not is_left:
            self._stop_waiting()
        elif self._limit is None:
            self._limit = self.loop.call_later(HEAD_TIMEOUT, self._give_up)

    def _stop_waiting(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _give_up(self) -> None:
        self._limit = None
        if self.flow.is_full:
            # Reading is paused: the client waits for the application, not the other way round.
            self._watch()
            return
        logger.info("Closed: no request within %g s from %s.", HEAD_TIMEOUT, self.client)
        # close() would wait 30 s for an answer over TLS.
        self.transport.abort()

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer with an error, drop what the client still sends, and close the connection."""
        logger.info("Refused with %d: %s: from %s.", status, reason, self.client)
        cycle = self.cycle
        is_answered = self._phase is _Phase.BODY and cycle.response_started
        if self._phase is _Phase.BODY and not cycle.response_complete:
            # The application sees what it sees when the client has gone.
            cycle.disconnected = True
            cycle.message_event.set()
        self._phase = _Phase.NOTHING
        self._unparsed, self._position, self._overhead = b"", 0, 0
        transport = self.transport
        if not is_answered:
            transport.write(refusal(status, reason, self.server_state.default_headers))
        # Closing a socket while data is unread resets the connection, and the client may not see
        # what was sent last.
        if transport.can_write_eof():
            transport.write_eof()
        self._stop_waiting()
        self._limit = self.loop.call_later(SILENCE, self._linger, self.loop.time() + LINGER)

    def _linger(self, until: float) -> None:
        if self._is_silent or self.loop.time() > until:
            self.transport.close()
            self._limit = self.loop.call_later(_LAST_WORDS, self.transport.abort)
        else:
            self._is_silent = True
            self._limit = self.loop.call_later(SILENCE, self._linger, until)

    # The upgrade

    def _should_upgrade(self) -> bool:
        return self._lists(b"connection", b"upgrade") and self._lists(b"upgrade", b"websocket")

    def _lists(self, name: bytes, token: bytes) -> bool:
        """Return True if one of the headers `name` lists `token` (RFC 9110, section 5.3)."""
        return any(
            token == each.strip(b" \t").lower()
            for header, value in self.headers
            if header == name
            for each in value.split(b",")
        )

    def _upgrade(self) -> None:
        if not self._should_upgrade():
            self._read_body()
            return
        if self._is_pipelined:
            self._refuse(
                HTTPStatus.BAD_REQUEST,
                "A WebSocket is opened when the requests before it have been answered.",
            )
        elif self.parser.get_http_version() != "1.1":
            self._refuse(HTTPStatus.BAD_REQUEST, "A WebSocket is opened with HTTP/1.1.")
        else:
            behind = self._unparsed[self._position :]
            self._unparsed, self._position = b"", 0
            self.flow.let_go()
            self._stop_waiting()
            self.handle_websocket_upgrade()
            if behind and not self.transport.is_closing():
                self.transport.get_protocol().data_received(behind)  # type: ignore[attr-defined]

    def _read_body(self) -> None:
        """Read the body of a request whose upgrade is not made.

        The parser (httptools) does not take what follows such a request for its body, but for the
        next request: behind a proxy, that would be a request of another user.
        """
        self._begin_body()
        self.cycle.more_body = True
        self.cycle.message_event.clear()
        lines = [
            b"%b: %b\r\n" % (name, value)
            for name, value in self.headers
            if name in (b"content-length", b"transfer-encoding")
        ]
        callbacks = SimpleNamespace(
            on_header=self.on_header,
            on_body=self.on_body,
            on_chunk_complete=self.on_chunk_complete,
            on_message_complete=self.on_message_complete,
        )
        self.parser = httptools.HttpRequestParser(callbacks)
        # Without either of these lines there is no body, and the parser ends the request here.
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(lines))


class _Flow(FlowControl):
    """Flow control with two reasons to pause reading: the application, and requests that wait."""

    is_full = False
    """True if reading is paused until the application has received more of the body."""

    is_held = False

    def pause_reading(self) -> None:
        self.is_full = True
        super().pause_reading()

    def resume_reading(self) -> None:
        self.is_full = False
        if not self.is_held:
            super().resume_reading()

    def hold(self) -> None:
        self.is_held = True
        super().pause_reading()

    def let_go(self) -> None:
        self.is_held = False
        if not self.is_full:
            super().resume_reading()
