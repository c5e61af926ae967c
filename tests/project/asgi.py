"""The demo's application, with more consumers and with signals that are written to the log."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

django_application = get_asgi_application()

from tests.project.ends import Ends, EndsWithLayer, Finishes  # noqa: E402
from tests.project.events import log  # noqa: E402
from ws_support.asgi import WebSocketSupport  # noqa: E402
from ws_support.consumers import EchoConsumer  # noqa: E402
from ws_support.middleware.heartbeat import Heartbeat  # noqa: E402
from ws_support.routing import websocket_urlpatterns  # noqa: E402
from ws_support.signals import connected, disconnected, rejected  # noqa: E402


async def log_connected(scope, **_):
    log("connected", path=scope["path"])


async def log_disconnected(scope, code, reason, duration, **_):
    log("disconnected", path=scope["path"], code=code, reason=reason, duration=duration)


async def log_rejected(scope, origin, status, rule, **_):
    log("rejected", path=scope["path"], origin=origin, status=status, rule=rule)


connected.connect(log_connected)
disconnected.connect(log_disconnected)
rejected.connect(log_rejected)


class LoggedEcho(EchoConsumer):
    """Echo, and what `disconnect()` was told."""

    async def disconnect(self, code: int) -> None:
        log("disconnect()", path=self.scope["path"], code=code)


class Busy(LoggedEcho):
    """Echo that takes the seconds which the message asks for."""

    async def receive(self, text_data=None, bytes_data=None):
        await asyncio.sleep(float(text_data))
        await super().receive(text_data, bytes_data)


class BusyOfChannels(AsyncWebsocketConsumer):
    """Reads nothing while it is busy."""

    async def receive(self, text_data=None, bytes_data=None):
        await asyncio.sleep(float(text_data))
        await self.send(text_data)


class Commands(AsyncWebsocketConsumer):
    """Does what the client asks for: ways to send and to close that an echo never takes."""

    async def receive(self, text_data=None, bytes_data=None):
        command = json.loads(text_data)
        match command.pop("do"):
            case "close":
                await self.close(**command)
            case "close and send":
                await self.close()
                await self.send(text_data="too late")
            case "send":
                await self.base_send({"type": "websocket.send", **command})
            case "send large":
                await self.send(text_data="x" * command["size"])
            case "accept":
                await self.accept()
            case "scope":
                scope = {key: self.scope.get(key) for key in command["keys"]}
                await self.send(text_data=json.dumps(scope))
            case "raise":
                raise RuntimeError("asked for")

    async def disconnect(self, code: int) -> None:
        log("disconnect()", path=self.scope["path"], code=code)


class Headers(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        value = self.scope["query_string"].replace(b"+", b"\r\n")
        await self.accept(headers=[(b"x-first", value), (b"x-first", b"again")])


class WrongSubprotocol(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept(subprotocol="nobody-offered-this")


class SendingFirst(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.send(text_data="too early")


class SlowAccept(EchoConsumer):
    async def connect(self) -> None:
        log("connecting", path=self.scope["path"])
        await asyncio.sleep(0.5)
        await super().connect()


async def stubborn(scope, receive, send):
    """Takes a second to end."""
    await receive()
    await send({"type": "websocket.accept"})
    try:
        await receive()
    finally:
        await asyncio.sleep(1)


class Refusing(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.close()


class SyncEcho(WebsocketConsumer):
    def receive(self, text_data=None, bytes_data=None):
        self.send(text_data=text_data, bytes_data=bytes_data)


async def returning(scope, receive, send):
    """An application that is done before its connection is."""
    await receive()
    await send({"type": "websocket.accept"})


async def hearing(scope, receive, send):
    """Listens on after the end."""
    await receive()
    await send({"type": "websocket.accept"})
    messages = []
    with suppress(asyncio.TimeoutError):
        while True:
            messages.append(await asyncio.wait_for(receive(), 0.3))
    log("heard", path=scope["path"], messages=messages)


async def returning_at_once(scope, receive, send):
    """An application that neither accepts nor refuses."""


async def denying(scope, receive, send):
    """Refuses with an HTTP response of its own, in pieces."""
    await receive()
    headers = [(b"x-why", b"because")]
    await send({"type": "websocket.http.response.start", "status": 418, "headers": headers})
    body = {"type": "websocket.http.response.body"}
    await send({**body, "body": b"tea", "more_body": True})
    await send({**body, "body": b"pot"})


async def denying_wrongly(scope, receive, send):
    await receive()
    await send({"type": "websocket.http.response.body", "body": b"no start"})


application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": WebSocketSupport(
            URLRouter(
                [
                    *websocket_urlpatterns,
                    path("logged", LoggedEcho.as_asgi()),
                    path("busy", Busy.as_asgi()),
                    path("busy-of-channels", BusyOfChannels.as_asgi()),
                    path("commands", Commands.as_asgi()),
                    path("headers", Headers.as_asgi()),
                    path("wrong-subprotocol", WrongSubprotocol.as_asgi()),
                    path("sending-first", SendingFirst.as_asgi()),
                    path("slow-accept", SlowAccept.as_asgi()),
                    path("stubborn", stubborn),
                    path("refusing", Refusing.as_asgi()),
                    path("sync", SyncEcho.as_asgi()),
                    path("returning", returning),
                    path("twice", hearing),
                    path("returning-at-once", returning_at_once),
                    path("denying", denying),
                    path("denying-wrongly", denying_wrongly),
                    path("often", Heartbeat(LoggedEcho.as_asgi(), interval=0.5)),
                    path("ends/<str:test>", Ends.as_asgi()),
                    path("ends-with-layer/<str:test>", EndsWithLayer.as_asgi()),
                    path("finishes/<str:test>", Finishes.as_asgi()),
                    path("silent/<str:test>", Heartbeat(Ends.as_asgi(), interval=0.5)),
                    path("nested/", URLRouter([path("ws", EchoConsumer.as_asgi())])),
                ]
            )
        ),
    }
)
