"""The page at /live: a background service and broadcasts, as sockets and as views."""

from __future__ import annotations

import os
import secrets

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from example_project.ticker import ticker
from ws_support.broadcast import BroadcastError, broadcast_json
from ws_support.consumers import AsyncJsonWebsocketConsumer
from ws_support.websocket import WebSocket, websocket_view

MAX_LENGTH = 500
"""Characters of a text that is broadcast."""

# The project's own files, and inline only what has the nonce; 'self' holds for sockets, too.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self'; img-src data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@websocket_view
async def ticks(websocket: WebSocket) -> None:
    """Hands its socket to the service, which is the only one that writes to it."""
    await websocket.accept()
    ticker.add(websocket)
    await websocket.wait_closed()


class Board(AsyncJsonWebsocketConsumer):
    """Says first which process it runs in. All that follows is what is broadcast."""

    subscriptions = ["board"]

    async def connect(self) -> None:
        await self.accept()
        await self.send_json({"pid": os.getpid()})


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    nonce = secrets.token_urlsafe(16)
    response = render(request, "example_project/live.html", {"nonce": nonce})
    response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY.format(nonce=nonce)
    return response


@require_POST
async def send(request: HttpRequest) -> HttpResponse:
    """Broadcast the text to every board, whichever process it is on."""
    # Browsers send CRLF for a new line.
    text = request.POST.get("text", "").replace("\r\n", "\n").strip()
    if not text:
        return _refusal(400, "There is no text to send.")
    if len(text) > MAX_LENGTH:
        return _refusal(400, f"The text has {len(text)} characters, and {MAX_LENGTH} are the most.")
    message = {"text": text, "pid": os.getpid(), "time": timezone.now().isoformat()}
    try:
        await broadcast_json("board", message)
    except BroadcastError:
        return _refusal(503, "Not sent, or not to everybody: the channel layer is away.")
    return HttpResponse(status=204)


def _refusal(status: int, reason: str) -> HttpResponse:
    return HttpResponse(reason, status=status, content_type="text/plain; charset=utf-8")
