"""This package with all that it does: origins are checked, and the heartbeat is on."""

from __future__ import annotations

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

django.setup()

from ws_support.asgi import WebSocketSupport  # noqa: E402
from ws_support.broadcast import broadcast  # noqa: E402
from ws_support.consumers import AsyncWebsocketConsumer, EchoConsumer  # noqa: E402


class EchoWithLayer(EchoConsumer):
    channel_layer_alias = "memory"
    groups = ["everybody"]


class Subscriber(AsyncWebsocketConsumer):
    subscriptions = ["prices"]


class Publisher(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await broadcast("prices", text_data or "")


application = ProtocolTypeRouter(
    {
        "websocket": WebSocketSupport(
            URLRouter(
                [
                    path("ws", EchoConsumer.as_asgi()),
                    path("layer", EchoWithLayer.as_asgi()),
                    path("topic", Subscriber.as_asgi()),
                    path("publish", Publisher.as_asgi()),
                ]
            )
        )
    }
)
