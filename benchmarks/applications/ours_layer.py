"""This package with all that it does, and a consumer in a group."""

from __future__ import annotations

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

django.setup()

from ws_support.asgi import WebSocketSupport  # noqa: E402
from ws_support.consumers import AsyncWebsocketConsumer  # noqa: E402


class Echo(AsyncWebsocketConsumer):
    channel_layer_alias = "memory"
    groups = ["everybody"]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


application = ProtocolTypeRouter(
    {"websocket": WebSocketSupport(URLRouter([path("ws", Echo.as_asgi())]))}
)
