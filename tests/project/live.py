"""Handlers and services for `WebSocket`, and subscribers."""

from __future__ import annotations

import asyncio
import json
import os

from tests.project.events import log
from ws_support.broadcast import BroadcastError, broadcast, broadcast_json, statistics
from ws_support.consumers import AsyncWebsocketConsumer
from ws_support.presence import members
from ws_support.websocket import ConnectionClosed, WebSocket, websocket_view


@websocket_view
async def echo(websocket: WebSocket, name: str) -> None:
    """Sends back what comes, and says how it ended."""
    await websocket.accept(subprotocol=next(iter(websocket.subprotocols), None))
    async for message in websocket:
        await websocket.send(message)
    log("ended", path=websocket.scope["path"], name=name, **ending(websocket))


@websocket_view
async def obedient(websocket: WebSocket, name: str) -> None:
    """Does what the client says."""
    await websocket.accept()
    while True:
        command = await websocket.receive_json()
        match command.pop("do"):
            case "close":
                await websocket.close(**command)
            case "return":
                return
            case "raise":
                raise RuntimeError("asked for")
            case "sleep":
                log("asleep", path=websocket.scope["path"])
                try:
                    await asyncio.sleep(command["seconds"])
                except asyncio.CancelledError:
                    log("cancelled", path=websocket.scope["path"], **ending(websocket))
                    raise
            case "send":
                await websocket.send("x" * command["size"])


class Service:
    """Writes to sockets that were handed to it, also when their handlers have returned."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def take(self, websocket: WebSocket) -> None:
        task = asyncio.create_task(self.write(websocket))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def write(self, websocket: WebSocket) -> None:
        number = 0
        try:
            while True:
                await websocket.send(str(number))
                number += 1
                await asyncio.sleep(0.01)
        except ConnectionClosed as closed:
            log(
                "service ended",
                path=websocket.scope["path"],
                code=closed.code,
                reason=closed.reason,
            )


service = Service()


@websocket_view
async def handed_over(websocket: WebSocket, name: str) -> None:
    await websocket.accept()
    service.take(websocket)
    await websocket.wait_closed()
    log("ended", path=websocket.scope["path"], **ending(websocket))


@websocket_view
async def left_alone(websocket: WebSocket, name: str) -> None:
    """Returns while a service still holds the socket."""
    await websocket.accept()
    service.take(websocket)
    await websocket.receive()


@websocket_view
async def subscribed(websocket: WebSocket, topic: str) -> None:
    await websocket.subscribe(topic)
    await websocket.accept()
    await websocket.send(f"ready {os.getpid()}")
    async for message in websocket:
        if message == "unsubscribe":
            await websocket.unsubscribe(topic)
            await websocket.send("unsubscribed")
        else:
            await websocket.send(message)


class Subscriber(AsyncWebsocketConsumer):
    """Subscribes to what its path says, and does what the client says."""

    async def connect(self) -> None:
        self.topic = self.scope["url_route"]["kwargs"]["topic"]
        await self.subscribe(self.topic)
        await self.accept()
        await self.send(f"ready {os.getpid()}")

    async def receive(self, text_data=None, bytes_data=None):
        command = json.loads(text_data)
        match command.pop("do"):
            case "echo":
                await self.send(command["text"])
            case "subscribe":
                await self.subscribe(command["topic"])
                await self.send("subscribed")
            case "unsubscribe":
                await self.unsubscribe(command["topic"])
                await self.send("unsubscribed")
            case "broadcast":
                await self.broadcast(**command)
            case "broadcast json":
                await broadcast_json(command["topic"], command["value"])
            case "broadcast binary":
                await broadcast(command["topic"], bytes(command["size"]))
            case "broadcast many":
                for number in range(command["count"]):
                    size = command.get("size", 0)
                    await broadcast(command["topic"], f"{number} {'x' * size}")
                    await asyncio.sleep(command.get("pause", 0))
                await self.send("done")
            case "broadcast what is taken":
                await self.send(json.dumps(await self.refused(**command)))
            case "statistics":
                await self.send(json.dumps(vars(statistics())))

    async def broadcast(self, topic: str, text: str) -> None:
        try:
            await broadcast(topic, text)
        except Exception as error:
            await self.send(f"{type(error).__name__}: {error}")
        else:
            await self.send("broadcast")

    async def refused(self, topic: str, count: int, pause: float) -> list[int]:
        """Broadcast numbers, and return those that were refused."""
        refused = []
        for number in range(count):
            try:
                await broadcast(topic, f"{number} ")
            except BroadcastError:
                refused.append(number)
            await asyncio.sleep(pause)
        return refused

    async def disconnect(self, code: int) -> None:
        log("disconnect()", path=self.scope["path"], code=code)


class Prices(AsyncWebsocketConsumer):
    subscriptions = ["prices"]


def ending(websocket: WebSocket) -> dict[str, object]:
    return {"code": websocket.close_code, "reason": websocket.close_reason}


class Present(AsyncWebsocketConsumer):
    """Is present, and says how many are."""

    channel_layer_alias = None

    async def connect(self):
        await self.present(self.scope["url_route"]["kwargs"]["topic"], {"process": os.getpid()})
        await self.accept()

    async def receive(self, text_data=None, bytes_data=None):
        found = await members(self.scope["url_route"]["kwargs"]["topic"])
        await self.send(str(found.count))
