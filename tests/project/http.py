"""What the demo has no page for: a request that takes a while, and what a request's scope says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.project import endless
from tests.project.events import log


class Http:
    """`/slow?SECONDS` and `/scope`; everything else is `application`'s."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/slow":
            log("requested", path="/slow")
            await asyncio.sleep(float(scope["query_string"]))
            await answer(send, b"slow")
        elif scope["path"] == "/endless-events":
            await endless.request(scope, receive, send)
        elif scope["path"] == "/scope":
            found = {key: scope.get(key) for key in ("client", "scheme", "http_version")}
            await answer(send, json.dumps(found).encode())
        else:
            await self._application(scope, receive, send)


async def answer(send, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
