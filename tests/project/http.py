"""What the demo has no page for: slow requests, their scope, and the number of open sockets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.project import endless
from tests.project.events import log
from ws_support._connection.registry import open_connections


class Http:
    """`/slow?SECONDS`, `/scope`, `/open`, and more; everything else is `application`'s."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/slow":
            log("requested", path="/slow")
            await asyncio.sleep(float(scope["query_string"]))
            await answer(send, b"slow")
        elif scope["path"] == "/deaf-events":
            await stream(send)
        elif scope["path"] == "/deaf":
            log("requested", path="/deaf")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                log("told", path="/deaf")
                raise
        elif scope["path"] == "/endless-events":
            await endless.request(scope, receive, send)
        elif scope["path"] == "/scope":
            found = {key: scope.get(key) for key in ("client", "scheme", "http_version")}
            await answer(send, json.dumps(found).encode())
        elif scope["path"] == "/open":
            await answer(send, b"%d" % len(open_connections))
        else:
            await self._application(scope, receive, send)


async def answer(send, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def stream(send) -> None:
    """Send without end, and never listen."""
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        while True:
            await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        log("told", path="/deaf-events")
        raise
