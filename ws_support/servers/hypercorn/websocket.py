"""WebSockets in Hypercorn (0.18), with limits that protect other clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

from hypercorn.protocol import h2, ws_stream
from hypercorn.protocol.events import Body, Data, EndBody, EndData, Request, Response, StreamClosed
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from ws_support._protocol import handshake as handshakes
from ws_support.servers._run.leftovers import Leftovers
from ws_support.servers.hypercorn.deflate import Deflate, agree

logger = logging.getLogger("ws_support.servers")

_LAST_TIMEOUT: Final = 5.0
"""Seconds that a client which has broken the protocol has to end its TCP connection."""


def install() -> None:
    h2.WSStream = WSStream  # type: ignore[attr-defined]
    ws_stream.Handshake = Handshake  # type: ignore[misc]
    ws_stream.WebsocketBuffer = WebsocketBuffer  # type: ignore[misc]


class Handshake(ws_stream.Handshake):
    """A handshake that reads all lines of a header.

    `deflate` is the compression that was agreed on; `None`: no compression.
    """

    deflate: Deflate | None = None

    def __init__(self, headers: list[tuple[bytes, bytes]], http_version: str) -> None:
        super().__init__(headers, http_version)
        self.request = handshakes.Request(b"", b"", headers)
        self.extensions = None  # wsproto (1.3) raises an error for a quoted parameter.
        self.subprotocols = self.request.subprotocols

    def is_valid(self) -> bool:
        """Return True, since invalid handshakes have been refused before."""
        return True

    def accept(
        self, subprotocol: str | None, additional_headers: Any
    ) -> tuple[int, list[tuple[bytes, bytes]], Connection]:
        status, headers, _ = super().accept(subprotocol, additional_headers)
        if self.deflate is None:
            return status, headers, Connection(ConnectionType.SERVER)
        headers.append((b"sec-websocket-extensions", self.deflate.answer))
        return status, headers, Connection(ConnectionType.SERVER, [self.deflate])


class WebsocketBuffer(ws_stream.WebsocketBuffer):
    """A buffer whose size limit counts bytes.

    Hypercorn 0.18 counts the characters of a text, each of which may have four bytes.
    """

    def extend(self, event: Message[Any]) -> None:
        super().extend(event)
        if isinstance(event.data, str) and not event.data.isascii():
            self.length += len(event.data.encode()) - len(event.data)
            if self.length > self.max_length:
                raise ws_stream.FrameTooLargeError


class WSStream(ws_stream.WSStream):
    """One WebSocket."""

    handshake: Handshake
    is_cut_off = False
    """True if the client has ended its HTTP/2 stream without a close frame."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._leftovers = Leftovers()
        self._timer: asyncio.Task[Any] | None = None
        # The client's close frame.
        self._said: CloseConnection | None = None
        self._take: Callable[[Any], Coroutine[Any, Any, None]] = self._take_early

    def handle(self, event: Any) -> Coroutine[Any, Any, None]:
        # Not a coroutine of its own, which every message would have to pass through.
        kind = type(event)
        if kind is Data or kind is Body:
            return self._take(event)
        if kind is Request:
            return self._open(event)
        if kind is StreamClosed:
            return self._close(event)
        return self._cut_off()  # EndBody

    async def _open(self, request: Request) -> None:
        try:
            _validate(request)
        except handshakes.Refused as refused:
            logger.warning("Refused with %d: %s", refused.status, refused.reason)
            self.closed = True
            await self._refuse(refused, request.http_version)
        else:
            await super().handle(request)

    async def _refuse(self, refused: handshakes.Refused, http_version: str) -> None:
        content = f"{refused.reason}\n".encode()
        headers = [
            *refused.headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(content)),
        ]
        if http_version != "2":  # HTTP/2 has no Connection header (RFC 9113, section 8.2.2).
            headers.append((b"connection", b"close"))
        stream_id = self.stream_id
        await self.send(Response(stream_id, headers=headers, status_code=refused.status))
        await self.send(Body(stream_id, data=content))
        await self.send(EndBody(stream_id))
        await self.send(StreamClosed(stream_id))

    async def _take_early(self, event: Data | Body) -> None:
        """Refuse a client that sends data before its handshake is answered.

        Hypercorn 0.18 refuses such a client, too, but does not tell the application, which then
        waits for ever.
        """
        is_waiting = self.state is ws_stream.ASGIWebsocketState.HANDSHAKE and not self.closed
        if event.data and is_waiting:
            await self._send_error_response(HTTPStatus.BAD_REQUEST)
            await self.send(StreamClosed(self.stream_id))

    async def _cut_off(self) -> None:
        """End the WebSocket, since the client has ended its HTTP/2 stream.

        The end of a stream stands for the end of TCP (RFC 8441, section 5).
        """
        if not self.closed:
            self.is_cut_off = True
            await self.send(StreamClosed(self.stream_id))

    async def _close(self, event: StreamClosed) -> None:
        if self._timer is not None:
            # In the next turn, since the timer's own task may have come here. Hypercorn 0.18 lets
            # the ping task sleep until the next ping, which keeps the connection in memory.
            asyncio.get_running_loop().call_soon(self._timer.cancel)
        if self.app_put is not None and not self.closed:
            self._let_in_the_end()
        said = self._said
        if self.closed or said is None:
            await super().handle(event)
            return
        # Hypercorn reports 1006, whatever close code the client has sent.
        self.closed = True
        await self._put_end(said.code, said.reason)

    async def _put_end(self, code: int, reason: str | None) -> None:
        await self.app_put(  # type: ignore[misc]
            {"type": "websocket.disconnect", "code": int(code), "reason": reason or ""}
        )

    def _let_in_the_end(self) -> None:
        """Let `websocket.disconnect` into a queue that is full.

        An application that only sends never makes room in its queue.
        """
        self.app_put.let_in_the_end()  # type: ignore[union-attr]

    def app_send(self, message: Any) -> Coroutine[Any, Any, None]:
        # Not a coroutine either, for the same reason as `handle()`. After the end, Hypercorn's
        # `send()` returns at once without an error.
        if self.closed and message is not None:
            return self._leftovers.drop()
        return super().app_send(message)

    async def _send_wsproto_event(self, event: Any) -> None:
        try:
            data = self.connection.send(event)
        except LocalProtocolError:
            # A close frame has been sent or received. Hypercorn returns at once here, too.
            if isinstance(event, Message):
                await self._leftovers.drop()
        else:
            await self.send(Data(self.stream_id, data))

    async def _accept(self, message: Any) -> None:
        if self.config.per_message_deflate:  # type: ignore[attr-defined]
            limit = self.config.websocket_max_message_size
            self.handshake.deflate = agree(self.handshake.request.extensions, limit)
        self._take = super().handle
        await super()._accept(message)

    async def _send_pings(self) -> None:
        self._timer = asyncio.current_task()
        await super()._send_pings()

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if isinstance(event, Message):
                try:
                    self.buffer.extend(event)
                except ws_stream.FrameTooLargeError:
                    await self._fail(CloseReason.MESSAGE_TOO_BIG, "")
                    return
                if event.message_finished:
                    message = self.buffer.to_message()
                    self.buffer.clear()
                    await self.app_put(message)  # type: ignore[misc]
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                if self.connection.state is ConnectionState.OPEN:
                    # The client has broken the protocol. Hypercorn 0.18 cuts such a client off
                    # without a close frame.
                    await self._fail(event.code, event.reason)
                    return
                self._said = event
                if self.connection.state is ConnectionState.REMOTE_CLOSING:
                    await self._send_wsproto_event(event.response())
                await self.send(StreamClosed(self.stream_id))
            if self.closed:
                return

    async def _fail(self, code: int, reason: str | None) -> None:
        """Close with `code` on both sides, and ignore what the client still sends."""
        if self.state is not ws_stream.ASGIWebsocketState.CONNECTED:
            await self.send(StreamClosed(self.stream_id))
            return
        await self._send_wsproto_event(CloseConnection(code, reason))
        if self.closed:
            return
        self.closed = True
        self._let_in_the_end()
        if self._timer is not None:
            self._timer.cancel()
        self.task_group.spawn(self._hang_up)
        await self._put_end(code, reason)

    async def _hang_up(self) -> None:
        self._timer = asyncio.current_task()
        # Closing TCP while data is unread resets the connection, and the close frame may be lost.
        await self.send(EndData(self.stream_id))
        await asyncio.sleep(_LAST_TIMEOUT)
        await self.send(StreamClosed(self.stream_id))


def _validate(request: Request) -> None:
    """Raise `Refused` unless `request` opens a WebSocket (RFC 6455, 4.2.1; RFC 8441, 5)."""
    method, headers = request.method.encode(), request.headers
    if request.http_version == "2":
        # HTTP/2 has no key and no Host header, and `Request` checks both.
        method = b"GET"
        headers = [each for each in headers if each[0] not in (b"host", b"sec-websocket-key")]
        headers += [(b"host", b""), (b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA==")]
    elif request.http_version != "1.1":
        raise handshakes.Refused(HTTPStatus.BAD_REQUEST, "A WebSocket is opened with HTTP/1.1.")
    handshakes.Request(method, request.raw_path, headers).key()
