"""How a handshake is refused: one answer, one log line, one signal."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, WebSocketScope

from ws_support import _logging
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
    """Answer a handshake with an HTTP error instead of 101.

    `reason` goes to the client, in one line of plain text, where the server can send one (the
    ASGI extension `websocket.http.response`); elsewhere the client sees a bare 403. It is logged
    with `advice`, which is for the operator and names the setting to change. `rule` is the
    signal's.
    """
    origins = _logging.origins(scope)
    origin = ", ".join(origins) if origins else None
    # %a: whatever the client wrote stays on one line.
    logger.warning(
        "Refused with %d: %s Origin %.200a, path %.200a. %s",
        status,
        reason,
        origin,
        scope["path"],
        advice,
        extra=_logging.fields(scope),
    )
    await rejected.asend_robust(None, scope=scope, origin=origin, status=int(status), rule=rule)
    if (await receive())["type"] != "websocket.connect":
        return  # The client is gone.
    await answer(scope, send, status, reason)


async def answer(
    scope: WebSocketScope, send: ASGISendCallable, status: HTTPStatus, reason: str
) -> None:
    """Answer a handshake with `status`, where the server can, and a line of text."""
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
        # Uvicorn (0.54, websockets-sansio) logs an error for an application that returns before
        # the connection is closed, which happens in the next turn of the loop.
        await asyncio.sleep(0)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
