"""Errors that a client causes are none of the application's."""

from __future__ import annotations

import logging
from http import HTTPStatus
from types import TracebackType
from typing import Any

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from channels.routing import URLRouter
from django.urls.exceptions import Resolver404

from ws_support import logs
from ws_support.closing import InvalidMessage
from ws_support.middleware.refusal import refuse

logger = logging.getLogger("ws_support.client_errors")


class ClientErrors:
    """Keeps exceptions that any client can cause away from the server, which logs a traceback.

    - A path that no route leads to: Channels' `URLRouter` raises `ValueError` (Channels 4.3). The
      handshake is refused with 404.
    - A message that the consumer cannot read: `InvalidMessage`. One line in the log.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        try:
            await self.application(scope, receive, send)
        except InvalidMessage as error:
            logger.warning(
                "Closed for an invalid message: %.200a, path %.200a.",
                str(error),
                scope["path"],  # type: ignore[typeddict-item]  # Consumers raise it, for WebSockets.
                extra=logs.fields(scope),
            )
        except (ValueError, Resolver404) as error:
            if scope["type"] != "websocket" or not _raised_by_router(error.__traceback__):
                raise
            await refuse(
                scope,
                receive,
                send,
                status=HTTPStatus.NOT_FOUND,
                rule="path",
                reason="There is no WebSocket at this path.",
                logger=logger,
                advice="To serve it, add a route to the URLRouter in asgi.py.",
            )


def _raised_by_router(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame is the router's: a consumer's own error is none of ours."""
    code = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        traceback = traceback.tb_next
    return code is URLRouter.__call__.__code__
