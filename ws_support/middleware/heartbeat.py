"""Who is still there: opened, alive, ended, told to signals and logs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Final, cast

from asgiref.sync import markcoroutinefunction
from asgiref.typing import (
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
    WebSocketScope,
)

from ws_support import logs
from ws_support.closing import CloseCode
from ws_support.conf import FROM_SETTINGS, FromSettings, MiddlewareOptions, Options
from ws_support.signals import connected, disconnected, rejected
from ws_support.tasks import cancelled_by_others

logger = logging.getLogger("ws_support.heartbeat")

_OPTIONS: Final = {
    "HEARTBEAT_INTERVAL": "interval",
    "HEARTBEAT_MESSAGE": "message",
    "HEARTBEAT_REPLY": "reply",
}
_SCOPE_KEY: Final = "ws_support.heartbeat"

_CLOSE_TIMEOUT: Final = 0.5
"""Seconds that sending the close frame may hold up the report of a dead client: its full buffers
would block that for ever."""

_GRACE: Final = 0.1
"""Seconds from the end of the silence to the verdict. When something blocked the event loop, the
messages that came meanwhile are read in that time."""


class Heartbeat:
    """Closes connections whose client has been silent for too long, with 3008.

    A network that goes away sends no close: without this, the server finds out when TCP gives up,
    after minutes or never. So the client promises a message every `interval` seconds; after twice
    that without one, the connection is closed and reported as one whose client said goodbye: the
    application receives `websocket.disconnect`, and the signal `disconnected` follows.

    A `message` is answered with `reply` and not handed on. Silence counts while the application
    waits for a message; while it is busy with the last one, unread messages may be waiting.

    The arguments replace `HEARTBEAT_INTERVAL` (seconds), `HEARTBEAT_MESSAGE` and `HEARTBEAT_REPLY`
    of `WS_SUPPORT`. On a route inside `WebSocketSupport` they replace what it said for this route.
    Raises `ImproperlyConfigured` for one that cannot be used.

    Per message this costs one reading of the clock, and per connection one timer.
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

    @markcoroutinefunction  # Servers look for that: it is an ASGI 3 application.
    def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Awaitable[None]:
        # No coroutine of its own: each one is gone through whenever a message arrives.
        if scope["type"] != "websocket":
            return self.application(scope, receive, send)  # type: ignore[no-any-return]
        watch: _Watch | None = scope.get(_SCOPE_KEY)  # type: ignore[assignment]
        if watch is None:
            return _Watch(scope, receive, send, self._options()).run(self.application)
        watch.options = self._options.over(watch.options)
        return self.application(scope, receive, send)  # type: ignore[no-any-return]


