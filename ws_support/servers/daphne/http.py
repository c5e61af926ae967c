"""HTTP requests in Daphne, with limits, flow control and corrections.

Each difference names the symptom and the version with it, so that the difference can be deleted
when the server has been corrected. Everything else is Daphne's (4.2.3) and Twisted's (26.10).
"""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any, Final

import daphne.server  # Chooses the reactor, and imports `daphne.http_protocol` after that.
from twisted.web import http

from ws_support.servers._run.leftovers import Leftovers
from ws_support.servers._run.limits import HEAD_TIMEOUT, LINGER, MAX_HEAD, MAX_HEADERS, SILENCE
from ws_support.servers.daphne.flow import Outbox

logger = logging.getLogger("ws_support.daphne")

_LAST_WORDS: Final = 1.0
"""Seconds to wait for the end of TLS, which a client that is gone never confirms."""

_HTTPChannel: Any = http.HTTPChannel

_ABSOLUTE_FORM: Final = re.compile(
    rb"https?://((?:\[[0-9a-f:.]+\]|[a-z0-9._~%!$&'()*+,;=-]+)(?::[0-9]*)?)(?:([/?].*))?",
    re.IGNORECASE | re.DOTALL,
)
"""A request's target in absolute form, with its authority (RFC 9112, section 3.2.2)."""


class WebRequest(daphne.http_protocol.WebRequest):  # type: ignore[misc]
    """One request, which may open a WebSocket."""

    is_event_stream = False
    """True if the response is an event stream, which has no end."""

    _outbox: Outbox | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.leftovers = Leftovers()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if path.lower().startswith((b"http://", b"https://")):
            # Daphne takes the whole target for a path, and the host from the Host header.
            absolute = _ABSOLUTE_FORM.fullmatch(path)
            if absolute is None:
                self.channel.refuse(HTTPStatus.BAD_REQUEST, "The target is malformed")
                return
            self.requestHeaders.setRawHeaders(b"host", [absolute[1]])
            rest = absolute[2] or b""
            path = rest if rest.startswith(b"/") else b"/" + rest
        super().requestReceived(command, path, version)

    def process(self) -> Any:
        if b"websocket" in self._tokens(b"upgrade"):
            if why := self._malformed():
                self.channel.refuse(HTTPStatus.BAD_REQUEST, why)
                return None
            # Daphne looks only at the first line, and for no other token in this line.
            self.requestHeaders.setRawHeaders(b"upgrade", [b"websocket"])
            channel = self.channel
            super().process()
            channel.hand_over()
            return None
        return super().process()

    def _malformed(self) -> str | None:
        """Return what is wrong with a handshake that Daphne or autobahn would accept, or `None`."""
        if self.clientproto != b"HTTP/1.1":
            return "A WebSocket is opened with HTTP/1.1"
        if self.content.read(1):
            return "A handshake has no body"  # Daphne would read a body as unmasked frames.
        if len(self.requestHeaders.getRawHeaders(b"host", [])) > 1:
            return "A request has one Host header"
        version = b",".join(self.requestHeaders.getRawHeaders(b"sec-websocket-version", []))
        if not re.fullmatch(rb"0|[1-9][0-9]{0,2}|", version):
            return "The Sec-WebSocket-Version is not a number"
        return None

    def _tokens(self, name: bytes) -> list[bytes]:
        """Return the tokens in all lines of a header, in lower case (RFC 9110, section 5.3)."""
        lines = b",".join(self.requestHeaders.getRawHeaders(name, []))
        return [each.strip(b" \t") for each in lines.lower().split(b",")]

    def handle_reply(self, message: dict[str, Any]) -> None:
        super().handle_reply(message)
        if message["type"] == "http.response.start" and not self.finished:
            content_type = self.responseHeaders.getRawHeaders(b"content-type", [b""])[0]
            self.is_event_stream = content_type.lower().startswith(b"text/event-stream")
            # Daphne has no flow control: it keeps in memory what the client has not read.
            self._outbox = Outbox(lambda: None)
            self.registerProducer(self._outbox, True)

    async def room(self) -> None:
        """Wait while the client is behind with reading."""
        if self._outbox is not None:
            await self._outbox.room()

    def finish(self) -> None:
        self._let_go()
        super().finish()

    def connectionLost(self, reason: Any) -> None:
        self._let_go()
        super().connectionLost(reason)

    def _let_go(self) -> None:
        if self._outbox is not None:
            self.unregisterProducer()
            self._outbox.stopProducing()
            self._outbox = None

    def leave(self) -> None:
        """Send the application `http.disconnect`, as if the client had left."""
        if self.application_queue is not None:
            self.send_disconnect()


