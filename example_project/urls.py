from __future__ import annotations

from django.urls import include, path

from example_project import hub, live, room

urlpatterns = [
    path("", include("ws_support.urls")),
    path("live", live.page, name="example_project_live"),
    path("hub", hub.page, name="example_project_hub"),
    path("room", room.page, name="example_project_room"),
    path("room/<slug:room>", room.page, name="example_project_room"),
    path("live/send", live.send, name="live-send"),
]
