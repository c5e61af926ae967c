"""Errors that a client causes are none of the application's."""

from __future__ import annotations

import logging
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Any

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from channels.routing import URLRouter
from django.urls.exceptions import Resolver404

from ws_support import _logging
from ws_support._asgi import UNANSWERED, is_served
from ws_support._connection.denial import answer, refuse
from ws_support._logging import is_logged, mark_as_logged
from ws_support.close_codes import CloseCode
from ws_support.exceptions import InvalidMessage

__all__ = ["handle_client_error", "handle_error"]

logger = logging.getLogger("ws_support.client_errors")


async def handle_client_error(
    error: Exception, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> bool:
    """Deal with an exception that any client can cause; `False` for all others.

    Servers log a traceback for what an application raises. Two things are not worth one:

    - A path that no route leads to: Channels' `URLRouter` raises `ValueError` (Channels 4.3). The
      handshake is refused with 404.
    - A message that the consumer cannot read: `InvalidMessage`. One line in the log.
    """
    if isinstance(error, InvalidMessage):
        logger.warning(
            "Closed for an invalid message: %.200a, path %.200a.",
            str(error),
            scope["path"],  # type: ignore[typeddict-item]  # Consumers raise it, for WebSockets.
            extra=_logging.fields(scope),
        )
        return True
    if isinstance(error, (ValueError, Resolver404)) and _raised_by_router(error.__traceback__):
        await refuse(
            scope,  # type: ignore[arg-type]  # `WebSocketSupport` asks for WebSockets only.
            receive,
            send,
            status=HTTPStatus.NOT_FOUND,
            rule="path",
            reason="There is no WebSocket at this path.",
            logger=logger,
            advice="To serve it, add a route to the URLRouter in asgi.py.",
        )
        return True
    return False


async def handle_error(error: Exception, scope: Any, send: ASGISendCallable) -> None:
    """Log what an application has raised, once, and answer the handshake if that is left to do.

    Servers log it in their own words, without the path and the client, and Granian (2.8) without
    the exception: they do not hear of it. A test hears of it, since its exception is raised.
    """
    if not is_logged(error):
        logger.error(
            "The application raised %.500r: path %.200a.",
            error,
            scope["path"],
            exc_info=error,
            extra=_logging.fields(scope, code=CloseCode.INTERNAL_ERROR),
        )
        mark_as_logged(error)
    if not is_served(scope):
        raise error
    if not scope.pop(UNANSWERED, False):
        return
    # Servers differ in what they raise when the client has gone meanwhile.
    with suppress(Exception):
        await answer(scope, send, HTTPStatus.INTERNAL_SERVER_ERROR, "The server has failed.")


def _raised_by_router(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame is the router's: a consumer's own error is none of ours."""
    code = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        traceback = traceback.tb_next
    return code is URLRouter.__call__.__code__
