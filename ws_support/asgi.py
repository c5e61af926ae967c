"""The middleware of this package in one class, `WebSocketSupport`, for `asgi.py`."""

from __future__ import annotations

from collections.abc import Collection
from re import Pattern
from typing import Any

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from ws_support.conf import FROM_SETTINGS, FromSettings
from ws_support.middleware.errors import handle_client_error, handle_error
from ws_support.middleware.heartbeat import Heartbeat
from ws_support.middleware.origin import OriginValidator

__all__ = ["WebSocketSupport"]


class WebSocketSupport:
    """The middleware that goes around the WebSocket part of your ASGI application.

        application = ProtocolTypeRouter({
            "http": get_asgi_application(),
            "websocket": WebSocketSupport(AuthMiddlewareStack(URLRouter(websocket_urlpatterns))),
        })

    A handshake that passes the origin check gets to `application`; one for an unknown path is
    refused. From the accept on, the heartbeat watches the connection. Scopes of other types, such
    as HTTP requests, pass unchanged.

    The keyword arguments replace the keys of `WS_SUPPORT` with the same names, for this
    application. `origin_validator` is the class that decides about origins: give a subclass to
    decide for each connection. Raises `ImproperlyConfigured` for an argument or a setting that
    cannot be used, so that no server starts with it.
    """

    checks_origins = True  # For `manage.py check`, which looks for routes without it.

    def __init__(
        self,
        application: Any,
        *,
        allowed_origins: Collection[str] | FromSettings | None = FROM_SETTINGS,
        allowed_origin_regexes: Collection[str | Pattern[str]] | FromSettings = FROM_SETTINGS,
        allow_missing_origin: bool | FromSettings = FROM_SETTINGS,
        heartbeat_interval: float | FromSettings | None = FROM_SETTINGS,
        heartbeat_message: str | FromSettings | None = FROM_SETTINGS,
        heartbeat_reply: str | FromSettings = FROM_SETTINGS,
        origin_validator: type[OriginValidator] = OriginValidator,
    ) -> None:
        self.application = application
        self._heartbeat = Heartbeat(
            application,
            interval=heartbeat_interval,
            message=heartbeat_message,
            reply=heartbeat_reply,
        )
        self._origins = origin_validator(
            self._heartbeat,
            allowed_origins,
            allowed_origin_regexes=allowed_origin_regexes,
            allow_missing_origin=allow_missing_origin,
        )

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Any:  # The types of path() forbid None as the result.
        # The middlewares are not nested: each level would add a coroutine, which costs memory for
        # the whole connection, and time for each message.
        if scope["type"] != "websocket":
            await self.application(scope, receive, send)
        elif await self._origins.admits(scope, receive, send):
            try:
                await self._heartbeat.watched(scope, receive, send)
            except Exception as error:
                if not await handle_client_error(error, scope, receive, send):
                    await handle_error(error, scope, send)
