"""The demo's application, with more consumers and with signals that are written to the log."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
from contextlib import suppress
from multiprocessing import parent_process

from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.urls import path

django_application = get_asgi_application()

from tests.project import endless, live, senders  # noqa: E402
from tests.project.ends import Ends, EndsWithLayer, Finishes  # noqa: E402
from tests.project.events import log  # noqa: E402
from tests.project.http import Http  # noqa: E402
from tests.project.hubs import HUBS, LoggedPolls, anonymous, authenticate, get_user  # noqa: E402
from ws_support.asgi import WebSocketSupport  # noqa: E402
from ws_support.consumers import EchoConsumer  # noqa: E402
from ws_support.hubs import HubRouter  # noqa: E402
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


def as_text(value: object) -> str:
    """For what JSON does not know: bytes, and objects in the scope."""
    return value.decode() if isinstance(value, bytes) else type(value).__name__


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


def fail(when=""):
    raise RuntimeError(f"asked for{when}")


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
                await self.send(text_data=json.dumps(scope, default=as_text))
            case "headers":
                named = command["name"].encode()
                values = [value.hex() for name, value in self.scope["headers"] if name == named]
                await self.send(text_data=json.dumps(values))
            case "raise later":
                asyncio.get_running_loop().call_soon(fail, ", later")
            case "raise":
                fail()
            case "hang":
                log("hanging", path=self.scope["path"])
                library = ctypes.PyDLL if command["keeps_the_lock"] else ctypes.CDLL
                # Waits for itself. A signal would end most other waits.
                mutex = ctypes.create_string_buffer(64)
                library(None).pthread_mutex_init(mutex, None)
                for _ in range(2):
                    library(None).pthread_mutex_lock(mutex)

    async def disconnect(self, code: int) -> None:
        log("disconnect()", path=self.scope["path"], code=code)


class Sink(LoggedEcho):
    """Reads and never answers."""

    async def receive(self, text_data=None, bytes_data=None):
        pass


class Spring(LoggedEcho):
    """Sends for as long as there is somebody to send to."""

    async def connect(self) -> None:
        await super().connect()
        self.start_background(self.flow())

    async def flow(self) -> None:
        with suppress(OSError):
            while True:
                await self.send(bytes_data=bytes(2**16))
                await asyncio.sleep(0)


async def sending_only(scope, receive, send):
    """Awaits nothing but `send()`."""
    await receive()
    await send({"type": "websocket.accept"})
    log("accepted", path=scope["path"])
    while True:
        await send({"type": "websocket.send", "bytes": bytes(2**16)})


class Pid(LoggedEcho):
    """Says first which process it runs in."""

    async def connect(self) -> None:
        await super().connect()
        await self.send(str(os.getpid()))


class Counting(LoggedEcho):
    """Sends as many numbered messages of 32 KiB as it is asked for."""

    async def connect(self) -> None:
        await super().connect()
        log("accepted", path=self.scope["path"])
        for number in range(int(self.scope["query_string"])):
            await self.send(bytes_data=number.to_bytes(4, "big") + bytes(2**15 - 4))


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
        await asyncio.sleep(float(self.scope["query_string"] or 0.5))
        await super().connect()


async def stubborn(scope, receive, send):
    """Takes a second to end."""
    await receive()
    await send({"type": "websocket.accept"})
    try:
        await receive()
    finally:
        await asyncio.sleep(1)


async def immortal(scope, receive, send):
    """Never ends, whoever asks for it."""
    await receive()
    await send({"type": "websocket.accept"})
    log("accepted", path=scope["path"])
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


class Refusing(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.close()


class SyncEcho(WebsocketConsumer):
    def receive(self, text_data=None, bytes_data=None):
        self.send(text_data=text_data, bytes_data=bytes_data)

    def disconnect(self, code):
        log("disconnect()", path=self.scope["path"], code=code)


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


async def told(scope, receive, send):
    """An application that is no consumer, and says what it was told in the end."""
    await receive()
    await send({"type": "websocket.accept"})
    log("told", path=scope["path"], message=await receive())


async def denying_slowly(scope, receive, send):
    """Refuses with more than the client's buffers take, and says when all of it is sent."""
    await receive()
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    body = {"type": "websocket.http.response.body", "body": bytes(2**20), "more_body": True}
    for _ in range(16):
        await send(body)
    await send({**body, "body": b"", "more_body": False})
    log("denied", path=scope["path"], message=await receive())


async def sending_late(scope, receive, send):
    """Sends when it is too late, and says what comes of it."""
    await receive()
    await send({"type": "websocket.accept"})
    message = await receive()
    if message["type"] == "websocket.receive":
        await send({"type": "websocket.close", "code": 4000})
        message = await receive()
    late = ({"type": "websocket.send", "text": "late"}, {"type": "websocket.close"})
    errors = [await error_of(send(each)) for each in late]
    log("late", path=scope["path"], message=message, errors=errors)


async def closing_late(scope, receive, send):
    """Closes when its client has gone, as many do on their way out."""
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    log("closing", path=scope["path"])
    await send({"type": "websocket.close"})


