"""The heartbeat: connections of silent clients are closed."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from ws_support._connection.lifecycle import Lifecycle
from ws_support.conf import FROM_SETTINGS, FromSettings, MiddlewareOptions

__all__ = ["Heartbeat"]

_OPTIONS: Final = {
    "HEARTBEAT_INTERVAL": "interval",
    "HEARTBEAT_MESSAGE": "message",
    "HEARTBEAT_REPLY": "reply",
}


class Heartbeat:
    """Closes connections whose client has been silent for too long, with 3008.

    A network that goes away sends no close: without this, the server finds out when TCP gives up,
    after minutes or never. So the client promises a message every `interval` seconds; after twice
    that without one, the connection is closed and reported as one whose client said goodbye: the
    application receives `websocket.disconnect`, and the signal `disconnected` follows.

    A `message` is answered with `reply` and not handed on. Silence counts while messages are
    received. The consumers of this package go on with that while they are busy; for others, which
    do not, unread messages may be waiting then.

    The arguments replace `HEARTBEAT_INTERVAL` (seconds), `HEARTBEAT_MESSAGE` and `HEARTBEAT_REPLY`
    of `WS_SUPPORT`. On a route inside `WebSocketSupport` they replace what it said for this route.
    Raises `ImproperlyConfigured` for one that cannot be used.

    Per connection this costs one timer, and per message one reading of the clock; in front of other
    consumers than those of this package also one coroutine.
    """

    def __init__(
        self,
        application: Any,
        *,
        interval: float | FromSettings | None = FROM_SETTINGS,
        message: str | FromSettings | None = FROM_SETTINGS,
        reply: str | FromSettings = FROM_SETTINGS,
    ) -> None:
        self.application = application
        self._options = MiddlewareOptions(
            type(self).__name__, _OPTIONS, interval=interval, message=message, reply=reply
        )

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Any:  # path() takes nothing that returns None for sure.
        await self.watched(scope, receive, send)

    def watched(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Awaitable[None]:
        """The same for other middleware, without a coroutine of its own, which would be gone
        through whenever a message arrives."""
        if scope["type"] != "websocket":
            return self.application(scope, receive, send)  # type: ignore[no-any-return]
        lifecycle = Lifecycle.of(scope)
        if lifecycle is None:
            return Lifecycle(scope, receive, send, self._options()).run(self.application)
        lifecycle.options = self._options.over(lifecycle.options)
        return self.application(scope, receive, send)  # type: ignore[no-any-return]
