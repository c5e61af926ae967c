"""The heartbeat middleware, which closes the connections of silent clients."""

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

    A network that fails sends no close frame: without a heartbeat, the server notices only when TCP
    gives up, after minutes or never. Therefore the client promises a message every `interval`
    seconds. After twice that time without a message, the connection is closed. The application then
    receives `websocket.disconnect`, and the signal `disconnected` follows, as after any other end.

    The text `message` is answered with `reply` and does not reach the application. Silence is only
    counted while messages are received. The consumers of this package receive also while they are
    busy; other consumers do not, so that unread messages may be waiting meanwhile.

    The arguments replace `HEARTBEAT_INTERVAL` (seconds), `HEARTBEAT_MESSAGE` and `HEARTBEAT_REPLY`
    of `WS_SUPPORT`. On a route inside `WebSocketSupport` they replace its values for this route.
    Raises `ImproperlyConfigured` for an argument that cannot be used.

    The cost is one timer for each connection, and one reading of the clock for each message; with
    consumers of other packages also one coroutine for each message.
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
    ) -> Any:  # The types of path() forbid None as the result.
        await self.watched(scope, receive, send)

    def watched(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Awaitable[None]:
        """Run the application with the heartbeat, as `__call__()` does, for use by a middleware.

        This is not a coroutine function: a coroutine more would cost time for each message.
        """
        if scope["type"] != "websocket":
            return self.application(scope, receive, send)  # type: ignore[no-any-return]
        lifecycle = Lifecycle.of(scope)
        if lifecycle is None:
            return Lifecycle(scope, receive, send, self._options()).run(self.application)
        lifecycle.options = self._options.over(lifecycle.options)
        return self.application(scope, receive, send)  # type: ignore[no-any-return]
