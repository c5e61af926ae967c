"""Loops that await nothing but `send()`."""

from __future__ import annotations

from contextlib import suppress

from channels.generic.websocket import AsyncWebsocketConsumer as ChannelsConsumer
from channels.generic.websocket import WebsocketConsumer as SyncChannelsConsumer

from tests.project.events import log
from ws_support.consumers import AsyncWebsocketConsumer
from ws_support.websocket import WebSocket, websocket_view

DATA = b"x" * 2**16


class Sender(AsyncWebsocketConsumer):
    channel_layer_alias = None

    async def receive(self, text_data=None, bytes_data=None):
        await self.send_for_ever()

    async def send_for_ever(self):
        while True:
            await self.send(bytes_data=DATA)

    async def disconnect(self, code):
        log("disconnect()", path=self.scope["path"], code=code)


class InBackground(Sender):
    async def receive(self, text_data=None, bytes_data=None):
        self.start_background(self.send_for_ever())


class Persistent(Sender):
    """Sends on, whatever it is told."""

    async def send_for_ever(self):
        while True:
            with suppress(OSError):
                await self.send(bytes_data=DATA)


@websocket_view
async def view(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive()
    try:
        while True:
            await websocket.send(DATA)
    finally:
        log("disconnect()", path=websocket.scope["path"], code=websocket.close_code)


class OfChannels(ChannelsConsumer):
    channel_layer_alias = None

    async def receive(self, text_data=None, bytes_data=None):
        while True:
            await self.send(bytes_data=DATA)

    async def disconnect(self, code):
        log("disconnect()", path=self.scope["path"], code=code)


class SyncOfChannels(SyncChannelsConsumer):
    channel_layer_alias = None

    def receive(self, text_data=None, bytes_data=None):
        while True:
            self.send(bytes_data=DATA)

    def disconnect(self, code):
        log("disconnect()", path=self.scope["path"], code=code)


async def bare(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    try:
        while True:
            await send({"type": "websocket.send", "bytes": DATA})
    finally:
        log("disconnect()", path=scope["path"])
