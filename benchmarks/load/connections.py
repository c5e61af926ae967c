"""WebSocket connections of the load, with picows: a small part of what the servers cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks import Failed
from benchmarks.applications import HOST, ORIGIN
from benchmarks.load.dialects import DIALECTS, Dialect

_AT_ONCE = 50
"""Handshakes under way at a time: every server has room for as many in its backlog."""

_TIMEOUT = 30.0
"""Seconds for a handshake or a goodbye, also on a busy machine."""


_TEXT: Final = DIALECTS["text"]
_PINGS: Final = (b'{"type":6}\x1e', b"\x02\x91\x06", b"{}\x1e")
"""What hubs send now and then, in JSON and in MessagePack, and the answer to a handshake with which
something else was asked for."""


class Connection(WSListener):
    """One connection that sends `message` and expects it back, or another answer that `connect()`
    knows. `failed` learns what went wrong."""

    transport: WSTransport
    kind = WSMsgType.TEXT

    def __init__(self, message: bytes, failed: asyncio.Future[None]) -> None:
        super().__init__()
        self.message = self.answer = message
        self.welcomed: asyncio.Future[None] | None = None
        """Done when the hub has answered the handshake."""
        self.leaving = False
        self.last_echo: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when nothing is on its way any more."""
        self._failed = failed

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    async def greet(self, dialect: Dialect) -> None:
        """Make the handshake of a hub."""
        self.welcomed = asyncio.get_running_loop().create_future()
        self._welcome = dialect.welcome
        self.transport.send(dialect.kind, dialect.hello)
        await asyncio.wait_for(self.welcomed, _TIMEOUT)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if payload == self.answer and frame.msg_type is self.kind:
            self.echoed()
        elif self.welcomed is not None and not self.welcomed.done() and payload == self._welcome:
            self.welcomed.set_result(None)
        elif self.welcomed is not None and payload in _PINGS:
            pass
        elif frame.msg_type is WSMsgType.CLOSE:
            if not self.leaving:
                self.fail(f"The server closed with {frame.get_close_code()}.")
            transport.disconnect()
        else:
            self.fail(f"Not {self.answer!r}: {frame} {payload!r}")

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.leaving:
            self.fail("The server cut off a connection.")

    def send(self) -> None:
        self.transport.send(self.kind, self.message)

    def echoed(self) -> None:
        """Take note that the message came back, when it was the only one."""
        self.last_echo.set_result(None)

    def leave(self) -> None:
        """Say goodbye; the server's answer ends the connection."""
        self.leaving = True
        self.transport.send_close(WSCloseCode.OK)

    def fail(self, reason: str) -> None:
        if not self._failed.done():
            self._failed.set_exception(Failed(reason))


ConnectionType = TypeVar("ConnectionType", bound=Connection)


async def connect(
    port: int,
    new: Callable[[bytes], ConnectionType],
    count: int,
    size: int,
    path: str,
    dialect: Dialect = _TEXT,
) -> list[ConnectionType]:
    """Open `count` connections, made by `new` from a message with a text of `size` bytes.

    Raises `Failed` when one is refused, or would be compressed.
    """
    room = asyncio.Semaphore(_AT_ONCE)
    # No two are equal: nobody gets away with another's echo.
    texts = [f"{number:06d} ".ljust(size, ".") for number in range(count)]
    exchanges = [dialect.exchange(text[:6], text) for text in texts]

    async def connect_one(message: bytes, answer: bytes) -> ConnectionType:
        async with room:
            try:
                transport, connection = await ws_connect(
                    lambda: new(message),
                    f"ws://{HOST}:{port}{path}",
                    extra_headers={"Origin": ORIGIN},
                    websocket_handshake_timeout=_TIMEOUT,
                )
            except (OSError, WSError, asyncio.TimeoutError) as error:
                raise Failed(f"No connection: {error!r}") from error
        if "Sec-WebSocket-Extensions" in transport.response.headers:
            raise Failed("The server compresses what nobody asked to have compressed.")
        connection.answer, connection.kind = answer, dialect.kind  # type: ignore[attr-defined]
        if dialect.hello:
            await connection.greet(dialect)  # type: ignore[attr-defined]
        return connection  # type: ignore[return-value]

    return await asyncio.gather(*(connect_one(*exchange) for exchange in exchanges))


async def goodbye(connections: Iterable[Connection]) -> None:
    """End them all with a closing handshake. Raises `Failed` when one is not answered."""
    waiting = []
    for connection in connections:
        connection.leave()
        waiting.append(asyncio.ensure_future(connection.transport.wait_disconnected()))
    _, pending = await asyncio.wait(waiting, timeout=_TIMEOUT)
    if pending:
        raise Failed(f"{len(pending)} close frames were not answered in {_TIMEOUT:g} s.")


async def wait_until(what: Awaitable[Any], failed: asyncio.Future[None]) -> None:
    """Wait for `what`. Raises `Failed` when a connection fails, or it takes too long."""
    awaited = asyncio.ensure_future(what)
    either: set[asyncio.Future[Any]] = {awaited, failed}
    await asyncio.wait(either, timeout=_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        failed.result()
    if not awaited.done():
        raise Failed(f"The server has not answered everything in {_TIMEOUT:g} s.")
    awaited.result()


async def wait(failed: asyncio.Future[None], seconds: float) -> None:
    """Let the load run. Raises `Failed` as soon as a connection fails."""
    await asyncio.wait({failed}, timeout=seconds)
    if failed.done():
        failed.result()
