"""Applications that await nothing but `send()`, without an end."""

from __future__ import annotations

from channels.generic.websocket import AsyncWebsocketConsumer
from django.http import StreamingHttpResponse

from tests.project.events import log


async def bare(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    try:
        while True:
            await send({"type": "websocket.send", "bytes": bytes(2**16)})
    finally:
        log("ended", path=scope["path"])


class OfChannels(AsyncWebsocketConsumer):
    async def connect(self):
        await self.accept()
        try:
            while True:
                await self.send(bytes_data=bytes(2**16))
        finally:
            log("ended", path=self.scope["path"])


class Response(StreamingHttpResponse):
    def close(self):
        super().close()
        log("ended", path="/endless")


async def view(request):
    return Response(chunks())


async def chunks():
    while True:
        yield bytes(2**16)


async def request(scope, receive, send):
    """An event stream that never asks whether its client is there."""
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        while True:
            await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
    finally:
        log("ended", path=scope["path"])
