"""A consumer that ends as it is asked to, and logs what happens to it on the way."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from channels.exceptions import StopConsumer

from tests.project.events import log
from ws_support.consumers import AsyncWebsocketConsumer


class Ends(AsyncWebsocketConsumer):
    channel_layer_alias = None

    def log(self, event, **fields):
        log(event, path=self.scope["path"], **fields)

    async def connect(self):
        self.log("connect()")
        match self.scope["query_string"].decode():
            case "refuse":
                await self.close()
            case "raise":
                raise RuntimeError("asked for")
            case "wait":
                await self.wait(60)
            case "wait-a-second":
                await self.wait(1)
            case "background":
                self.start_background(self.send_until_the_end(), name="sender")
        await self.accept()
        self.log("accepted")

    async def receive(self, text_data=None, bytes_data=None):
        command = json.loads(text_data)
        match command.pop("do"):
            case "close":
                await self.close(**command)
            case "close and wait":
                await self.close(4002)
                await self.wait(1.5)
            case "raise":
                raise RuntimeError("asked for")
            case "stop":
                raise StopConsumer
            case "wait":
                await self.wait(**command)
            case "send when the client has gone":
                self.log("waiting")
                await asyncio.sleep(0.4)
                for _ in range(20):
                    await self.send("x" * 2**16)
                self.log("sent")
            case "raise in background":
                self.start_background(self.fail(), name="the failing one")
            case "raise in background and wait":
                self.start_background(self.fail())
                await self.wait(60)
            case "close in background":
                self.start_background(self.close(4003, "from behind"))
            case "close in background and wait":
                self.start_background(self.close(4003, "from behind"))
                await self.wait(60)
            case "raise in a layer handler":
                await self.channel_layer.send(self.channel_name, {"type": "failing"})
            case "say":
                await self.send(command["text"])

    async def wait(self, seconds):
        self.log("waiting")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.log("cancelled")
            raise
        self.log("waited")

    async def fail(self):
        raise RuntimeError("in background")

    async def failing(self, event):
        raise RuntimeError("from the layer")

    async def send_until_the_end(self):
        try:
            while True:
                await asyncio.sleep(0.05)
                with suppress(OSError):
                    await self.send("tick")
        finally:
            self.log("background ended")

    async def disconnect(self, code):
        self.log("disconnect()", code=code)
        # Whatever it sends goes nowhere, also where the server would raise.
        await self.send("goodbye")
        await self.close()
        await asyncio.sleep(0.1)
        self.log("disconnect() done", code=code)


class EndsWithLayer(Ends):
    channel_layer_alias = "default"
    groups = ["ends"]


class Finishes(Ends):
    cancel_on_disconnect = False
