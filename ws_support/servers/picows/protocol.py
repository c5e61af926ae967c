"""A fast WebSocket protocol for Uvicorn, on picows.

    uvicorn.Config(application, ws=PicowsProtocol)

Uvicorn reads the request and hands the connection over. When the application has accepted, the
connection's data goes to picows, whose compiled code turns it into frames.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import os
from collections import deque
from collections.abc import Awaitable, Coroutine
from enum import IntEnum
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

from picows import WSFrame, WSListener
from uvicorn.config import Config
from uvicorn.protocols.utils import (
    ClientDisconnected,
    get_client_addr,
    get_local_addr,
    get_remote_addr,
    is_ssl,
)
from uvicorn.server import ServerState

from ws_support._asgi import add_direct, remove_direct
from ws_support._protocol.frames import (
    BINARY_HEADS,
    TEXT_HEADS,
    close_frame,
    long_binary_head,
    long_text_head,
    ping_frame,
    pong_frame,
)
from ws_support._protocol.handshake import (
    Headers,
    Refused,
    Request,
    accept,
    refusal,
    response,
)
from ws_support._queued_text import packed, unpacked
from ws_support.close_codes import CloseCode, may_be_sent
from ws_support.servers._run.limits import LINGER, SILENCE
from ws_support.servers.picows.parser import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Parser,
)

logger = logging.getLogger("ws_support.servers")

_WAITING: Final = 2**16
"""Bytes of messages that may wait for the application before reading is paused."""

_OF_EACH: Final = 256
"""Bytes that a message takes in addition to its content, approximately."""

_TURN: Final = 32
"""Queued messages that are received in a row, before other tasks get a turn."""

_SENT: Final = 64
"""Messages that are sent in a row, before other tasks get a turn: `send()` never waits for a client
that reads fast enough."""

_CONCAT: Final = 2**13
"""Bytes of a payload up to which head and payload are joined, since a copy is cheaper."""

_CLOSE_TIMEOUT: Final = 10.0
"""Seconds that the client has to answer a close frame, and to read what was sent before."""

_LAST_WORDS: Final = 0.5
"""Seconds that the client has to answer a close frame when the server stops."""

_LONGEST_CLOSE: Final = 131
"""Bytes of the longest close frame: its head, its mask and 125 bytes."""

_SHRINK: Final = 5.0
"""Seconds after which a large buffer is replaced by a small one."""


class _Phase(IntEnum):
    HANDSHAKE = 0
    """The application has not decided yet."""
    DENIAL = 1
    """The application sends a denial response."""
    OPEN = 2
    CLOSING = 3
    """The server has sent a close frame, and waits for the client's."""
    ENDED = 4
    """The WebSocket has ended, and TCP may stay open for a moment."""
    LOST = 5


_OPEN: Final = _Phase.OPEN

_EXPECTED: Final = {
    _Phase.HANDSHAKE: (
        "where websocket.accept, websocket.close or websocket.http.response.start was expected"
    ),
    _Phase.DENIAL: "where websocket.http.response.body was expected",
    _Phase.OPEN: "where websocket.send or websocket.close was expected",
}

_DENIALS: Final = {
    (_Phase.HANDSHAKE, "websocket.http.response.start"),
    (_Phase.DENIAL, "websocket.http.response.body"),
}

_NO_UTF_8: Final = "The text is not valid UTF-8"

# The logger of Uvicorn's own protocols.
_uvicorn = logging.getLogger("uvicorn.error")


