"""What the documentation shows, as a type checker reads it in a project. Checked, never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.dispatch import receiver
from django.urls import path, re_path

from ws_support.asgi import WebSocketSupport
from ws_support.broadcast import broadcast, broadcast_json
from ws_support.consumers import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, EchoConsumer
from ws_support.hubs import Hub, HubRouter, hub_context
from ws_support.middleware.heartbeat import Heartbeat
from ws_support.middleware.origin import OriginValidator
from ws_support.signals import disconnected
from ws_support.testing import Peer, Server
from ws_support.testing.pool import ServerGetter
from ws_support.topics import Topic, topic
from ws_support.websocket import ConnectionClosed, WebSocket, websocket_view


class Prices(AsyncJsonWebsocketConsumer):
    channel_layer_alias = None
    subscriptions = ["prices"]
    cancel_on_disconnect = False

    async def connect(self) -> None:
        await self.accept(subprotocol="v1")
        task = self.start_background(self.watch(), name="watch")
        task.cancel()

    async def watch(self) -> None:
        await self.send_json({"price": 1})
        await self.subscribe("more")

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.close(code=4000, reason="enough")

    async def disconnect(self, code: int) -> None:
        await self.unsubscribe("more")


class Feed(AsyncWebsocketConsumer):
    groups = ["feed"]
    channel_layer_alias = "other"

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data)


@websocket_view
async def chat(websocket: WebSocket, room: str) -> None:
    await websocket.accept()
    async for message in websocket:
        await websocket.send(f"{room}: {message!r}")


@websocket_view(cancel_on_disconnect=False)
async def slow(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        text = await websocket.receive_text()
        await websocket.send_json({"text": text})
        await broadcast("prices", text)
        await broadcast_json("prices", {"text": text})
    except ConnectionClosed as closed:
        print(closed.code, closed.reason)
    await websocket.wait_closed()


class Tenants(OriginValidator):
    async def is_allowed(self, origin: str, scope: Any) -> bool:
        return origin.endswith(".client.com")


urlpatterns = [
    path("prices", Prices.as_asgi()),
    path("feed", Heartbeat(Feed.as_asgi(), interval=10)),
    re_path(r"^chat/(?P<room>\w+)$", chat),
    path("slow", slow),
    path("slower", Heartbeat(slow, message=None)),
    path("echo", WebSocketSupport(EchoConsumer.as_asgi(), allowed_origins=["https://client.com"])),
    path("tenants", Tenants(EchoConsumer.as_asgi())),
]

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": WebSocketSupport(URLRouter(urlpatterns), origin_validator=Tenants),
    }
)


@receiver(disconnected)
async def count(scope: Any, code: int, reason: str, duration: float, **kwargs: Any) -> None: ...


async def call_the_handler(websocket: WebSocket) -> None:
    """A test of one's own calls what was decorated, with its own signature."""
    await chat.__wrapped__(websocket, room="kitchen")


async def tests_in_process() -> None:
    async with Peer(application, "/ws", origin="https://client.com", timeout=5) as peer:
        await peer.send_json({"text": "hello"})
        message: str | bytes = await peer.receive()
        code: int | None = peer.close_code
        await peer.close(4000, "bye")
    async with Peer(Prices.as_asgi(), "/", headers=[(b"x-a", "1")], user=object()):
        print(message, code)
    async with Peer(chat, "/", headers={"x-a": "1"}, subprotocols=["v1"]):
        pass


def tests_with_servers(websocket_server: ServerGetter, websocket_peer: partial[Peer]) -> None:
    server: Server = websocket_server("uvicorn", settings={"WS_SUPPORT": {}})
    with server.connect("/ws") as socket, server.raw() as client:
        socket.send(server.wait_for_log("started", since=server.mark()))
        client.open("/ws", [(b"Origin", b"https://client.com")])
        client.send_frame(1, b"hello")
        print(client.frame(), websocket_peer("/ws", origin=server.origin).subprotocol)


class Chat(Hub):
    async def send_message(self, user: str, message: str) -> None:
        await self.clients.all.send("ReceiveMessage", user, message)
        move: str = await self.clients.caller.invoke(str, "ChooseMove", timeout=30)
        await hub_context(Chat).clients.user("1").send("Moved", move)


class Page(Protocol):
    async def receive_message(self, user: str, message: str) -> None: ...

    async def choose_move(self) -> str: ...


class TypedChat(Hub[Page]):
    async def send_message(self, user: str, message: str) -> None:
        await self.clients.all.receive_message(user, message)
        await hub_context(TypedChat).clients.group("blue").receive_message(user, message)
        move: str = await self.clients.caller.choose_move()
        await self.clients.client("id").receive_message(user, move)


@topic("room/<int:room_id>")
class RoomTopic(Topic):
    history = 200
    history_seconds = 60.5
    presence = True

    async def may_subscribe(self, user: Any, room_id: int) -> bool:
        return room_id == 7

    def may_publish(self, user: Any, message: Any, room_id: int) -> bool:
        return bool(message)

    async def snapshot(self, user: Any, room_id: int) -> dict[str, int]:
        return {"room": room_id}


@topic("area/<slug:area>/room/<int:room_id>")
class AreaTopic(RoomTopic):
    async def may_subscribe(self, user: Any, room_id: int, area: str = "") -> bool:
        return await super().may_subscribe(user, room_id)


name_of_the_room: str = RoomTopic.name(room_id=7)


hubs = HubRouter(get_asgi_application(), {"chat": Chat, "typed": TypedChat})


# What must be refused: a comment that nothing needs is an error, too.


@websocket_view  # type: ignore[arg-type]
def no_coroutine_function(websocket: WebSocket) -> None: ...


@websocket_view  # type: ignore[arg-type]
async def no_websocket(number: int) -> None: ...


no_topic = topic("room/<int:room_id>")(Feed)  # type: ignore[type-var]


class WrongArguments(Hub[Page]):
    async def go(self) -> None:
        await self.clients.all.receive_message("ann", 1)  # type: ignore[arg-type]
        await self.clients.all.recieve_message("ann", "Hello")  # type: ignore[attr-defined]
        int.bit_length(await self.clients.caller.choose_move())  # type: ignore[arg-type]
