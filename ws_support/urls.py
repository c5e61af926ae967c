"""The HTTP routes of the demo page: the page itself, and 426 for HTTP requests to `/ws`."""

from __future__ import annotations

from django.urls import path

from ws_support.demo import views

__all__ = ["urlpatterns"]

app_name = "ws_support"
urlpatterns = [
    path("", views.demo, name="demo"),
    path("ws", views.upgrade_required, name="ws"),
]