class PicowsProtocol(WSListener, asyncio.Protocol):
    """One connection, from its upgrade request on (RFC 6455, ASGI 2.5).

    Uses these options of Uvicorn: `ws_max_size`, in bytes of all fragments of a message;
    `ws_ping_interval` and `ws_ping_timeout`, in seconds, or `None` to switch them off. Messages are
    not compressed.

    `send()` raises `ClientDisconnected`, an `OSError`, when the connection has ended, and
    `ValueError` for what no frame or header can carry.
    """

    __slots__ = (
        "_answer",
        "_app",
        "_app_state",
        "_blocked",
        "_config",
        "_decoder",
        "_early",
        "_has_grown",
        "_in_a_row",
        "_is_paused",
        "_is_plain",
        "_is_silent",
        "_is_wide",
        "_key",
        "_kind",
        "_late_pong",
        "_loop",
        "_parts",
        "_phase",
        "_ping",
        "_pinged_at",
        "_queue",
        "_room",
        "_scope",
        "_server_state",
        "_shrinking",
        "_tail",
        "_timer",
        "_waiter",
        "_waiting",
        "_write",
        "last_ping_rtt",
        "transport",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self._config = config
        self._app: Any = config.loaded_app
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_event_loop()
        self._phase = _Phase.HANDSHAKE
        self._key: bytes | None = None
        self._early = b""
        self._answer: tuple[int, list[tuple[bytes, bytes]]] | None = None

        # State of what goes to the application.
        self._queue: deque[dict[str, Any]] = deque()
        self._waiting = 0
        # True if the queue may hold a text as UTF-8.
        self._is_wide = False
        self._waiter: asyncio.Future[Any] | None = None
        self._in_a_row = 0
        self._is_paused = False

        # True if each final data frame is a whole message, as nearly always.
        self._is_plain = False
        self._kind: Any = None
        self._parts = bytearray()
        self._decoder: codecs.IncrementalDecoder | None = None

        # State of what goes to the client.
        self._blocked: asyncio.Event | None = None
        # Messages that may be sent before the next check. 0 unless the connection is open.
        self._room = 0
        self._late_pong = b""

        self._timer: asyncio.TimerHandle | None = None
        self._ping = b""
        self._pinged_at = 0.0
        self.last_ping_rtt = 0.0
        """Seconds from the last ping to its pong; 0 before the first."""

        self._shrinking: asyncio.TimerHandle | None = None
        self._has_grown = False
        self._is_silent = False
        self._tail = b""

    # The handshake

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._write = transport.write
        self._server_state.connections.add(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        if self._key is None and self._phase is _Phase.HANDSHAKE:
            self._begin(data)
        elif self._phase is _Phase.HANDSHAKE:
            # A client may send frames before it is accepted. Reading goes on while there are few,
            # so that the end of the connection is noticed.
            self._early += data
            if len(self._early) > _WAITING:
                self._pause_reading()
        else:
            self._is_silent = False
            if self._phase is _Phase.ENDED:
                # After an error, the boundaries of frames may be unknown, so the end of the data is
                # searched for a close frame.
                self._tail = (self._tail + data[-_LONGEST_CLOSE:])[-_LONGEST_CLOSE:]
                if _ends_with_a_close_frame(self._tail):
                    self._finish()

    def _begin(self, data: bytes) -> None:
        head, _, self._early = data.partition(b"\r\n\r\n")
        request = Request.parse(head)
        transport = self.transport
        self._scope: dict[str, Any] = {
            **request.scope(self._config.root_path),
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.5"},
            "scheme": "wss" if is_ssl(transport) else "ws",
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "state": self._app_state.copy(),
        }
        try:
            self._key = request.key()
        except Refused as refused:
            logger.info(
                "Refused with %d: %s: path %.200a.", refused.status, refused.reason, request.path
            )
            self._refuse(refused.status, refused.reason, refused.headers)
            return
        self._queue.append({"type": "websocket.connect"})
        add_direct(self._scope, self)
        # No further coroutine around the application: each message would have to pass through it.
        task = self._loop.create_task(_coroutine(self._app(self._scope, self.receive, self.send)))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._application_has_ended)

    def _application_has_ended(self, task: asyncio.Task[Any]) -> None:
        self._server_state.tasks.discard(task)
        remove_direct(self._scope)
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        code = CloseCode.INTERNAL_ERROR
        if task.cancelled():
            status, code = HTTPStatus.SERVICE_UNAVAILABLE, CloseCode.SERVICE_RESTART
        elif (error := task.exception()) is None:
            code = CloseCode.NORMAL_CLOSURE
            if self._phase is _Phase.HANDSHAKE:
                _uvicorn.error("ASGI callable returned without completing handshake.")
            elif task.result() is not None:
                _uvicorn.error(
                    "ASGI callable should return None, but returned '%s'.", task.result()
                )
        elif not isinstance(error, ClientDisconnected):
            _uvicorn.error("Exception in ASGI application\n", exc_info=error)
        if self._phase is _Phase.HANDSHAKE or (
            self._phase is _Phase.DENIAL and self._answer is not None
        ):
            self._refuse(status, status.phrase)
        elif self._phase is _Phase.DENIAL:
            self._disconnect(CloseCode.ABNORMAL_CLOSURE)
            self._finish(lingers=bool(self._early))
        elif self._phase is _OPEN:
            self._close(code, "")

    def _refuse(self, status: int, reason: str, headers: Headers = ()) -> None:
        """Refuse the handshake with `status` and a line of text."""
        self._log(str(int(status)))
        self._write(refusal(status, reason, [*self._server_state.default_headers, *headers]))
        self._disconnect(CloseCode.ABNORMAL_CLOSURE)
        self._finish(lingers=bool(self._early))

    def _accept(self, message: Any) -> None:
        headers = [*self._server_state.default_headers, *(message.get("headers") or ())]
        head = accept(self._key or b"", message.get("subprotocol"), headers)
        if self.transport.is_closing():
            raise ClientDisconnected
        self._log("[accepted]")
        self._write(head)
        self._phase = _OPEN
        self._room = _SENT if self._blocked is None else 0
        self._is_plain = True
        self._start_pings()
        parser = Parser(self, self._config.ws_max_size)
        self.transport.set_protocol(parser)
        early, self._early = self._early, b""
        if early:
            self._resume_reading()
            parser.feed(early)

    def _deny(self, message: Any) -> None:
        """Send a part of the application's denial response.

        The end of TCP is the end of a response whose length is not given.
        """
        if message["type"] == "websocket.http.response.start":
            headers = [*self._server_state.default_headers, *(message.get("headers") or ())]
            response(message["status"], headers)  # Raises ValueError for what cannot be sent.
            self._answer = message["status"], headers
            self._phase = _Phase.DENIAL
            return
        content = message.get("body") or b""
        is_last = not message.get("more_body")
        if self._answer is not None:
            (status, headers), self._answer = self._answer, None
            if is_last and not any(name.lower() == b"content-length" for name, _ in headers):
                headers = [*headers, (b"content-length", b"%d" % len(content))]
            self._log(str(int(status)))
            content = response(status, headers) + content
        self._write(content)
        if is_last:
            self._disconnect(CloseCode.ABNORMAL_CLOSURE)
            self._finish(lingers=bool(self._early))

    def _log(self, what: str) -> None:
        if _uvicorn.isEnabledFor(logging.INFO):
            scope: Any = self._scope
            # Uvicorn's own line without the query, which may hold a token.
            path = quote(scope["path"])
            _uvicorn.info('%s - "WebSocket %.200s" %s', get_client_addr(scope), path, what)

    # What the application calls

    async def receive(self) -> Any:
        if self._queue:
            self._in_a_row += 1
            if self._in_a_row >= _TURN:
                self._in_a_row = 0
                await asyncio.sleep(0)
            if self._queue:
                return self._next()
        if self._waiter is not None:
            raise RuntimeError("receive() was called while another task waits for a message.")
        waiter = self._waiter = asyncio.Future(loop=self._loop)
        if self._room > 0:
            # Other tasks get a turn now, so the count begins anew.
            self._room = _SENT
        try:
            return await waiter
        except asyncio.CancelledError:
            if self._waiter is waiter:
                self._waiter = None
            elif not waiter.cancelled():
                # The message has come before the cancellation. Another task may wait for it now.
                self._queue.appendleft(waiter.result())
                self._wake()
            raise

    def _next(self) -> Any:
        """Take the first message from the queue, and resume reading when the queue is empty."""
        message = self._queue.popleft()
        if not self._queue:
            self._in_a_row = 0
            self._waiting = 0
            if self._is_paused:
                self._resume_reading()
        return unpacked(message) if self._is_wide else message

    async def send(self, message: Any) -> None:
        room = self._room
        if room <= 0 or message["type"] != "websocket.send":
            if self._phase is not _OPEN or message["type"] != "websocket.send":
                await self._send_other(message)
                return
            await self._turn()
            room = self._room
        self._room = room - 1
        text = message.get("text")
        if text is not None:
            data = text.encode()
            size = len(data)
            head = TEXT_HEADS[size] if size < 126 else long_text_head(size)
        else:
            data = message.get("bytes")
            if data is None:
                raise ValueError("websocket.send has neither text nor bytes.")
            size = len(data)
            head = BINARY_HEADS[size] if size < 126 else long_binary_head(size)
        if size <= _CONCAT:
            self._write(head + data)
        else:
            self._room -= size >> 13
            # A mutable buffer is copied: a part may be sent later, and the application may change
            # the buffer before that.
            self.transport.writelines((head, bytes(data)))

    def write_frame(self, frame: bytes) -> bool:
        """Write a frame that many connections share. Return False if that was not possible."""
        if self._phase is not _OPEN or self._blocked is not None:
            return False
        self._write(frame)
        return True

    async def _send_other(self, message: Any) -> None:
        kind = message["type"]
        phase = self._phase
        if phase >= _Phase.CLOSING:
            # An application that goes on sending must not hold up other tasks.
            await asyncio.sleep(0)
            raise ClientDisconnected(f"{kind} was sent after the connection had ended.")
        if phase is _Phase.DENIAL:
            await self._turn()
        if phase is _OPEN and kind == "websocket.close":
            code = message.get("code") or CloseCode.NORMAL_CLOSURE
            self._close(code, message.get("reason") or "")
        elif phase is _Phase.HANDSHAKE and kind == "websocket.accept":
            self._accept(message)
        elif phase is _Phase.HANDSHAKE and kind == "websocket.close":
            self._refuse(HTTPStatus.FORBIDDEN, HTTPStatus.FORBIDDEN.phrase)
        elif (phase, kind) in _DENIALS:
            self._deny(message)
        else:
            raise RuntimeError(f"{kind} was sent {_EXPECTED[phase]}.")

    async def _turn(self) -> None:
        """Give other tasks a turn, and wait until more can be sent.

        Raises `ClientDisconnected` when the transport is closing: a closing transport drops what is
        written to it, without an error.
        """
        await asyncio.sleep(0)
        while self._blocked is not None:
            await self._blocked.wait()
        is_open = self._phase is _OPEN or self._phase is _Phase.DENIAL
        if not is_open or self.transport.is_closing():
            raise ClientDisconnected
        if self._phase is _OPEN:
            self._room = _SENT

    # What the client sends

    def on_ws_frame(self, _: Any, frame: WSFrame) -> None:
        # Every message takes this path.
        kind = frame.msg_type
        if self._is_plain and frame.fin and not (frame.rsv1 or frame.rsv2 or frame.rsv3):
            if kind is TEXT:
                try:
                    text = frame.get_payload_as_utf8_text()
                except UnicodeDecodeError:
                    self._fail(CloseCode.INVALID_DATA, _NO_UTF_8)
                    return
                message: Any = {"type": "websocket.receive", "text": text}
            elif kind is BINARY:
                message = {"type": "websocket.receive", "bytes": frame.get_payload_as_bytes()}
            else:
                self._on_control(kind, frame)
                return
            waiter = self._waiter
            if waiter is not None:
                self._waiter = None
                if not waiter.done():
                    waiter.set_result(message)
                    return
            self._enqueue(message, frame.payload_size)
        else:
            self._on_other(kind, frame)

    def _enqueue(self, message: dict[str, Any], size: int) -> None:
        self._queue.append(message)
        self._waiting += size + _OF_EACH
        if self._waiting > _WAITING:
            self._fall_behind()

    def _fall_behind(self) -> None:
        """Pause reading, and keep the last message in the form that takes less memory.

        Earlier messages were not checked, and take four times `_WAITING` at most.
        """
        if not self._is_paused:
            self._pause_reading()
        message = self._queue[-1]
        self._queue[-1] = packed(message)
        if self._queue[-1] is not message:
            self._is_wide = True

    def _on_control(self, kind: Any, frame: WSFrame) -> None:
        if kind is PING:
            pong = pong_frame(frame.get_payload_as_bytes())
            if self._blocked is None:
                self._write(pong)
            else:
                # Only the last ping has to be answered (RFC 6455, section 5.5.3).
                self._late_pong = pong
        elif kind is PONG:
            self._on_pong(frame.get_payload_as_bytes())
        elif kind is CLOSE:
            self._on_close(frame.get_payload_as_bytes())
        else:
            self._fail(CloseCode.PROTOCOL_ERROR, "A continuation of nothing")

    def _on_other(self, kind: Any, frame: WSFrame) -> None:
        """Handle a frame that is not a whole message of an open connection.

        This is a fragment, an error, a frame after the close, or any frame while the buffer of
        picows is large.
        """
        if self._has_grown:
            self._is_silent = not frame.tail_size
        if self._phase is not _OPEN:
            if self._phase is _Phase.CLOSING and kind is CLOSE:
                self._finish()
        elif frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail(CloseCode.PROTOCOL_ERROR, "A reserved bit is set")
        elif kind is CONTINUATION and self._kind is not None:
            self._on_fragment(frame)
        elif kind is not TEXT and kind is not BINARY:
            self._on_control(kind, frame)
        elif self._kind is not None:
            self._fail(CloseCode.PROTOCOL_ERROR, "A message within a fragmented one")
        elif frame.fin:
            self._is_plain = True
            self.on_ws_frame(None, frame)
            self._is_plain = self._phase is _OPEN and not self._has_grown
        else:
            self._kind = kind
            self._is_plain = False
            if kind is TEXT:
                self._decoder = _new_decoder()
            self._on_fragment(frame)

    def _on_fragment(self, frame: WSFrame) -> None:
        size = len(self._parts) + frame.payload_size
        if size > self._config.ws_max_size:
            self._fail(CloseCode.MESSAGE_TOO_BIG, "")
            return
        # Fragments are joined at once, so many small or empty ones take no more than their sum.
        payload = frame.get_payload_as_bytes()
        self._parts += payload
        if self._decoder is not None:
            try:
                self._decoder.decode(payload, bool(frame.fin))
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_DATA, _NO_UTF_8)
                return
        if frame.fin:
            self._is_plain = not self._has_grown
            is_text, self._kind, self._decoder = self._kind is TEXT, None, None
            parts, self._parts = self._parts, bytearray()
            content: Any = {"text": parts.decode()} if is_text else {"bytes": bytes(parts)}
            self._enqueue({"type": "websocket.receive", **content}, size)
            self._wake()

    def _wake(self) -> None:
        """Give the first queued message to the task that waits in `receive()`, if there is one."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(self._next())

    # How it ends

    def _on_close(self, payload: bytes) -> None:
        code: int | None = None
        reason = ""
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or not may_be_sent(code):
                reason = "Not a code that a close frame may have"
                self._fail(CloseCode.PROTOCOL_ERROR, reason, lingers=False)
                return
            reason = payload[2:].decode()  # picows has checked the UTF-8.
        self._write(close_frame(code, reason))
        self._disconnect(CloseCode.NO_STATUS_RECEIVED if code is None else code, reason)
        self._finish()

    def _close(self, code: int, reason: str) -> None:
        """Send a close frame. What the client sends before its own close frame is dropped."""
        if not may_be_sent(code):
            raise ValueError(f"websocket.close: {code} is no code that a close frame may have.")
        self._write(close_frame(code, reason))
        self._disconnect(code, reason)
        self._phase = _Phase.CLOSING
        self._room = 0
        self._resume_reading()
        self._set_timer(_CLOSE_TIMEOUT, self.transport.abort)

    def _fail(self, code: int, reason: str, *, lingers: bool = True) -> None:
        """Close the connection of a client that has broken the protocol (section 7.1.7)."""
        if self._phase is _Phase.CLOSING:
            self._finish()
        if self._phase is not _OPEN:
            return
        if code == CloseCode.MESSAGE_TOO_BIG:
            reason = f"A message may have at most {self._config.ws_max_size} bytes"
            advice = ' To allow more, raise WS_SUPPORT["MAX_MESSAGE_SIZE"].'
        else:
            advice = ""
        logger.info("Closed with %d: %s: path %.200a.%s", code, reason, self._scope["path"], advice)
        self._write(close_frame(code, reason))
        self._disconnect(code, reason)
        self._finish(lingers=lingers)

    def parser_failed(self, code: int, reason: str) -> None:
        # Reading is paused to save memory. Frames before the error are passed on first, and may be
        # answered.
        self.transport.pause_reading()
        # A client sends nothing more after a close frame, even after a malformed one.
        fail = partial(self._fail, code, reason, lingers=not reason.startswith("Received CLOSE"))
        self._loop.call_soon(self._loop.call_soon, fail)

    def _disconnect(self, code: int, reason: str = "") -> None:
        """Queue `websocket.disconnect` for the application, as the last message."""
        self._is_plain = False
        self._phase = _Phase.ENDED
        self._room = 0
        self._parts = bytearray()
        self._kind = self._decoder = None
        self._stop_timers()
        message = {"type": "websocket.disconnect", "code": int(code), "reason": reason}
        self._queue.append(message)
        self._wake()
        self._release()

    def _finish(self, *, lingers: bool = False) -> None:
        """Close TCP when everything has been sent.

        If `lingers` is true, the client's data is read for a while first, and dropped.
        """
        self._phase = _Phase.ENDED
        self._room = 0
        transport = self.transport
        if lingers and not transport.is_closing():
            # Closing a socket while data is unread resets the connection, and the client may not
            # see what was sent last. nginx and Caddy then reset their own clients, too.
            transport.set_protocol(self)
            transport.resume_reading()
            self._is_silent = True
            self._set_timer(SILENCE, self._linger, monotonic() + LINGER)
        else:
            self._set_timer(_CLOSE_TIMEOUT, transport.abort)
            transport.close()

    def _linger(self, until: float) -> None:
        if self._is_silent:
            self._finish()
        elif monotonic() > until:
            self.transport.abort()
        else:
            self._is_silent = True
            self._set_timer(SILENCE, self._linger, until)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server_state.connections.discard(self)
        if self._phase < _Phase.CLOSING:
            self._disconnect(CloseCode.ABNORMAL_CLOSURE)
        self._phase = _Phase.LOST
        self._room = 0
        self._stop_timers()
        self._release()

    def eof_received(self) -> None:
        """End the connection, since the client has ended its side of TCP.

        Such a client may never read what is sent, so the close has a time limit.
        """
        if self._phase < _Phase.CLOSING:
            self._disconnect(CloseCode.ABNORMAL_CLOSURE)
        self._finish()

    def shutdown(self) -> None:
        """Close the connection. Uvicorn calls this when it stops, and waits for the end of all."""
        if self._phase is _Phase.HANDSHAKE:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            self._refuse(status, status.phrase)
        if self._phase is _OPEN:
            self._close(CloseCode.SERVICE_RESTART, "")
        if self._phase is _Phase.CLOSING:
            self._set_timer(_LAST_WORDS, self.transport.abort)
        else:
            self.transport.close()

    # Keep-alive

    def _start_pings(self) -> None:
        interval = self._config.ws_ping_interval
        if interval:
            self._set_timer(max(interval - self.last_ping_rtt, 0), self._send_ping)

    def _send_ping(self) -> None:
        self._ping = os.urandom(4)
        self._pinged_at = monotonic()
        self._write(ping_frame(self._ping))
        timeout = self._config.ws_ping_timeout
        if timeout is None:
            self._start_pings()
        else:
            self._set_timer(timeout, self._miss_pong)

    def _on_pong(self, payload: bytes) -> None:
        if payload and payload == self._ping:
            self._ping = b""
            self.last_ping_rtt = monotonic() - self._pinged_at
            if self._config.ws_ping_timeout is not None:
                self._start_pings()

    def _miss_pong(self) -> None:
        if self._is_paused and self._blocked is None:
            # The pong may have come, unread: reading is paused, since the application is busy.
            self._set_timer(self._config.ws_ping_timeout or 0, self._miss_pong)
            return
        # No close frame: a client that does not answer a ping would not answer that either.
        self._disconnect(CloseCode.ABNORMAL_CLOSURE)
        self.transport.abort()

    # The transport and its flow control

    def pause_writing(self) -> None:
        self._blocked = asyncio.Event()
        self._room = 0

    def resume_writing(self) -> None:
        pong, self._late_pong = self._late_pong, b""
        if pong and self._phase is _OPEN:
            self._write(pong)
        self._release()

    def _release(self) -> None:
        if self._blocked is not None:
            self._blocked.set()
            self._blocked = None

    def _pause_reading(self) -> None:
        self._is_paused = True
        self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()

    def _set_timer(self, seconds: float, callback: Any, *arguments: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, callback, *arguments)

    def _stop_timers(self) -> None:
        for timer in (self._timer, self._shrinking):
            if timer is not None:
                timer.cancel()
        self._timer = self._shrinking = None

    # The buffer of picows only grows. A new parser has a small buffer, and replaces the old parser
    # when that has no data left: when the last read has ended with the end of a frame. Until then,
    # `_is_plain` is false, so that every frame is checked for that.

    def parser_has_grown(self) -> None:
        self._is_silent = False  # Until the read that follows ends with the end of a frame.
        if self._shrinking is None and self._phase is _OPEN:
            self._has_grown = True
            self._is_plain = False
            self._shrinking = self._loop.call_later(_SHRINK, self._shrink)

    def _shrink(self) -> None:
        if self._is_silent:
            self._shrinking = None
            self._has_grown = False
            self._is_plain = self._kind is None
            self.transport.set_protocol(Parser(self, self._config.ws_max_size))
        else:
            self._shrinking = self._loop.call_later(_SHRINK, self._shrink)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _coroutine(awaitable: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
    """Return `awaitable` as a coroutine, which a task can run."""
    return awaitable if asyncio.iscoroutine(awaitable) else _awaited(awaitable)


def _ends_with_a_close_frame(data: bytes) -> bool:
    """Return True if `data` ends with a masked close frame whose code may be sent."""
    for size in range(min(len(data) - 5, 126)):
        start = len(data) - size - 6
        if data[start : start + 2] == bytes((0x88, 0x80 | size)):
            code, mask = data[start + 6 : start + 8], data[start + 2 : start + 4]
            unmasked = bytes(byte ^ other for byte, other in zip(code, mask, strict=False))
            if not size or may_be_sent(int.from_bytes(unmasked, "big")):
                return True
    return False


_new_decoder: Final = codecs.getincrementaldecoder("utf-8")
