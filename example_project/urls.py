from __future__ import annotations

from django.urls import include, path

from example_project import live

urlpatterns = [
    path("", include("ws_support.urls")),
    path("live", live.page, name="example_project_live"),
    path("live/send", live.send, name="live-send"),
]
