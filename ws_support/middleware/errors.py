"""The handling of exceptions: those that a client can cause, and those of the application."""

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
from ws_support._connection.denial import answer, refuse_path
from ws_support._logging import is_logged, mark_as_logged
from ws_support.close_codes import CloseCode
from ws_support.exceptions import InvalidMessage

__all__ = ["handle_client_error", "handle_error"]

logger = logging.getLogger("ws_support.client_errors")


async def handle_client_error(
    error: Exception, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> bool:
    """Handle an exception that any client can cause. Return False for all others.

    Servers log a traceback for each exception of an application. Two exceptions do not deserve one:

    - No route matches the path: `URLRouter` raises `ValueError` (Channels 4.3). The handshake is
      refused with 404.
    - The consumer cannot read a message: `InvalidMessage`. The log gets one line.
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
        await refuse_path(scope, receive, send)
        return True
    return False


async def handle_error(error: Exception, scope: Any, send: ASGISendCallable) -> None:
    """Log an exception of the application once, and answer the handshake if nothing has yet.

    The exception is not raised to the server: servers would log it without the path and the client,
    and Granian (2.8) without the exception. Without a server, in a test, it is raised.
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
    # Servers raise different errors when the client has gone meanwhile.
    with suppress(Exception):
        await answer(scope, send, HTTPStatus.INTERNAL_SERVER_ERROR, "The server has failed.")


def _raised_by_router(traceback: TracebackType | None) -> bool:
    """Return True if the router itself has raised, and not a consumer behind it."""
    code = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        traceback = traceback.tb_next
    return code is URLRouter.__call__.__code__
