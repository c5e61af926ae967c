"""The WebSocket routes of the demo page, for the `URLRouter` in your `asgi.py`."""

from __future__ import annotations

from django.urls import path

from ws_support.demo.consumers import DemoConsumer

__all__ = ["websocket_urlpatterns"]

websocket_urlpatterns = [path("ws", DemoConsumer.as_asgi())]
