"""The test project's application with a Socket.IO application of python-socketio beside it."""

from __future__ import annotations

import socketio

from tests.project import asgi
from tests.project.events import log

PATH = "/socket.io/"


def is_allowed(origin, environ):
    return origin != "https://refused.example"


sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins=is_allowed)


@sio.event
async def connect(sid, environ):
    log("Socket.IO connect", path=PATH + sid)


@sio.event
async def disconnect(sid, reason):
    log("Socket.IO disconnect", path=PATH + sid, reason=reason)


@sio.event
async def echo(sid, data):
    return data


beside = socketio.ASGIApp(sio, other_asgi_app=asgi.application)


async def application(scope, receive, send):
    """Logs requests, so that a test knows when a long one has begun."""
    if scope["type"] == "http":
        log(scope["method"], path=scope["path"])
    await beside(scope, receive, send)
