"""Applications that do nothing but send, with nothing of this package around them."""

from __future__ import annotations

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

from tests.project.asgi import application as others
from tests.project.events import log
from ws_support.consumers import EchoConsumer

DATA = bytes(2**16)


async def bare(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    try:
        while True:
            await send({"type": "websocket.send", "bytes": DATA})
    finally:
        log("ended", path=scope["path"])


class OfChannels(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        try:
            while True:
                await self.send(bytes_data=DATA)
        finally:
            log("ended", path=self.scope["path"])


application = ProtocolTypeRouter(
    {
        "http": others,
        "websocket": URLRouter(
            [
                path("bare", bare),
                path("of-channels", OfChannels.as_asgi()),
                path("ws", EchoConsumer.as_asgi()),
            ]
        ),
    }
)
