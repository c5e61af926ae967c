"""This package with all that it does: consumers subscribe, and one publishes what it is sent."""

from __future__ import annotations

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

django.setup()

from ws_support.asgi import WebSocketSupport  # noqa: E402
from ws_support.broadcast import broadcast  # noqa: E402
from ws_support.consumers import AsyncWebsocketConsumer  # noqa: E402


class Prices(AsyncWebsocketConsumer):
    subscriptions = ["prices"]


class Publisher(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await broadcast("prices", text_data or "")


application = ProtocolTypeRouter(
    {
        "websocket": WebSocketSupport(
            URLRouter([path("ws", Prices.as_asgi()), path("publish", Publisher.as_asgi())])
        )
    }
)
