"""A TCP proxy in a process of its own: `python -m tests.proxy PORT TARGET_PORT...`.

With several targets, each connection goes to the next one of them that can be reached.

Stopped with SIGSTOP it is a network that is cut: nothing goes through, nobody is told, and whoever
connects hangs. After SIGCONT it goes on.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from itertools import cycle, islice


async def main(port: int, targets: list[int]) -> None:
    turns = cycle(targets)

    async def connected(reader, writer):
        for target in islice(turns, len(targets)):
            with suppress(OSError):
                target_reader, target_writer = await asyncio.open_connection("127.0.0.1", target)
                break
        else:
            writer.close()
            return
        await asyncio.gather(forward(reader, target_writer), forward(target_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


async def forward(reader, writer):
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


asyncio.run(main(int(sys.argv[1]), [int(each) for each in sys.argv[2:]]))
