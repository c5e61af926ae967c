"""Hubs of this package, and the consumers that they are compared with."""

from __future__ import annotations

from typing import Any

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

from benchmarks.applications import ROOM

django.setup()

from ws_support.asgi import WebSocketSupport  # noqa: E402
from ws_support.broadcast import broadcast  # noqa: E402
from ws_support.consumers import (  # noqa: E402
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
)
from ws_support.hubs import Hub, HubRouter, TopicsHub, hub_context  # noqa: E402


class Echo(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content: Any, **_: Any) -> None:
        await self.send_json(content)


class Subscriber(AsyncWebsocketConsumer):
    subscriptions = ["prices"]


class Publisher(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await broadcast("prices", text_data or "")


class Prices(Hub[Any]):
    async def echo(self, value: str) -> str:
        return value


class HubPublisher(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await hub_context(Prices).clients.all.send("Price", text_data)


class Present(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept()
        await self.present(ROOM, {"page": "chat"})
        await self.send("present")


application = HubRouter(
    ProtocolTypeRouter(
        {
            "websocket": WebSocketSupport(
                URLRouter(
                    [
                        path("ws", Echo.as_asgi()),
                        path("topic", Subscriber.as_asgi()),
                        path("publish", Publisher.as_asgi()),
                        path("publish-to-hub", HubPublisher.as_asgi()),
                        path("present", Present.as_asgi()),
                    ]
                )
            )
        }
    ),
    {"hub": Prices, "topics": TopicsHub},
    middleware=lambda application: application,
)
