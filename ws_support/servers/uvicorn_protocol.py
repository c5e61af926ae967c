"""Uvicorn's side of a WebSocket (0.54), without what one client can do to the others."""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from typing import Any, Final, Literal

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

_PIECE: Final = 2**16
"""Bytes that are taken apart in one go."""

_TURN: Final = 0.002
"""Seconds after which others have their turn."""

_SENT: Final = 64
"""Messages that are sent in a row, before others have their turn: a client that reads as fast as it
is sent to never blocks whoever sends."""

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

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.writable = _Writable(self)

    def data_received(self, data: bytes) -> None:
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
        self._abort_in_time()

    def _abort_in_time(self) -> None:
        # What is unsent goes first, and a client that does not read would keep it for ever.
        if self.last_timer is None and self.transport.get_write_buffer_size():
            self.last_timer = self.loop.call_later(_LAST_TIMEOUT, self.transport.abort)

    def eof_received(self) -> None:
        self._abort_in_time()
        if self.handshake_complete and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        # Whoever waits to send hears of it now, and not when the client reads again.
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.last_timer is not None:
            self.last_timer.cancel()
        self._let_go()
        # Uvicorn reports a connection that was lost after its handshake as 1005.
        self.handshake_complete = False
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        """End a connection whose client does not answer a ping, as if TCP had ended.

        Uvicorn sends it a close frame with 1011, which is that of a server that has failed.
        """
        self.pong_timer = self.pending_ping_payload = None
        if not self.close_sent and not self.transport.is_closing():
            self.transport.abort()

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


class _Writable(asyncio.Event):
    """What `send()` of Uvicorn waits for first, each time."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__()
        self.set()
        self.protocol = protocol
        self.sent = 0

    async def wait(self) -> Literal[True]:
        """Wait until more can be sent, and now and then for the others' turn.

        Uvicorn writes to a transport that is closing, which drops that without a word: a loop that
        awaits nothing else would go on for ever, and nobody would hear of the end.
        """
        self.sent += 1
        protocol = self.protocol
        if self.sent > _SENT or not self.is_set() or protocol.transport.is_closing():
            self.sent = 0
            await asyncio.sleep(0)
            await super().wait()
            if protocol.transport.is_closing():
                raise ClientDisconnected
        return True


class _Held:
    """A transport that does not read, since what it has read is not taken apart yet."""

    def __init__(self, transport: Any, resume_reading: Any) -> None:
        self.transport = transport
        self.resume_reading = resume_reading

    def pause_reading(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)
