"""What people do in rooms, on boards, and while they wait."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from contextvars import ContextVar
from datetime import date
from urllib.parse import parse_qs

from channels.db import database_sync_to_async
from channels.exceptions import AcceptConnection, DenyConnection, StopConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from django.core.paginator import Paginator
from django.utils import formats, translation
from django.utils.translation import gettext as _

from rooms.models import Message, Room, Seat

logger = logging.getLogger("rooms")

viewer: ContextVar[str] = ContextVar("viewer", default="nobody")
"""Whose connection this is."""


def log(event, consumer, **fields):
    """A line of JSON for the operators, with the name of who was there."""
    path = consumer.scope["path"]
    logger.info(json.dumps({"event": event, "path": path, "user": viewer.get(), **fields}))


class RoomConsumer(AsyncJsonWebsocketConsumer):
    """A room: what one says, everybody in it hears."""

    groups = ["announcements"]
    subprotocols = ["chat.v2", "chat.v1"]

    def __init__(self, *args, page_size=20, **kwargs):
        super().__init__(*args, **kwargs)
        self.page_size = page_size
        self.room = None

    async def connect(self):
        self.user = self.scope["user"]
        if self.user.is_anonymous:
            log("refused", self)
            await self.close(code=4401)
            return
        viewer.set(self.user.username)
        language = parse_qs(self.scope["query_string"].decode()).get("language", ["en"])[0]
        translation.activate(language)
        await self.find_room()
        await self.accept(subprotocol=self.agreed_subprotocol())
        log("connect", self)
        await self.send_json({"type": "welcome", "visits": await self.count_visit()})
        await self.enter()

    async def find_room(self):
        try:
            room = await Room.objects.aget(slug=self.scope["url_route"]["kwargs"]["slug"])
        except Room.DoesNotExist:
            raise DenyConnection from None
        if room.for_staff and not self.user.is_staff:
            raise DenyConnection
        self.room = room
        self.group = f"room.{room.slug}"

    def agreed_subprotocol(self):
        offered = self.scope["subprotocols"]
        return next((each for each in self.subprotocols if each in offered), None)

    async def count_visit(self):
        session = self.scope["session"]
        session["visits"] = session.get("visits", 0) + 1
        await database_sync_to_async(session.save)()
        return session["visits"]

    async def enter(self):
        await Seat.objects.acreate(room=self.room, user=self.user, channel_name=self.channel_name)
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.tell_room("chat.presence", is_here=True)

    async def disconnect(self, code):
        log("disconnect", self, code=code)
        if self.room is not None:
            await self.channel_layer.group_discard(self.group, self.channel_name)
            await Seat.objects.filter(channel_name=self.channel_name).adelete()
            await self.tell_room("chat.presence", is_here=False)
        log("gone", self)

    async def tell_room(self, kind, **event):
        event = {"type": kind, "user": self.user.username, "from": self.channel_name, **event}
        await self.channel_layer.group_send(self.group, event)

    # What the client asks for.

    async def receive_json(self, content, **kwargs):
        action = getattr(self, f"do_{content.pop('do', '')}", self.do_nothing)
        await action(**content)

    async def do_nothing(self, **content):
        await self.send_json({"type": "error", "text": _("Enter a valid value.")})

    async def do_say(self, text):
        if not text:
            await self.send_json({"type": "error", "text": _("This field is required.")})
            return
        await Message.objects.acreate(room=self.room, author=self.user, text=text)
        await self.tell_room("chat.message", text=text)

    async def do_type(self):
        await self.tell_room("chat.typing")

    async def do_who(self):
        seats = Seat.objects.filter(room=self.room).select_related("user")
        people = [seat.user.username async for seat in seats]
        await self.send_json({"type": "who", "people": people})

    async def do_history(self, page=1):
        await self.send_json({"type": "history", **await self.history(page)})

    @database_sync_to_async
    def history(self, page):
        """The newest messages stand on the first page."""
        messages = self.room.messages.select_related("author").order_by("-pk")
        pages = Paginator(messages, self.page_size)
        found = pages.get_page(page)
        return {
            "page": found.number,
            "pages": pages.num_pages,
            "messages": [str(message) for message in found],
        }

    async def do_whisper(self, to, text):
        seats = Seat.objects.filter(user__username=to)
        channel_names = [seat.channel_name async for seat in seats]
        for channel_name in channel_names:
            event = {"type": "chat.whisper", "user": self.user.username, "text": text}
            await self.channel_layer.send(channel_name, event)
        await self.send_json({"type": "whispered", "times": len(channel_names)})

    async def do_announce(self, text, on):
        event = {"type": "chat.announcement", "text": text, "on": on}
        await self.channel_layer.group_send("announcements", event)

    async def do_remove(self, user):
        if not self.user.is_staff:
            await self.close(code=4403)
            return
        async for seat in Seat.objects.filter(room=self.room, user__username=user):
            await self.channel_layer.send(seat.channel_name, {"type": "chat.removal"})

    async def do_ping(self):
        await self.channel_layer.send(self.channel_name, {"type": "chat.pong"})

    async def do_leave(self):
        await self.send_json({"type": "bye"}, close=True)

    # What comes from the channel layer.

    async def chat_message(self, event):
        await self.send_json({"type": "message", "user": event["user"], "text": event["text"]})

    async def chat_presence(self, event):
        await self.send_json(
            {"type": "presence", "user": event["user"], "is_here": event["is_here"]}
        )

    async def chat_typing(self, event):
        if event["from"] != self.channel_name:
            await self.send_json({"type": "typing", "user": event["user"]})

    async def chat_whisper(self, event):
        await self.send_json({"type": "whisper", "user": event["user"], "text": event["text"]})

    async def chat_announcement(self, event):
        on = formats.date_format(date.fromisoformat(event["on"]), "DATE_FORMAT")
        await self.send_json({"type": "announcement", "text": event["text"], "on": on})

    async def chat_removal(self, event):
        await self.close(code=4003, reason="removed")

    async def chat_pong(self, event):
        await self.send_json({"type": "pong"})

    # What is on the wire.

    @classmethod
    async def encode_json(cls, content):
        return json.dumps({"for": viewer.get(), **content})

    @classmethod
    async def decode_json(cls, text_data):
        try:
            content = json.loads(text_data)
        except ValueError:
            content = None
        return content if isinstance(content, dict) else {"do": "nothing"}


class BoardConsumer(AsyncWebsocketConsumer):
    """A board that all draw on: strokes are binary, what is said of them is text."""

    async def __call__(self, scope, receive, send):
        self.colour = parse_qs(scope["query_string"].decode()).get("colour", ["black"])[0]
        self.handled = []
        self.sent = 0
        try:
            return await super().__call__(scope, receive, send)
        finally:
            log("gone", self, handled=self.handled)

    async def dispatch(self, message):
        self.handled.append(message["type"])
        await super().dispatch(message)

    async def websocket_connect(self, message):
        viewer.set(self.colour)
        self.board = f"board.{self.scope['url_route']['kwargs']['slug']}"
        await self.channel_layer.group_add(self.board, self.channel_name)
        await super().websocket_connect(message)
        await self.send(f"welcome, {viewer.get()}")

    async def connect(self):
        log("connect", self)
        raise AcceptConnection

    async def websocket_receive(self, message):
        if message.get("text") == "leave":
            await self.send("bye", close=4100)
            return
        await super().websocket_receive(message)

    async def receive(self, text_data=None, bytes_data=None):
        event = {"type": "board.drawn", "colour": viewer.get(), "text": text_data}
        if bytes_data is not None:
            event["stroke"] = bytes_data
        await self.channel_layer.group_send(self.board, event)

    async def board_drawn(self, event):
        if "stroke" in event:
            await self.send(bytes_data=event["stroke"])
        else:
            await self.send(f"{event['colour']} to {viewer.get()}: {event['text']}")

    async def send(self, text_data=None, bytes_data=None, close=False):
        """With a number before each text."""
        self.sent += 1
        if text_data is not None:
            text_data = f"{self.sent} {text_data}"
        await super().send(text_data, bytes_data, close)

    async def disconnect(self, code):
        log("disconnect", self, code=code)

    async def websocket_disconnect(self, message):
        await self.channel_layer.group_discard(self.board, self.channel_name)
        try:
            await super().websocket_disconnect(message)
        except StopConsumer:
            log("stop", self)
            raise


class CountdownConsumer(AsyncJsonWebsocketConsumer):
    """Counts for the client, in a task of its own, until one of them has had enough."""

    def __init__(self, interval):
        super().__init__()
        self.interval = interval

    async def connect(self):
        self.token = viewer.set(self.scope["user"].username or "anybody")
        await self.accept()
        log("connect", self)
        start = self.scope["url_route"]["kwargs"]["start"]
        self.countdown = asyncio.create_task(self.count(start))

    async def count(self, left):
        try:
            while left > 0:
                await self.send_json({"left": left, "for": viewer.get()})
                left -= 1
                await asyncio.sleep(self.interval)
            await self.close(4200)
        except asyncio.CancelledError:
            log("cancelled", self)
            raise

    async def websocket_disconnect(self, message):
        log("disconnect", self, code=message["code"])
        self.countdown.cancel()
        with suppress(asyncio.CancelledError):
            await self.countdown
        viewer.reset(self.token)
        raise StopConsumer
