"""This package with all that it does, and consumers that cope with a flood in different ways."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

from benchmarks.flooding import BUSY, REPORT, SPRING_SIZE

django.setup()

from ws_support.asgi import WebSocketSupport  # noqa: E402
from ws_support.consumers import EchoConsumer  # noqa: E402


class Busy(EchoConsumer):
    """Busy with its first message for longer than anybody waits."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=BUSY)
        await asyncio.sleep(3600)


class Sink(EchoConsumer):
    """Reads and never answers."""

    count = 0

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == REPORT:
            await self.send(text_data=str(self.count))
        else:
            self.count += 1


class Spring(EchoConsumer):
    """Sends for as long as there is somebody to send to."""

    async def connect(self) -> None:
        await super().connect()
        self.start_background(self.flow())

    async def flow(self) -> None:
        with suppress(OSError):
            while True:
                await self.send(bytes_data=bytes(SPRING_SIZE))
                # send() need not wait, and the others want a turn.
                await asyncio.sleep(0)


application = ProtocolTypeRouter(
    {
        "websocket": WebSocketSupport(
            URLRouter(
                [
                    path("ws", EchoConsumer.as_asgi()),
                    path("busy", Busy.as_asgi()),
                    path("sink", Sink.as_asgi()),
                    path("spring", Spring.as_asgi()),
                ]
            )
        )
    }
)