class HTTPChannel(_HTTPChannel):  # type: ignore[misc]
    """One connection, with limits for each head and for the trailers of a chunked request.

    Twisted limits a head to 16 KiB and 500 lines, and has no limit for its time: the timeout of 60
    seconds starts anew with each byte. A refused client gets `400` without a reason.
    """

    MAX_LENGTH = MAX_HEAD
    totalHeadersSize = MAX_HEAD

    _head_size = 0
    _head_lines = 0
    _successor: Any = None
    """The protocol of the WebSocket that this connection has become."""
    _limit: Any = None
    """The timer of a head, or of trailers."""
    _linger: Any = None
    """The timer of a client that was refused."""
    _silence: Any = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self._limit = self.callLater(HEAD_TIMEOUT, self._give_up)

    def dataReceived(self, data: bytes) -> None:
        if self._linger is not None:
            self._silence.reset(SILENCE)
            return
        super().dataReceived(data)
        self._watch()

    def lineReceived(self, line: bytes) -> bool:
        self._head_size += len(line) + 2
        self._head_lines += bool(line)
        if self._head_size > MAX_HEAD or self._head_lines > MAX_HEADERS + 1:
            self._refuse_head()
        else:
            super().lineReceived(line)
        # If True, Twisted drops the rest of what was read.
        return self._linger is not None

    def lineLengthExceeded(self, line: bytes) -> bool:
        self._refuse_head()
        return True

    def hand_over(self) -> None:
        """Pass on what the client sends from now on to the protocol of its transport."""
        transport = self.transport
        self._successor = getattr(transport, "wrappedProtocol", None) or transport.protocol

    def rawDataReceived(self, data: bytes) -> bool | None:
        if self._successor is not None:
            # Data that came together with the handshake. Daphne drops such data.
            self._successor.dataReceived(data)
            return None
        super().rawDataReceived(data)
        trailers = getattr(self._transferDecoder, "_trailerHeaders", ())
        if self._linger is None and len(trailers) > MAX_HEADERS:
            self._refuse_head()
        return self._linger is not None

    def allHeadersReceived(self) -> None:
        self._head_size = self._head_lines = 0
        self._stop_limit()
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        self._stop_limit()
        super().allContentReceived()

    def requestDone(self, request: WebRequest) -> None:
        super().requestDone(request)
        self._watch()

    def connectionLost(self, reason: Any) -> None:
        self._stop_limit()
        for timer in (self._linger, self._silence):
            if timer is not None and timer.active():
                timer.cancel()
        super().connectionLost(reason)

    # The time of a head

    def _watch(self) -> None:
        if self._limit is None and self._is_inside_head():
            self._limit = self.callLater(HEAD_TIMEOUT, self._give_up)

    def _is_inside_head(self) -> bool:
        """Return True if a head or trailers have begun and have not ended."""
        if self._linger is not None or self._handlingRequest:
            return False
        if self.line_mode:
            return bool(self._head_size or self._buffer)
        return getattr(self._transferDecoder, "state", None) == "TRAILER"

    def _stop_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _give_up(self) -> None:
        self._limit = None
        logger.info("Closed: no request within %g s from %s.", HEAD_TIMEOUT, self._client())
        self._abortingCall = self.callLater(_LAST_WORDS, self.forceAbortClient)
        self.loseConnection()

    # Refusals

    def _refuse_head(self) -> None:
        self.refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"A request's head may have {MAX_HEAD} bytes and {MAX_HEADERS} lines",
        )

    def _respondToBadRequestAndDisconnect(self) -> None:
        if getattr(self._transferDecoder, "state", None) == "TRAILER":
            # The size of trailers is all that Twisted checks.
            self._refuse_head()
            return
        self.refuse(HTTPStatus.BAD_REQUEST, "The request is malformed")

    def refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer with an error, and close the connection when no more data comes.

        After a close at once, data that is still on its way would reset the connection, and the
        client would not see the answer.
        """
        logger.info("Refused with %d: %s: from %s.", status, reason, self._client())
        self._stop_limit()
        self.setTimeout(None)
        body = f"{reason}\n".encode()
        head = (
            f"HTTP/1.1 {status} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self._linger = self.callLater(LINGER, self._close_refused)
        self._silence = self.callLater(SILENCE, self._close_refused)

    def _close_refused(self) -> None:
        self._abortingCall = self._abortingCall or self.callLater(
            _LAST_WORDS, self.forceAbortClient
        )
        self.loseConnection()

    def _client(self) -> str:
        peer = self.transport.getPeer()
        return f"{peer.host}:{peer.port}" if hasattr(peer, "host") else "a Unix socket"


class HTTPFactory(daphne.http_protocol.HTTPFactory):  # type: ignore[misc]
    """Makes an `HTTPChannel` for each connection."""

    def protocol(self) -> Any:
        return http._GenericHTTPChannelProtocol(HTTPChannel())

    def buildProtocol(self, address: Any) -> Any:
        protocol = super().buildProtocol(address)
        protocol.requestFactory = WebRequest
        return protocol
