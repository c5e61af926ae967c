"""The WebSocket routes: put `websocket_urlpatterns` into the `URLRouter` of your `asgi.py`."""

from __future__ import annotations

from django.urls import path

from ws_support.consumers import EchoConsumer

websocket_urlpatterns = [path("ws", EchoConsumer.as_asgi())]