async def error_of(sending):
    """What sending raises, in words, or `None`."""
    try:
        await sending
    except OSError as error:
        return f"OSError: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def accepting_late(scope, receive, send):
    """Waits until its client has gone, and then accepts."""
    messages = [await receive(), await receive()]
    try:
        await send({"type": "websocket.accept"})
    except OSError as error:
        messages.append(type(error).__name__)
    log("accepted late", path=scope["path"], messages=messages)


async def wrong_send(scope, receive, send):
    """Sends what the client asks for, which nobody may, and says what is raised."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        error = await error_of(send(json.loads(message["text"])))
        await send({"type": "websocket.send", "text": str(error)})


async def told_meanwhile(scope, receive, send):
    """Asks for the next message while the server sends its close frame."""
    await receive()
    await send({"type": "websocket.accept"})
    await scope["closing"].wait()
    log("told", path=scope["path"], message=await receive())


def slow_to_close(application):
    """A server takes a moment for the close frame that goes to `told_meanwhile`."""

    async def with_slow_close(scope, receive, send):
        if scope["path"] != "/told-meanwhile":
            await application(scope, receive, send)
            return
        scope["closing"] = asyncio.Event()

        async def send_slowly(message):
            if message["type"] == "websocket.close":
                scope["closing"].set()
                await asyncio.sleep(0.2)
            await send(message)

        await application(scope, receive, send_slowly)

    return with_slow_close


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
        "http": Http(ASGIStaticFilesHandler(django_application)),
        "websocket": slow_to_close(
            WebSocketSupport(
                URLRouter(
                    [
                        *websocket_urlpatterns,
                        path("logged", LoggedEcho.as_asgi()),
                        path("busy", Busy.as_asgi()),
                        path("busy-of-channels", BusyOfChannels.as_asgi()),
                        path("commands", Commands.as_asgi()),
                        path("pid/<str:test>", Pid.as_asgi()),
                        path("pid-again/<str:test>", Pid.as_asgi()),
                        path("counting/<str:test>", Counting.as_asgi()),
                        path("sink", Sink.as_asgi()),
                        path("spring", Spring.as_asgi()),
                        path("sending-only", sending_only),
                        path("headers", Headers.as_asgi()),
                        path("wrong-subprotocol", WrongSubprotocol.as_asgi()),
                        path("sending-first", SendingFirst.as_asgi()),
                        path("slow-accept", SlowAccept.as_asgi()),
                        path("stubborn", stubborn),
                        path("immortal", immortal),
                        path("refusing", Refusing.as_asgi()),
                        path("sync", SyncEcho.as_asgi()),
                        path("returning", returning),
                        path("twice", hearing),
                        path("told", told),
                        path("denying-slowly", denying_slowly),
                        path("sending-late/<str:test>", sending_late),
                        path("closing-late", closing_late),
                        path("accepting-late", accepting_late),
                        path("wrong-send", wrong_send),
                        path("told-meanwhile", told_meanwhile),
                        path("returning-at-once", returning_at_once),
                        path("endless/bare", endless.bare),
                        path("endless/of-channels", endless.OfChannels.as_asgi()),
                        path("denying", denying),
                        path("denying-wrongly", denying_wrongly),
                        path("often", Heartbeat(LoggedEcho.as_asgi(), interval=0.5)),
                        path("ends/<str:test>", Ends.as_asgi()),
                        path("ends-with-layer/<str:test>", EndsWithLayer.as_asgi()),
                        path("finishes/<str:test>", Finishes.as_asgi()),
                        path("silent/<str:test>", Heartbeat(Ends.as_asgi(), interval=0.5)),
                        path("live/echo/<str:name>", live.echo),
                        path("live/obedient/<str:name>", live.obedient),
                        path("live/handed-over/<str:name>", live.handed_over),
                        path("live/left-alone/<str:name>", live.left_alone),
                        path("live/subscribed/<path:topic>", live.subscribed),
                        path("topics/<path:topic>", live.Subscriber.as_asgi()),
                        path("present/<path:topic>", live.Present.as_asgi()),
                        path("prices", live.Prices.as_asgi()),
                        path("senders/handler", senders.Sender.as_asgi()),
                        path("senders/background", senders.InBackground.as_asgi()),
                        path("senders/persistent", senders.Persistent.as_asgi()),
                        path("senders/view", senders.view),
                        path("senders/of-channels", senders.OfChannels.as_asgi()),
                        path("senders/sync-of-channels", senders.SyncOfChannels.as_asgi()),
                        path("senders/bare", senders.bare),
                        path("nested/", URLRouter([path("ws", EchoConsumer.as_asgi())])),
                    ]
                )
            )
        ),
    }
)

application = LoggedPolls(
    HubRouter(application, HUBS, middleware=anonymous, authenticate=authenticate, get_user=get_user)
)

# A main process of workers has loaded it as well, for `manage.py check`.
if parent_process() is not None or "runserver" in sys.argv:
    log("loaded", pid=os.getpid())
