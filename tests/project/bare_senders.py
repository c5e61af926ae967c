"""ASGI applications that know nothing of us, for what a server does with what they send."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from tests.project.events import log

waiting: set[asyncio.Event] = set()


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        if scope["path"] == "/go":
            for event in waiting:
                event.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"up"})
        return
    _, kind, _name = scope["path"].split("/")
    await receive()
    if kind == "denying":
        await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    elif kind == "misnaming":
        await send({"type": "websocket.accept", "subprotocol": "nobody-offered-this"})
    else:
        await send({"type": "websocket.accept"})
    try:
        await globals()[kind](receive, send)
    except OSError:
        log("ended", path=scope["path"])


async def large(receive: Any, send: Any) -> None:
    while True:
        await send({"type": "websocket.send", "bytes": bytes(2**16)})


async def small(receive: Any, send: Any) -> None:
    while True:
        await send({"type": "websocket.send", "text": "x"})


async def denying(receive: Any, send: Any) -> None:
    """Uvicorn keeps such a response until all of it is there."""
    body = {"type": "websocket.http.response.body", "body": bytes(100), "more_body": True}
    for _ in range(10_000):
        await send(body)
    while True:
        await send({**body, "more_body": False})


async def stubborn(receive: Any, send: Any) -> None:
    """Takes no error for an answer, for a while."""
    for _ in range(50_000):
        with suppress(OSError):
            await send({"type": "websocket.send", "bytes": bytes(2**16)})
    raise OSError


async def telling(receive: Any, send: Any) -> None:
    """Waits until its client has left, which is told by what it sends then."""
    message = await receive()
    while message["type"] != "websocket.disconnect":
        message = await receive()
    while True:
        await send({"type": "websocket.send", "text": "x"})


async def busy(receive: Any, send: Any) -> None:
    """Receives nothing before it is told to by a request, and then says what has come."""
    event = asyncio.Event()
    waiting.add(event)
    await event.wait()
    waiting.discard(event)
    while (message := await receive())["type"] == "websocket.receive":
        text = message["text"]
        await send({"type": "websocket.send", "text": f"{len(text)} {text[-1:]}"})


async def polling(receive: Any, send: Any) -> None:
    """Echo, with a reader that is cancelled all the time."""
    while True:
        reading = asyncio.ensure_future(receive())
        await asyncio.wait([reading], timeout=0.002)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            message = await reading
            if message["type"] == "websocket.disconnect":
                raise OSError
            await send({**message, "type": "websocket.send"})


async def closing(receive: Any, send: Any) -> None:
    """Closes as its client asks it to."""
    message = await receive()
    await send({"type": "websocket.close", **json.loads(message["text"])})
