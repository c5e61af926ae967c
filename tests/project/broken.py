"""Applications that cannot be served: no coroutine function, or one that does not start."""

from __future__ import annotations

import asyncio

from tests.project.events import log


def application(scope, receive, send):
    raise RuntimeError("no coroutine")


async def without_a_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "nothing to start with"})


async def without_a_pool(scope, receive, send):
    raise RuntimeError("nothing to start with")


async def without_a_pool_after_a_while(scope, receive, send):
    await receive()
    await asyncio.sleep(6)
    raise RuntimeError("nothing to start with")


async def without_an_end_of_its_start(scope, receive, send):
    await receive()
    log("starting", path="")
    await asyncio.sleep(3600)
