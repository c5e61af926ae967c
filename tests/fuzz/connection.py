"""`PicowsProtocol` between a client that does anything, and an application that does, too.

All in one process and without a network: some thousand connections a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from tests.fuzz.model import CLOSE, PING, PONG, TEXT, expect, frames_of
from ws_support.servers.picows import protocol
from ws_support.servers.picows.protocol import PicowsProtocol, _Phase

MAX_SIZE = 300
REQUEST = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


# So that little data is enough to get there.
protocol._WAITING = 300
protocol._TURN = 4


class Transport:
    """What asyncio promises of a transport, and no more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.protocol: Any = None
        self.sent = b""
        self.is_reading = True
        self._is_closing = False
        self.is_lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes) -> None:
        if not self._is_closing:
            self.sent += data

    def writelines(self, lines: Any) -> None:
        self.write(b"".join(lines))

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self.lose)

    abort = close

    def lose(self) -> None:
        self._is_closing = True
        if not self.is_lost:
            self.is_lost = True
            self.protocol.connection_lost(None)


Application = Callable[["Connection"], Awaitable[None]]


class Connection:
    """One connection, accepted at once or when the application does it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        application: Application,
        max_size: int = MAX_SIZE,
    ) -> None:
        self.loop = loop
        self.application = application
        self.received: list[Any] = []
        self.readers: list[asyncio.Future[Any]] = []
        self.disconnects: list[Any] = []
        self.fed = b""
        self.errors: list[Any] = []
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        config = Config(
            self._asgi,
            interface="asgi3",
            ws=PicowsProtocol,
            ws_max_size=max_size,
            ws_ping_interval=None,
            log_config=None,
            proxy_headers=False,
        )
        self.state = ServerState()
        self.transport = Transport(loop)
        self.protocol = PicowsProtocol(config, self.state, {}, loop)
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)
        self.waiting = b""

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.receive, self.send = receive, send
        await self.application(self)

    async def next(self) -> Any:
        """What the application receives."""
        message = await self.receive()
        if message["type"] == "websocket.disconnect":
            self.disconnects.append(message)
        elif message["type"] == "websocket.receive":
            text = message.get("text")
            self.received.append(message["bytes"] if text is None else text)
        return message

    def feed(self, data: bytes, turns: int = 4) -> None:
        """From the client, as far as it is read."""
        self.waiting += data
        self.deliver(turns)

    def deliver(self, turns: int = 4) -> None:
        transport = self.transport
        while self.waiting and transport.is_reading and not transport.is_closing():
            if isinstance(transport.protocol, asyncio.Protocol):
                data, self.waiting = self.waiting, b""
                if not self.is_ended:
                    self.fed += data
                transport.protocol.data_received(data)
            else:
                room = transport.protocol.get_buffer(-1)
                size = min(len(room), len(self.waiting))
                room[:size] = self.waiting[:size]
                self.fed += self.waiting[:size]
                self.waiting = self.waiting[size:]
                transport.protocol.buffer_updated(size)
            self.turn(turns)

    @property
    def is_ended(self) -> bool:
        return self.transport.is_closing() or self.protocol._phase >= _Phase.ENDED

    def turn(self, count: int = 4) -> None:
        """Let the event loop run until nothing is to be done."""
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()


class Records(logging.Handler):
    """Errors in the log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


async def echo(connection: Connection) -> None:
    await connection.next()
    await connection.send({"type": "websocket.accept"})
    while (message := await connection.next())["type"] == "websocket.receive":
        with suppress(OSError):
            await connection.send({**message, "type": "websocket.send"})


def check_echo(connection: Connection, *, is_lost: bool) -> None:
    """That `echo` was told all, and the client what it has to be."""
    expected = expect(connection.fed, MAX_SIZE)
    head, _, rest = connection.transport.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    frames = frames_of(rest)
    closes = [payload for opcode, payload in frames if opcode == CLOSE]
    pongs = [payload for opcode, payload in frames if opcode == PONG]
    echoes = [
        payload.decode() if opcode == TEXT else payload
        for opcode, payload in frames
        if opcode < CLOSE
    ]
    assert not [opcode for opcode, _ in frames if opcode == PING]
    assert connection.received == expected.messages
    assert echoes == expected.messages[: len(echoes)]
    assert pongs == expected.pings
    assert connection.errors == [], connection.errors
    if not expected.is_over:
        assert closes == []
        assert echoes == expected.messages
        assert len(connection.disconnects) == is_lost
        if is_lost:
            assert connection.disconnects[0]["code"] == 1006
        return
    assert len(closes) == 1
    assert frames[-1][0] == CLOSE
    assert len(connection.disconnects) == 1
    message = connection.disconnects[0]
    code = int.from_bytes(closes[0][:2], "big") if closes[0] else 1005
    if expected.closed_with is not None:
        assert (code, closes[0][2:].decode()) == expected.closed_with
        assert (message["code"], message["reason"]) == expected.closed_with
    else:
        assert code in (expected.broken_with or ())
        assert message["code"] == code