class _Watch:
    """One connection, from its handshake to its end."""

    def __init__(
        self,
        scope: WebSocketScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        options: Options,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._opened_at: float | None = None
        self._heard_at = 0.0
        self._code: int | None = None
        self._reason = ""
        # The task that waits for a message now. When none comes, it is woken.
        self._reader: asyncio.Task[Any] | None = None
        self._woken: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._in_grace = False
        self._expired = False
        self.options = options

    @property
    def options(self) -> Options:
        """What holds for this connection: a `Heartbeat` on its route may replace it."""
        return self._options

    @options.setter
    def options(self, options: Options) -> None:
        self._options = options
        # Alone what is looked at for each message.
        promised = options.heartbeat_interval is not None
        self._message = options.heartbeat_message if promised else None

    async def run(self, application: Any) -> None:
        try:
            await application({**self._scope, _SCOPE_KEY: self}, self.receive, self.send)
        except asyncio.CancelledError:
            self._end(CloseCode.GOING_AWAY, "")
            raise
        except BaseException:
            self._end(CloseCode.INTERNAL_ERROR, "")
            raise
        finally:
            # An application that returns without closing leaves that to the server: 1000.
            self._end(CloseCode.NORMAL_CLOSURE, "")
            if self._opened_at is not None:
                await self._report_end(self._opened_at)

    async def receive(self) -> ASGIReceiveEvent:
        while not self._expired:
            reader: asyncio.Task[Any] = asyncio.current_task(self._loop)  # type: ignore[assignment]
            self._reader = reader
            try:
                message = await self._receive()
            except asyncio.CancelledError:
                self._reader = None
                if reader is not self._woken or cancelled_by_others(reader):
                    raise
                self._woken = None
                continue
            self._reader = None
            self._heard_at = self._now()
            if message["type"] == "websocket.receive":
                if self._message is None or message.get("text") != self._message:
                    return message
                await self._answer()
            else:
                if message["type"] == "websocket.disconnect":
                    code = message.get("code")
                    self._end(
                        CloseCode.NO_STATUS_RECEIVED if code is None else code,
                        message.get("reason") or "",
                    )
                return message
        self._expired = False
        return await self._close_silent()

    @markcoroutinefunction  # For async_to_sync, which warns otherwise.
    def send(self, message: ASGISendEvent) -> Any:
        # No coroutine of its own: this is on the path of each message.
        if message["type"] == "websocket.send":
            return self._send(message)
        return self._send_other(message)

    async def _send_other(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.close" and self._opened_at is None:
            await self._report_refusal(403)
        elif message["type"] == "websocket.http.response.start":
            await self._report_refusal(message["status"])
        await self._send(message)
        # Not before: the server may refuse the message, and the connection goes on.
        if message["type"] == "websocket.close":
            self._end(message.get("code") or 1000, message.get("reason") or "")
        elif message["type"] == "websocket.accept" and self._code is None:
            await self._begin()

    async def _begin(self) -> None:
        if self._opened_at is not None:
            return  # A second accept, on a server that lets it pass.
        self._opened_at = self._heard_at = self._now()
        self._start_timer()
        logger.info("Connected: path %.200a.", self._scope["path"], extra=logs.fields(self._scope))
        await connected.asend_robust(None, scope=self._scope)

    def _end(self, code: int, reason: str) -> None:
        """The first side that ends the connection says why."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._code is None:
            self._code = int(code)
            self._reason = reason

    async def _report_end(self, opened_at: float) -> None:
        duration = self._now() - opened_at
        logger.info(
            "Disconnected with %d after %.1f s: path %.200a.",
            self._code,
            duration,
            self._scope["path"],
            extra=logs.fields(self._scope, code=self._code, duration=duration),
        )
        await disconnected.asend_robust(
            None, scope=self._scope, code=self._code, reason=self._reason, duration=duration
        )

    async def _report_refusal(self, status: int) -> None:
        origin = logs.fields(self._scope)["origin"]
        await rejected.asend_robust(
            None, scope=self._scope, origin=origin, status=status, rule="application"
        )

    async def _answer(self) -> None:
        if self._code is None:
            reply = {"type": "websocket.send", "text": self._options.heartbeat_reply}
            # OSError: the client is gone (ASGI 2.4), as the next message says.
            with suppress(OSError):
                await self._send(cast(ASGISendEvent, reply))

    # The timer. It is set for the end of the silence that is allowed. When it fires and there was
    # a message meanwhile, it is set again, counting from that message.

    def _start_timer(self) -> None:
        if self._options.heartbeat_interval is not None:
            silence = 2 * self._options.heartbeat_interval
            self._set_timer(silence, silence)

    def _set_timer(self, delay: float, silence: float) -> None:
        self._timer = self._loop.call_later(delay, self._check, silence)

    def _check(self, silence: float) -> None:
        now = self._now()
        if self._reader is None:
            # The application is busy. What came meanwhile is unread, so the count starts again.
            self._heard_at = now
        left = self._heard_at + silence - now
        if left > 0:
            self._in_grace = False
            self._set_timer(left, silence)
        elif not self._in_grace:
            self._in_grace = True
            self._set_timer(_GRACE, silence)
        else:
            self._expire(silence)

    def _expire(self, silence: float) -> None:
        self._expired = True
        self._end(CloseCode.TIMEOUT, f"No message for {silence:g} seconds")
        logger.info(
            "Closed with 3008: no message for %g seconds, path %.200a."
            ' To allow more, raise WS_SUPPORT["HEARTBEAT_INTERVAL"] or the interval of its route.',
            silence,
            self._scope["path"],
            extra=logs.fields(self._scope, code=self._code),
        )
        self._woken = self._reader
        self._woken.cancel()  # type: ignore[union-attr]  # `_check` has seen to that.

    async def _close_silent(self) -> ASGIReceiveEvent:
        """Close the connection, and say what the server will not: that the client has gone."""
        send, self._send = self._send, _discard
        try:
            await asyncio.wait_for(
                send(
                    {
                        "type": "websocket.close",
                        "code": self._code or CloseCode.TIMEOUT,
                        "reason": self._reason,
                    }
                ),
                _CLOSE_TIMEOUT,
            )
        except Exception as error:
            # Servers differ in what they raise when the connection has ended meanwhile.
            logger.debug("The close frame was not sent: %r", error, extra=logs.fields(self._scope))
        return {
            "type": "websocket.disconnect",
            "code": self._code or CloseCode.TIMEOUT,
            "reason": self._reason,
        }


async def _discard(message: ASGISendEvent) -> None:
    """Where messages go that are sent to a client that was given up."""
