"""The HTTP half: the demo page, and what `/ws` says to a request that is no WebSocket."""

from __future__ import annotations

from django.urls import path

from ws_support.demo import views

__all__ = ["urlpatterns"]

app_name = "ws_support"
urlpatterns = [
    path("", views.demo, name="demo"),
    path("ws", views.upgrade_required, name="ws"),
]
