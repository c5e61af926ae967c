"""Connections that are there, were used once, and do nothing."""

from __future__ import annotations

import asyncio

from benchmarks.load.connections import Connection, connect, goodbye, wait_for_all
from benchmarks.usage import private_memory


async def memory(
    port: int, processes: list[int], *, connections: int, message_size: int
) -> dict[str, float]:
    """Measure what `connections` add to the server, each used for one echo of `message_size` bytes.

    A quarter as many are there before: by then whatever is loaded once is loaded, and the room that
    the start left in the heap is filled.

    Raises `LoadFailed` when something else comes back, or a connection is lost.
    """
    first = await _used_connections(port, connections // 4, message_size)
    before = private_memory(processes)
    others = await _used_connections(port, connections, message_size)
    added = private_memory(processes) - before
    await goodbye(first + others)
    return {
        "bytes_per_connection": added / connections,
        "bytes_before": before,
    }


async def _used_connections(port: int, count: int, size: int) -> list[_Single]:
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    opened = await connect(port, lambda message: _Single(message, failed), count, size)
    for connection in opened:
        connection.send()
    await wait_for_all([connection.echo for connection in opened], failed)
    return opened


class _Single(Connection):
    def __init__(self, message: bytes, failed: asyncio.Future[None]) -> None:
        super().__init__(message, failed)
        self.echo: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def echoed(self) -> None:
        self.echo.set_result(None)
