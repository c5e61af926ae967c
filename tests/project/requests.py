"""Requests that stay open: event streams and long polls. They log what ends them."""

from __future__ import annotations

import asyncio

from django.http import HttpResponse, StreamingHttpResponse

from tests.project.events import log


async def events(request):
    """An event stream that goes on until somebody ends it, and begins after `?SECONDS`."""
    log("waiting", path=request.path)
    await asyncio.sleep(float(request.META["QUERY_STRING"] or 0))
    return StreamingHttpResponse(ticks(request), content_type="text/event-stream")


async def ticks(request):
    try:
        while True:
            yield "data: x\n\n"
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        log("told", path=request.path)
        raise


async def poll(request):
    """A request that is answered after the seconds of its query string."""
    log("waiting", path=request.path)
    try:
        await asyncio.sleep(float(request.META["QUERY_STRING"]))
    except asyncio.CancelledError:
        log("told", path=request.path)
        raise
    return HttpResponse("answered")
