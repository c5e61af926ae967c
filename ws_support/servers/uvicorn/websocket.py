"""WebSockets in Uvicorn (0.54, websockets-sansio), with limits that protect other clients."""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio import TimerHandle
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.protocol import State

from ws_support._asgi import add_direct, remove_direct
from ws_support._protocol.handshake import Refused, Request, refusal
from ws_support._queued_text import SLACK, UTF_8, unpacked

if TYPE_CHECKING:
    from websockets.http11 import Request as WebSocketsRequest

logger = logging.getLogger("ws_support.servers")

_PIECE: Final = 2**16
"""Bytes that are parsed at once, at most."""

_TURN: Final = 0.002
"""Seconds of parsing after which other tasks get a turn."""

_WAITING: Final = 2**16
"""Bytes of messages that may wait for the application before parsing is paused."""

_SENT: Final = 64
"""Messages that are sent in a row, before other tasks get a turn: `send()` never waits for a client
that reads fast enough."""

_LAST_TIMEOUT: Final = 10.0
"""Seconds that a client has to read what was sent before its connection was closed."""


class Protocol(WebSocketsSansIOProtocol):
    """Uvicorn's protocol, with one pong in memory instead of all, and long reads parsed in pieces.

    Uvicorn 0.54 keeps all pongs until the client reads them: 25 MB a second for a client that
    floods the server with pings and reads nothing. Only the last ping has to be answered (RFC 6455,
    section 5.5.3).

    Uvicorn 0.54 reads 256 KiB at a time, which may be 37,000 messages, and serves no other
    connection before all of them are parsed and answered. Compressed messages may become 1,000
    times as large: this protocol inflates them one by one, and pauses while 64 KiB of inflated
    messages wait.
    """

    late_pong = b""
    last_timer: TimerHandle | None = None
    unread: memoryview | None = None
    """Data that was read and is not parsed yet. Reading is paused meanwhile."""
    head = b""
    """The beginning of a frame's head, if a read has ended within that head."""
    left = 0
    """Bytes of the current frame that are not parsed yet."""
    waiting = 0
    """Bytes of the messages that wait for the application, as they are held."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.writable = _Writable(self)

    def _begin(self, data: bytes) -> None:
        """Refuse the handshake, or pass it to `websockets` and start the application.

        `websockets` takes no line of more than 8 KiB and no more than 128 headers, and does not
        answer a request with a body. So it gets only the headers that it needs, and chooses the
        extensions.
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
        # `websockets` would log headers and messages at the level DEBUG.
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
        if len(data) <= _PIECE and not self.conn.extensions:
            super().data_received(data)
        else:
            self.unread = memoryview(data)
            self._go_on()

    def _go_on(self) -> None:
        end = self.loop.time() + _TURN
        while self.unread and not self.transport.is_closing():
            size = self._rest_of_frame() if self.conn.extensions else _PIECE
            piece, self.unread = self.unread[:size], self.unread[size:]
            super().data_received(piece)  # type: ignore[arg-type]
            is_full = self.read_paused and self.waiting > _WAITING
            if self.unread and (is_full or self.loop.time() > end):
                self._hold()
                return
        self._let_go()

    def _rest_of_frame(self) -> int:
        """Return how many bytes to parse next: at most to the end of the current frame."""
        unread = self.unread or b""
        if not self.left:
            head = self.head + bytes(unread[:14])
            if (size := _size_of_frame(head)) is None:
                self.head = head
                return len(unread)
            self.left = size - len(self.head)
            self.head = b""
        taken = min(self.left, _PIECE, len(unread))
        self.left -= taken
        return taken

    def _hold(self) -> None:
        if not isinstance(self.transport, _Held):
            self.transport.pause_reading()
            self.transport = _Held(self.transport, self._go_on_soon)  # type: ignore[assignment]
        if not self.read_paused:
            self._go_on_soon()
        # Otherwise parsing goes on when the application has received everything: `receive()`
        # resumes reading then.

    def _go_on_soon(self) -> None:
        self.loop.call_soon(self._go_on)

    def _let_go(self) -> None:
        self.unread = None
        if isinstance(self.transport, _Held):
            self.transport = self.transport.transport
            if not self.read_paused:
                self.transport.resume_reading()

    def handle_cont(self, event: Frame) -> None:
        # Fragments are joined at once, so many short ones take no more than their sum.
        frames: list[Any] = self.frames
        if type(frames[0]) is not bytearray:
            frames[0] = bytearray(frames[0])
        frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        [data], self.frames = self.frames, []
        if self.close_sent:
            return
        message: Any
        if self.curr_msg_data_type == "text":
            try:
                text = data.decode()
            except UnicodeDecodeError:
                self.logger.exception("Invalid UTF-8 sequence received from client.")
                self.conn.send_close(1007)
                self.handle_parser_exception()
                return
            size = sys.getsizeof(text)
            if size > len(data) + SLACK:
                # Python stores every character of a str in as many bytes as the widest one needs.
                message = {UTF_8: data}
                size = len(data)
            else:
                message = {"type": "websocket.receive", "text": text}
        else:
            message = {"type": "websocket.receive", "bytes": bytes(data)}
            size = len(data)
        if self.read_paused:
            self.waiting += size
        else:
            self.waiting = size
            self.read_paused = True
            self.transport.pause_reading()
        self.queue.put_nowait(message)

    async def receive(self) -> Any:
        message: Any = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()
        return unpacked(message) if UTF_8 in message else message

    def write_frame(self, frame: bytes) -> bool:
        """Write a frame that many connections share. Return False if that was not possible.

        With compression, each connection has frames of its own (RFC 7692, section 7.2.3.2).
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
        add_direct(self.scope, self)
        await super().run_asgi()
        remove_direct(self.scope)
        self._abort_in_time()

    def _abort_in_time(self) -> None:
        # The transport sends its buffer before it closes: a client that does not read would keep
        # the connection open for ever.
        if self.last_timer is None and self.transport.get_write_buffer_size():
            self.last_timer = self.loop.call_later(_LAST_TIMEOUT, self.transport.abort)

    def eof_received(self) -> None:
        self._abort_in_time()
        if self.handshake_complete and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        # A task that waits in send() learns of the end now, not when the client reads again.
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.last_timer is not None:
            self.last_timer.cancel()
        self._let_go()
        # Uvicorn reports a connection that was lost after its handshake as 1005.
        self.handshake_complete = False
        super().connection_lost(exc)

    def shutdown(self) -> None:
        # Uvicorn 0.54 sends a close frame here also after that of the client, for which websockets
        # raises InvalidState: no other connection would be closed, and the server would end with a
        # traceback. Such a connection stays while its client does not read, or does not end TLS.
        if self.handshake_complete and not self.close_sent and self.conn.state is not State.OPEN:
            self.stop_keepalive()
            self.transport.close()
            return
        super().shutdown()

    def keepalive_timeout(self) -> None:
        """Abort a connection whose client does not answer a ping.

        Uvicorn 0.54 sends a close frame with 1011, which is the code of a server that has failed.
        """
        self.transport.abort()

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        elif pongs := self.conn.data_to_send():
            # The first ping of a read finds the pongs for all pings of that read.
            self.late_pong = pongs[-1]

    def resume_writing(self) -> None:
        super().resume_writing()
        pong, self.late_pong = self.late_pong, b""
        if pong and not self.close_sent:
            self.transport.write(pong)


def _size_of_frame(head: bytes) -> int | None:
    """Return the size in bytes of the frame that begins with `head`, or `None` if unknown."""
    if len(head) < 2:
        return None
    size, start = head[1] & 0x7F, 6
    if size > 125:
        length = 2 if size == 126 else 8
        if len(head) < 2 + length:
            return None
        size, start = int.from_bytes(head[2 : 2 + length], "big"), 6 + length
    return start + size


class _Writable(asyncio.Event):
    """The event for which Uvicorn's `send()` waits before each message."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__()
        self.set()
        self.protocol = protocol
        self.sent = 0

    async def wait(self) -> Literal[True]:
        """Wait until more can be sent, and give other tasks a turn after every 64 messages.

        Raises `ClientDisconnected` when the transport is closing. Uvicorn 0.54 writes to a closing
        transport, which drops the data without an error: an application that only sends would go on
        for ever, block the event loop, and never learn of the end.
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
    """A transport that does not read, since the data of its last read is not parsed yet."""

    def __init__(self, transport: Any, resume_reading: Any) -> None:
        self.transport = transport
        self.resume_reading = resume_reading

    def pause_reading(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)
