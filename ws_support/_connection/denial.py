"""Denial responses: a refused handshake gets one answer, one log line and one signal."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, WebSocketScope

from ws_support import _logging
from ws_support._connection.lifecycle import Lifecycle
from ws_support.signals import rejected


async def refuse(
    scope: WebSocketScope,
    receive: ASGIReceiveCallable,
    send: ASGISendCallable,
    *,
    status: HTTPStatus,
    rule: str,
    reason: str,
    logger: logging.Logger,
    advice: str,
) -> None:
    """Answer a handshake with the HTTP error `status` instead of 101.

    `reason` goes to the client as one line of plain text, if the server can send a denial response
    (the ASGI extension `websocket.http.response`); otherwise the client sees a 403 without content.
    The log line has `reason` and `advice`, which tells the operator which setting to change. `rule`
    is an argument of the signal `rejected`.
    """
    origins = _logging.origins(scope)
    origin = ", ".join(origins) if origins else None
    # %a escapes line breaks: text of the client cannot forge a log line.
    logger.warning(
        "Refused with %d: %s. Origin %.200a, path %.200a. %s",
        status,
        reason.rstrip("."),
        origin,
        scope["path"],
        advice,
        extra=_logging.fields(scope),
    )
    await rejected.asend_robust(None, scope=scope, origin=origin, status=int(status), rule=rule)
    if (lifecycle := Lifecycle.of(scope)) is not None:
        lifecycle.note_refusal()
    if (await receive())["type"] != "websocket.connect":
        return  # The client has gone.
    await answer(scope, send, status, reason)


async def refuse_path(scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Refuse a handshake for a path at which there is no WebSocket."""
    await refuse(
        scope,
        receive,
        send,
        status=HTTPStatus.NOT_FOUND,
        rule="path",
        reason="There is no WebSocket at this path.",
        logger=logging.getLogger("ws_support.client_errors"),
        advice="To serve it, add a route to the URLRouter in asgi.py. The path of a hub is that in"
        " HubRouter, without a slash at its end.",
    )


async def answer(
    scope: WebSocketScope, send: ASGISendCallable, status: HTTPStatus, reason: str
) -> None:
    """Answer a handshake with `status` and `reason`, or with 403 on a server that cannot."""
    if "websocket.http.response" in (scope.get("extensions") or {}):
        body = f"{reason}\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send(
            {"type": "websocket.http.response.start", "status": int(status), "headers": headers}
        )
        await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
        # Uvicorn (0.54, websockets-sansio) closes the connection in the next turn of the loop, and
        # logs an error for an application that returns before that.
        await asyncio.sleep(0)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
