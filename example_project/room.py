"""The page at /room: a chat on a topic with a history, and who is there."""

from __future__ import annotations

import secrets

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from example_project.live import CONTENT_SECURITY_POLICY
from example_project.topics import MAX_NAME, MAX_TEXT, RoomTopic


@require_safe
def page(request: HttpRequest, room: str = "lobby") -> HttpResponse:
    nonce = secrets.token_urlsafe(16)
    context = {
        "nonce": nonce,
        "room": room,
        "topic": RoomTopic.name(room=room),
        "max_name": MAX_NAME,
        "max_text": MAX_TEXT,
        "history": RoomTopic.history,
        "has_redis": bool(settings.REDIS_URL),
    }
    response = render(request, "example_project/room.html", context)
    response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY.format(nonce=nonce)
    return response
