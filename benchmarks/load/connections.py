"""WebSocket connections of the load, with picows: a small part of what the servers cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks import Failed
from benchmarks.applications import HOST, ORIGIN

_AT_ONCE = 50
"""Handshakes under way at a time: every server has room for as many in its backlog."""

_TIMEOUT = 30.0
"""Seconds for a handshake or a goodbye, also on a busy machine."""


class Connection(WSListener):
    """One connection that sends `message` and expects it back. `failed` learns what went wrong."""

    transport: WSTransport

    def __init__(self, message: bytes, failed: asyncio.Future[None]) -> None:
        super().__init__()
        self.message = message
        self.leaving = False
        self.last_echo: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when nothing is on its way any more."""
        self._failed = failed

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.get_payload_as_bytes() == self.message and frame.msg_type is WSMsgType.TEXT:
            self.echoed()
        elif frame.msg_type is WSMsgType.CLOSE:
            if not self.leaving:
                self.fail(f"The server closed with {frame.get_close_code()}.")
            transport.disconnect()
        else:
            self.fail(f"Not an echo of {self.message!r}: {frame}")

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.leaving:
            self.fail("The server cut off a connection.")

    def send(self) -> None:
        self.transport.send(WSMsgType.TEXT, self.message)

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
    port: int, new: Callable[[bytes], ConnectionType], count: int, size: int, path: str
) -> list[ConnectionType]:
    """Open `count` connections, made by `new` from a message of `size` bytes.

    Raises `Failed` when one is refused, or would be compressed.
    """
    room = asyncio.Semaphore(_AT_ONCE)
    # No two are equal: nobody gets away with another's echo.
    messages = [f"{number:06d} ".encode().ljust(size, b".") for number in range(count)]

    async def connect_one(message: bytes) -> ConnectionType:
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
        return connection  # type: ignore[return-value]

    return await asyncio.gather(*(connect_one(message) for message in messages))


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
