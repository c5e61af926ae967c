"""Channels' consumers as its documentation shows them, without an origin check."""

from __future__ import annotations

from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

django.setup()


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


class EchoWithLayer(Echo):
    channel_layer_alias = "memory"
    groups = ["everybody"]


class Subscriber(AsyncWebsocketConsumer):
    groups = ["prices"]

    async def price(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class Publisher(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("prices", {"type": "price", "text": text_data})


application = ProtocolTypeRouter(
    {
        "websocket": URLRouter(
            [
                path("ws", Echo.as_asgi()),
                path("layer", EchoWithLayer.as_asgi()),
                path("topic", Subscriber.as_asgi()),
                path("publish", Publisher.as_asgi()),
            ]
        )
    }
)
