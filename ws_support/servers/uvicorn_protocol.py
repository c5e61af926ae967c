"""Uvicorn's side of a WebSocket (0.54), without what one client can do to the others."""

from __future__ import annotations

import logging
from asyncio import TimerHandle
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from ws_support.servers.picows_handshake import Refused, Request, refusal

if TYPE_CHECKING:
    from websockets.http11 import Request as WebSocketsRequest

logger = logging.getLogger("ws_support.servers")

_PIECE: Final = 2**16
"""Bytes that are taken apart in one go."""

_TURN: Final = 0.002
"""Seconds after which others have their turn."""


_LAST_TIMEOUT: Final = 10.0
"""Seconds that a client has for reading what was sent before its connection was closed."""


class Protocol(WebSocketsSansIOProtocol):
    """Keeps the last pong instead of all, and takes long reads apart piece by piece.

    Uvicorn keeps its answers to pings until they are read: 25 MB a second for a client that floods
    it with them and reads nothing. The last ping is the one that has to be answered (RFC 6455,
    section 5.5.3).

    It reads 256 KiB at a time, which may be 37,000 messages, and nobody else is served before they
    are taken apart and answered.
    """

    late_pong = b""
    last_timer: TimerHandle | None = None
    unread: memoryview | None = None
    """What was read and is not taken apart yet. Nothing more comes meanwhile."""

    def _begin(self, data: bytes) -> None:
        """Answer the handshake, or begin with it.

        `websockets` takes no line of more than 8 KiB and no more than 128 headers, and has no
        answer for a request with a body. It gets to see what it has to, and decides what
        extensions there are.
        """
        self.handshake_initiated = True
        request = Request.parse(data.partition(b"\r\n\r\n")[0])
        try:
            key = request.key()
        except Refused as refused:
            logger.info(
                "Refused with %d: %s: path %.200a.", refused.status, refused.reason, request.path
            )
            self.handshake_complete = self.close_sent = True
            headers = [*self.default_headers, *refused.headers]
            self.transport.write(refusal(refused.status, refused.reason, headers))
            self.transport.close()
            return
        # It would log headers and messages at DEBUG.
        self.conn.debug = False
        self.conn.receive_data(b"GET / HTTP/1.1\r\n\r\n")
        asked = cast("WebSocketsRequest", self.conn.events_received()[0])
        asked.headers.update(
            {
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": key.decode("ascii"),
            }
        )
        if request.extensions:
            asked.headers["Sec-WebSocket-Extensions"] = b", ".join(request.extensions).decode()
        self.response = self.conn.accept(asked)
        self.scope = {
            **request.scope(self.root_path),  # type: ignore[typeddict-item]
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "state": self.app_state.copy(),
        }
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self._begin(data)
            return
        if len(data) <= _PIECE:
            super().data_received(data)
        else:
            self.unread = memoryview(data)
            self._go_on()

    def _go_on(self) -> None:
        end = self.loop.time() + _TURN
        while self.unread and not self.transport.is_closing():
            piece, self.unread = self.unread[:_PIECE], self.unread[_PIECE:]
            super().data_received(piece)  # type: ignore[arg-type]
            if self.unread and self.loop.time() > end:
                self._hold()
                return
        self._let_go()

    def _hold(self) -> None:
        if not isinstance(self.transport, _Held):
            self.transport.pause_reading()
            self.transport = _Held(self.transport, self._go_on_soon)  # type: ignore[assignment]
        if not self.read_paused:
            self._go_on_soon()
        # Else when the application has received what is there, and reading is resumed.

    def _go_on_soon(self) -> None:
        self.loop.call_soon(self._go_on)

    def _let_go(self) -> None:
        self.unread = None
        if isinstance(self.transport, _Held):
            self.transport = self.transport.transport
            if not self.read_paused:
                self.transport.resume_reading()

    def write_frame(self, frame: bytes) -> bool:
        """Write the frame of a message of which everybody gets the same; whether that could be.

        Compressed, each connection has one of its own (RFC 7692, section 7.2.3.2).
        """
        conn = self.conn
        if (
            conn.state is not State.OPEN
            or conn.extensions
            or self.disconnected
            or not self.writable.is_set()
        ):
            return False
        self.transport.write(frame)
        return True

    async def run_asgi(self) -> None:
        await super().run_asgi()
        # What is unsent goes first, and a client that does not read would keep it for ever.
        if self.transport.get_write_buffer_size():
            self.last_timer = self.loop.call_later(_LAST_TIMEOUT, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.last_timer is not None:
            self.last_timer.cancel()
        self._let_go()
        super().connection_lost(exc)

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        elif pongs := self.conn.data_to_send():
            # The first ping of a read finds the answers to all.
            self.late_pong = pongs[-1]

    def resume_writing(self) -> None:
        super().resume_writing()
        pong, self.late_pong = self.late_pong, b""
        if pong and not self.close_sent:
            self.transport.write(pong)


class _Held:
    """A transport that does not read, since what it has read is not taken apart yet."""

    def __init__(self, transport: Any, resume_reading: Any) -> None:
        self.transport = transport
        self.resume_reading = resume_reading

    def pause_reading(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)
