"""One consumer on two bases: it uses the database as the client asks it to."""

from __future__ import annotations

import json
import time

from asgiref.sync import SyncToAsync, sync_to_async
from channels.db import database_sync_to_async
from channels.generic import websocket as channels
from django.db import DatabaseError, connections, transaction

from tests.database_project.backend import base as backend
from tests.database_project.models import Visit
from ws_support import consumers as ws_support
from ws_support.websocket import websocket_view

copies = []


class Asked:
    last_query = None

    async def receive(self, text_data=None, bytes_data=None):
        command = json.loads(text_data)
        answer = {"arrived": self.scope["arrived"][-1], "handled": time.monotonic()}
        answer |= await self.do(**command) or {}
        answer["hops"] = SyncToAsync.single_thread_executor.submitted
        answer["closings"] = sum(backend.closings.values())
        await self.send(text_data=json.dumps(answer))

    async def disconnect(self, code):
        if self.last_query is not None:
            await Visit.objects.using(self.last_query).acount()

    async def do(self, do, database=None):
        match do:
            case "nothing":
                pass
            case "look":
                return await sync_to_async(look)(database)
            case "query":
                try:
                    await Visit.objects.using(database).acount()
                except DatabaseError as error:
                    return {"error": str(error)}
                return await sync_to_async(look)(database)
            case "query and let it raise":
                await Visit.objects.using(database).acount()
            case "query wrongly":
                try:
                    await Visit.objects.using(database).extra(where=["no_column"]).acount()
                except DatabaseError as error:
                    return {"error": str(error), **await sync_to_async(look)(database)}
            case "query with database_sync_to_async":
                return await database_sync_to_async(query)(database)
            case "query in another thread":
                return await sync_to_async(query, thread_sensitive=False)(database)
            case "query in the end":
                self.last_query = database
            case "leave autocommit off":
                await sync_to_async(transaction.set_autocommit)(False, using=database)
                return await sync_to_async(look)(database)
            case "open a copy":
                await sync_to_async(open_a_copy)(database)
        return None


class OnChannels(Asked, channels.AsyncWebsocketConsumer):
    pass


class OnOurs(Asked, ws_support.AsyncWebsocketConsumer):
    pass


class OnOursWithDispatch(OnOurs):
    """Sees each message, and so needs each to take the same way."""

    async def dispatch(self, message):
        await super().dispatch(message)


class _OnView(Asked):
    def __init__(self, websocket):
        self.scope = websocket.scope
        self.send = lambda text_data: websocket.send(text_data)


@websocket_view
async def on_view(websocket, socket):
    await websocket.accept()
    asked = _OnView(websocket)
    async for text in websocket:
        await asked.receive(text)
    await asked.disconnect(websocket.close_code)


def query(database):
    Visit.objects.using(database).count()
    return look(database)


def look(database):
    """The number of the connection that this thread has open, and until when it may be."""
    connection = connections[database]
    number = None if connection.connection is None else connection.number
    return {"number": number, "close_at": connection.close_at}


def open_a_copy(database):
    """A connection of one's own, as for PostgreSQL's LISTEN or for an advisory lock."""
    copies.append(connections[database].copy())
    copies[-1].ensure_connection()
