"""Channels' consumer in a group: it listens to the channel layer, too."""

from __future__ import annotations

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

django.setup()


class Echo(AsyncWebsocketConsumer):
    channel_layer_alias = "memory"
    groups = ["everybody"]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


application = ProtocolTypeRouter({"websocket": URLRouter([path("ws", Echo.as_asgi())])})
