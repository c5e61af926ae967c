"""The consumer on both bases, and a way to see and to lose connections that uses neither."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.db import connections
from django.urls import path


class CountingExecutor(ThreadPoolExecutor):
    """The thread of the asynchronous ORM, and how often something was sent there."""

    submitted = 0

    def submit(self, *args, **kwargs):
        self.submitted += 1
        return super().submit(*args, **kwargs)


SyncToAsync.single_thread_executor = executor = CountingExecutor(max_workers=1)

django_application = get_asgi_application()

# Before ws_support is imported, as a project's own start may do.
executor.submit(lambda: connections["kept"].ensure_connection()).result()

from tests.database_project.backend import base as backend  # noqa: E402
from tests.database_project.consumers import (  # noqa: E402
    OnChannels,
    OnOurs,
    OnOursWithDispatch,
    on_view,
)
from ws_support.asgi import WebSocketSupport  # noqa: E402

ended = set()
"""The paths of the sockets for which there is nothing left to do."""


async def watch(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        command = json.loads(message["text"])
        answer = await watched(**command)
        await send({"type": "websocket.send", "text": json.dumps(answer)})


async def watched(do, number=None, database=None, path=None):
    match do:
        case "reset":
            backend.refused.clear()
            await sync_to_async(connections.close_all)()
        case "is open":
            return backend.is_open(number)
        case "lose":
            backend.lose(number)
        case "refuse":
            backend.refused.add(database)
        case "refuse no longer":
            backend.refused.discard(database)
        case "last":
            return backend.opened[database]
        case "closed":
            return backend.closed
        case "has ended":
            return path in ended
        case "hops":
            return executor.submitted
        case "checks":
            return backend.checks[database]
    return None


def observed(application):
    """Notes when the messages of a socket arrive, and that it has ended."""

    async def outer(scope, receive, send):
        times = []

        async def received():
            message = await receive()
            times.append(time.monotonic())
            return message

        try:
            await application({**scope, "arrived": times}, received, send)
        finally:
            ended.add(scope["path"])

    return outer


def in_a_thread_of_its_own(application):
    async def outer(scope, receive, send):
        async with ThreadSensitiveContext():
            await application(scope, receive, send)

    return outer


bases = {
    "channels": OnChannels.as_asgi(),
    "ws_support": OnOurs.as_asgi(),
    "ws_support-with-dispatch": OnOursWithDispatch.as_asgi(),
    "ws_support-view": on_view,
}
application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": observed(
            WebSocketSupport(
                URLRouter(
                    [
                        path("watch", watch),
                        *(path(f"{base}/<str:socket>", bases[base]) for base in bases),
                        *(
                            path(
                                f"{base}/in-a-thread-of-its-own/<str:socket>",
                                in_a_thread_of_its_own(bases[base]),
                            )
                            for base in bases
                        ),
                    ]
                )
            )
        ),
    }
)
