"""The least that ASGI needs: what the server itself costs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] != "websocket":
        # Servers that try the lifespan protocol go on without it.
        raise ValueError(f"No {scope['type']} here.")
    while True:
        message = await receive()
        if message["type"] == "websocket.receive":
            if (text := message.get("text")) is not None:
                await send({"type": "websocket.send", "text": text})
            else:
                await send({"type": "websocket.send", "bytes": message["bytes"]})
        elif message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            return
