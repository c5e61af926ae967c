"""An application in the process of a test, and what stands for its server and its client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ws_support.testing import RunningApplication, websocket_scope


class Served(RunningApplication):
    """An application as a server runs it: after an exception, it sends a close frame."""

    def __init__(self, application: Any, **scope: Any) -> None:
        scope = {"asgi": {"version": "3.0"}, "extensions": {}, **scope}
        super().__init__(application, websocket_scope("/ws", **scope))
        self.received = 0

    async def serve_receive(self) -> dict[str, Any]:
        message = await super().serve_receive()
        self.received += 1
        return message

    async def connects(self) -> None:
        await self.send_input({"type": "websocket.connect"})

    async def says(self, *texts: str) -> None:
        for text in texts:
            await self.send_input({"type": "websocket.receive", "text": text})

    async def leaves(self, code: int = 1001) -> None:
        await self.send_input({"type": "websocket.disconnect", "code": code})

    async def texts(self, count: int) -> list[str]:
        return [(await self.receive_output())["text"] for _ in range(count)]


@asynccontextmanager
async def connected(
    application: Any, kind: type[Served] = Served, **scope: Any
) -> AsyncIterator[Any]:
    """An application that has accepted."""
    async with kind(application, **scope) as peer:
        await peer.connects()
        assert (await peer.receive_output())["type"] == "websocket.accept"
        yield peer
