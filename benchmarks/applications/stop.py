"""This package with all that it does, and a consumer that says where it runs and when it ends."""

from __future__ import annotations

import os
from typing import Final

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

django.setup()

from ws_support.asgi import WebSocketSupport  # noqa: E402
from ws_support.consumers import EchoConsumer  # noqa: E402

_STDOUT: Final = 1


class Stopped(EchoConsumer):
    async def connect(self) -> None:
        await super().connect()
        await self.send(text_data=str(os.getpid()))

    async def disconnect(self, code: int) -> None:
        # In one piece, also when several processes write.
        _, port = self.scope["client"]
        os.write(_STDOUT, f"disconnect({code:d}) of {port}\n".encode())


application = ProtocolTypeRouter(
    {"websocket": WebSocketSupport(URLRouter([path("ws", Stopped.as_asgi())]))}
)
