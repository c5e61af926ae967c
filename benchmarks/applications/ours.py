"""This package with all that it does: origins are checked, and the heartbeat is on."""

from __future__ import annotations

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

django.setup()

from ws_support.asgi import WebSocketSupport  # noqa: E402
from ws_support.consumers import EchoConsumer  # noqa: E402

application = ProtocolTypeRouter(
    {"websocket": WebSocketSupport(URLRouter([path("ws", EchoConsumer.as_asgi())]))}
)
