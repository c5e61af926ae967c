"""Connections that are there, were used once, and do nothing."""

from __future__ import annotations

import asyncio

from benchmarks.load.connections import Connection, connect, goodbye, wait_until
from benchmarks.load.dialects import DIALECTS
from benchmarks.usage import private_memory


async def memory(
    port: int,
    processes: list[int],
    *,
    path: str,
    idle: int,
    message_size: int,
    dialect: str = "text",
) -> dict[str, float]:
    """Measure what `idle` connections add to the server.

    Each was used for one echo of `message_size` bytes. A quarter as many are there before: by then
    whatever is loaded once is loaded, and the room that the start left in the heap is filled.

    Raises `Failed` when something else comes back, or a connection is lost.
    """
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open_and_use(count: int) -> list[Connection]:
        opened = await connect(
            port,
            lambda message: Connection(message, failed),
            count,
            message_size,
            path,
            DIALECTS[dialect],
        )
        for connection in opened:
            connection.send()
        await wait_until(asyncio.gather(*(each.last_echo for each in opened)), failed)
        return opened

    first = await open_and_use(idle // 4)
    before = private_memory(processes)
    others = await open_and_use(idle)
    added = private_memory(processes) - before
    await goodbye(first + others)
    return {"bytes_per_connection": added / idle}
