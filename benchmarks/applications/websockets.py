"""The asyncio server of the library `websockets` and its `broadcast()`, without ASGI.

Started as `python -m benchmarks.applications.websockets PORT`.
"""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.applications import HOST, PUBLISH, TOPIC

_subscribers: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    path = connection.request.path if connection.request else ""
    if path == TOPIC:
        _subscribers.add(connection)
        try:
            await connection.wait_closed()
        finally:
            _subscribers.discard(connection)
    elif path == PUBLISH:
        async for message in connection:
            broadcast(_subscribers, message)
    else:
        async for message in connection:
            await connection.send(message)


async def main(port: int) -> None:
    async with serve(handle, HOST, port, compression=None) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
