"""The lifecycle of a connection: its start and its end, reported to signals and logs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, Final, Protocol, cast

from asgiref.sync import markcoroutinefunction
from asgiref.typing import (
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    WebSocketCloseEvent,
    WebSocketScope,
)
from channels.exceptions import StopConsumer
from channels.utils import await_many_dispatch

from ws_support import _logging
from ws_support._asgi import UNANSWERED, check_accept, check_close, is_served
from ws_support._asyncio import cancelled_by_others
from ws_support._connection.queue import MessageQueue
from ws_support._connection.registry import open_connections
from ws_support._connection.silence import SilenceTimer
from ws_support._connection.state import LOST, Close, Side
from ws_support.close_codes import CloseCode
from ws_support.conf import Options
from ws_support.exceptions import ClientGone, is_client_gone
from ws_support.signals import connected, disconnected, rejected

logger = logging.getLogger("ws_support.heartbeat")

_SCOPE_KEY: Final = "ws_support.lifecycle"

_CLOSE_TIMEOUT: Final = 0.5
"""Seconds that sending the close frame may delay the report of a silent client: full buffers would
block it forever."""

TURN: Final = 128
"""Messages after which other tasks get their turn, since a server's `send()` may never yield."""

_END_TIMEOUT: Final = 1.0
"""Seconds to wait until the server says why a connection has ended, after it refused a message."""


class Listener(Protocol):
    """Receives from the server in place of a `Lifecycle`, and reports each message to it."""

    @property
    def is_reading(self) -> bool:
        """True while messages are received. If not, unread messages may be waiting."""

    def give_up(self, code: int, reason: str) -> None:
        """End the connection of a client that is silent."""

    async def close(self, code: int, reason: str) -> None:
        """Close the connection in the same way as its application would."""


_RETURNED: Final = Close(CloseCode.NORMAL_CLOSURE, "", Side.APPLICATION)
"""The end by an application that returns without closing: the server closes with 1000."""

_RAISED: Final = Close(CloseCode.INTERNAL_ERROR, "", Side.APPLICATION)
"""The end by an application that raises an exception."""

_CANCELLED: Final = Close(CloseCode.SERVICE_RESTART, "", Side.SERVER)
"""The end by a server that cancels the application."""


class Lifecycle:
    """The lifecycle of one connection, from its handshake to its end.

    A `Lifecycle` stands between the server and the application. `WebSocketSupport` or a `Heartbeat`
    creates one for each connection, and puts it into the scope.
    """

    __slots__ = (
        "_application_end",
        "_closing",
        "_end",
        "_is_cancelled",
        "_is_refused",
        "_listener",
        "_opened_at",
        "_options",
        "_other_readers",
        "_queue",
        "_reader",
        "_reading",
        "_receive",
        "_scope",
        "_send",
        "_silence",
        "_task",
        "_turn",
        "_unheard",
        "heard_at",
        "heartbeat",
    )

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
        self._opened_at: float | None = None
        self.heard_at = 0.0
        # The end by the side that ends the connection first, once it is known.
        self._end: Close | None = None
        # The end by the application. While its close frame is being sent, another may come first.
        self._application_end = _RETURNED
        # The end that the application has to hear of in its next `receive()`.
        self._unheard: Close | None = None
        # The task that sends a close frame in place of the application.
        self._closing: asyncio.Task[None] | None = None
        # True if others have reported the refusal of the handshake.
        self._is_refused = False
        # True if the application was cancelled by `cancel()`, and not by the server.
        self._is_cancelled = False
        self._listener: Listener | None = None
        # The task that waits in `receive()` for a message of the server.
        self._reader: asyncio.Task[Any] | None = None
        # Further ones, if several tasks of the application receive at the same time.
        self._other_readers: tuple[asyncio.Task[Any], ...] = ()
        self._silence: SilenceTimer | None = None
        self._turn = TURN
        self._queue: MessageQueue | None = None
        self._reading: asyncio.Task[None] | None = None
        self.options = options

    @property
    def options(self) -> Options:
        """The options of this connection. A `Heartbeat` on its route may replace them."""
        return self._options

    @options.setter
    def options(self, options: Options) -> None:
        self._options = options
        # An attribute of its own, since it is read for each message.
        promised = options.heartbeat_interval is not None
        self.heartbeat = options.heartbeat_message if promised else None

    async def run(self, application: Any) -> None:
        """Run `application` on the connection, and report the end."""
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        # The scope itself is changed: a copy would take more memory than all else here.
        self._scope[_SCOPE_KEY] = self  # type: ignore[typeddict-unknown-key]
        open_connections.add(self)
        try:
            await application(self._scope, self.receive, self.send)
        except asyncio.CancelledError as error:
            end = self._note(_CANCELLED)
            if not self._is_our_cancellation():
                raise
            # Not raised: servers log a traceback for it (Uvicorn 0.54, Granian 2.8).
            await self._tell_consumer(error, end)
        except Exception as error:
            if is_client_gone(error):
                self._application_end = LOST
                await self._hear_the_end(error)
                return
            self._application_end = _RAISED
            # Closed here, since not every server sends 1011 (Uvicorn 0.54 and Granian 2.8 do not).
            if self._end is None and self._opened_at is None:
                self._scope[UNANSWERED] = True  # type: ignore[typeddict-unknown-key]
            elif self._end is None and is_served(self._scope):
                self._start_close(_RAISED)
            raise
        finally:
            try:
                if self._closing is not None:
                    await self._unless_cancelled(asyncio.wait([self._closing]))
            finally:
                await self._finish()

    async def _finish(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        # Breaks two reference cycles, which would wait for the garbage collector.
        del self._scope[_SCOPE_KEY]  # type: ignore[typeddict-item]
        self._listener = None
        end = self._note(self._application_end)
        try:
            if self._opened_at is not None:
                duration = monotonic() - self._opened_at
                await report_end(self._scope, end.code, end.reason, duration)
        finally:
            open_connections.remove(self)

    async def _unless_cancelled(self, awaitable: Awaitable[Any]) -> None:
        """Wait for `awaitable`, or until `cancel()` is called."""
        try:
            await awaitable
        except asyncio.CancelledError:
            if not self._is_our_cancellation():
                raise

    def _is_our_cancellation(self) -> bool:
        """Return True, once, if `cancel()` has cancelled the application, and nobody else."""
        is_ours, self._is_cancelled = self._is_cancelled, False
        return is_ours and not cancelled_by_others(self._task)

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message for the application, which is never a heartbeat."""
        while self._unheard is None:
            if self._queue is not None:
                ahead = await self._queue.get()
                if not self._has_to_hear():
                    return cast(ASGIReceiveEvent, ahead)
                continue
            reader: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
            if self._reader is None:
                self._reader = reader
            else:
                self._other_readers += (reader,)
            try:
                message = await self._receive()
            except asyncio.CancelledError:
                if not self._has_to_hear() or cancelled_by_others(reader):
                    raise
                continue
            finally:
                if self._other_readers:
                    self._has_read(reader)
                else:
                    self._reader = None
            if self._unheard is not None:
                # Granian 2.8 returns its own `websocket.disconnect` when `receive()` is cancelled.
                cancelled_by_others(reader)  # type: ignore[unreachable]  # Set meanwhile.
                continue
            if not self.heard(message):
                return message
            await self.answer()
        end, self._unheard = self._unheard, None
        await self._close(end)
        return cast(ASGIReceiveEvent, end.message)

    def _has_read(self, reader: asyncio.Task[Any]) -> None:
        readers: list[Any] = [self._reader, *self._other_readers]
        readers.remove(reader)
        self._reader, self._other_readers = readers[0], tuple(readers[1:])

    def _has_to_hear(self) -> bool:
        return self._unheard is not None

    async def _hear_the_end(self, error: Exception) -> None:
        """Finish a connection whose application ended with the `ClientGone` that `send()` raised.

        That is not an error of the application. A consumer of Channels has not run its
        `disconnect()` yet.
        """
        if self._end is None:
            with suppress(asyncio.TimeoutError):
                await self._unless_cancelled(asyncio.wait_for(self._last_message(), _END_TIMEOUT))
        await self._tell_consumer(error, self._note(LOST))

    async def _tell_consumer(self, error: BaseException, end: Close) -> None:
        """Call `disconnect()` of a consumer of Channels that has ended with `error`."""
        dispatch = _unheard(error.__traceback__)
        if dispatch is not None:
            # `disconnect()` may try to send, which raises `ClientGone`.
            with suppress(StopConsumer, ClientGone):
                await dispatch(end.message)

    async def _last_message(self) -> None:
        while self._end is None:
            if self._queue is not None:
                await self._queue.get()
            else:
                self.heard(await self._receive())

    async def drain(self, code: int, reason: str) -> None:
        """Close the connection, since the server stops."""
        if self._opened_at is None or self._end is not None:
            return  # The registry drains it once it is accepted, or it is ending already.
        if self._listener is not None:
            await self._listener.close(code, reason)
        else:
            self._end_for_the_application(self._note(Close(code, reason, Side.SERVER)))

    def cancel(self) -> None:
        """Cancel the application, since it has not ended in time."""
        self._is_cancelled = True
        self._task.cancel()

    @staticmethod
    def of(scope: Any) -> Lifecycle | None:
        """Return the lifecycle of the connection with this `scope`, or `None`."""
        lifecycle: Lifecycle | None = scope.get(_SCOPE_KEY)
        return lifecycle

    @classmethod
    def behind(cls, scope: Any, receive: object) -> Lifecycle | None:
        """Return the lifecycle of `scope`, or `None` if a middleware has wrapped its `receive`."""
        lifecycle = cls.of(scope)
        return lifecycle if lifecycle is not None and receive == lifecycle.receive else None

    def make_way(self, listener: Listener) -> tuple[ASGIReceiveCallable, ASGISendCallable]:
        """Return the server's own `receive` and `send`, for use by `listener`.

        The listener has to do for each message what `heard()` does, and to use this `send` for data
        only. The result is the same as with `receive()` and `send()` of this class, at a lower cost
        for each message.
        """
        self._listener = listener
        return self._receive, self._send

    def heard(self, message: ASGIReceiveEvent) -> bool:
        """Note a message of the client. Return True if it is a heartbeat, which needs an answer."""
        self.heard_at = monotonic()
        if message["type"] == "websocket.receive":
            return self.heartbeat is not None and message.get("text") == self.heartbeat
        if message["type"] == "websocket.disconnect":
            self._note(Close.heard(message))
        return False

    async def answer(self) -> None:
        """Send the reply to a heartbeat."""
        if self._end is None:
            reply = {"type": "websocket.send", "text": self._options.heartbeat_reply}
            # OSError: the client has gone (ASGI 2.4). The next message says so as well.
            with suppress(OSError):
                await self._send(cast(ASGISendEvent, reply))

    @markcoroutinefunction  # For async_to_sync, which warns otherwise.
    def send(self, message: ASGISendEvent) -> Any:
        """Send a message of the application."""
        # Not a coroutine function: a coroutine more would cost time for each message.
        if message["type"] == "websocket.send":
            return self._send_data(message)
        return self._send_other(message)

    async def _send_data(self, message: ASGISendEvent) -> None:
        try:
            await self._send(message)
        except OSError as error:
            # In a loop that suppresses this error and sends again, no other task would run.
            await asyncio.sleep(0)
            raise ClientGone(*error.args) from error
        self._turn -= 1
        if not self._turn:
            # As in `Connection.send_data()`.
            self._turn = TURN
            # A listener receives by itself: it would miss what is read here.
            if self._reader is None and self._listener is None:
                self._read_ahead()
            await asyncio.sleep(0)

    def _read_ahead(self) -> None:
        """Start to receive in place of an application that only sends.

        Most servers report only in `receive()` that the client has gone.
        """
        if self._queue is None:
            self._queue = MessageQueue()
            self._reading = asyncio.create_task(self._read(self._queue))

    async def _read(self, queue: MessageQueue) -> None:
        while True:
            try:
                message: Any = await self._receive()
            except Exception as error:
                # The application waits for the queue, and would not hear of it.
                logger.error(
                    "The server cannot receive: %.500r, path %.200a.",
                    error,
                    self._scope["path"],
                    extra=_logging.fields(self._scope),
                )
                message = {"type": "websocket.disconnect", "code": int(CloseCode.ABNORMAL_CLOSURE)}
            if self.heard(message):
                await self.answer()
                continue
            queue.put(message)
            if message["type"] == "websocket.disconnect":
                self._send = _discard
                return
            if queue.is_full:
                await queue.room()

    async def _send_other(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.close":
            await self._end_with(message)
            return
        if message["type"] == "websocket.accept":
            check_accept(self._scope, message)
        if message["type"] == "websocket.http.response.start":
            await self._report_refusal(message["status"])
        # Sent before anything is noted: if the server refuses the message, the connection goes on.
        try:
            await self._send(message)
        except OSError as error:
            raise ClientGone(*error.args) from error
        if message["type"] == "websocket.accept" and self._end is None:
            await self._begin()

    async def _end_with(self, message: WebSocketCloseEvent) -> None:
        check_close(message)
        if self._opened_at is None:
            await self._report_refusal(403)
        code = message.get("code") or CloseCode.NORMAL_CLOSURE
        self._application_end = Close(code, message.get("reason") or "", Side.APPLICATION)
        try:
            await self._send(message)
        except asyncio.CancelledError:
            # The client does not read the close frame, and the connection was given up.
            self._note(self._application_end)
            raise
        except OSError as error:
            raise ClientGone(*error.args) from error
        self._note(self._application_end)

    async def _begin(self) -> None:
        if self._opened_at is not None:
            return  # A second accept, on a server that allows it.
        self._opened_at = self.heard_at = monotonic()
        open_connections.accepted(self)
        if self._options.heartbeat_interval is not None:
            self._silence = SilenceTimer(self, self._options.heartbeat_interval)
        await report_start(self._scope)

    def _note(self, end: Close) -> Close:
        """Note an end, and return the one that counts: that of the side that ends first."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if self._end is None:
            self._end = end
        return self._end

    def note_refusal(self) -> None:
        """Note that the log and the signal know of the refusal that is answered now."""
        self._is_refused = True

    async def _report_refusal(self, status: int) -> None:
        if self._is_refused:
            return
        origin = _logging.fields(self._scope)["origin"]
        logger.info(
            "Refused with %d by the application: path %.200a.",
            status,
            self._scope["path"],
            extra=_logging.fields(self._scope),
        )
        await rejected.asend_robust(
            None, scope=self._scope, origin=origin, status=status, rule="application"
        )

    @property
    def is_reading(self) -> bool:
        """True while messages are received. If not, unread messages may be waiting."""
        if self._listener is not None:
            return self._listener.is_reading
        return self._reader is not None if self._queue is None else not self._queue.is_full

    def expire(self, silence: float) -> None:
        """Close the connection, since nothing was heard for `silence` seconds."""
        reason = f"No message for {silence:g} seconds"
        end = self._note(Close(CloseCode.TIMEOUT, reason, Side.SERVER))
        logger.info(
            "Closed with 3008: no message for %g seconds, path %.200a."
            ' To allow more, raise WS_SUPPORT["HEARTBEAT_INTERVAL"] or the interval of its route.',
            silence,
            self._scope["path"],
            extra=_logging.fields(self._scope, code=end.code),
        )
        if self._listener is not None:
            self._listener.give_up(end.code, end.reason)
        else:
            self._end_for_the_application(end)

    def _end_for_the_application(self, end: Close) -> None:
        """Close the connection of an application that calls `receive()` of this class."""
        self._unheard = end
        if self._reader is not None:
            self._reader.cancel()  # Wakes up `receive()`, which closes the connection.
            return
        if self._queue is not None:
            self._queue.put(end.message)
        # Sent at once: the application is busy, and may not call `receive()` for long.
        self._start_close(end)

    async def _close(self, end: Close) -> None:
        """Close the connection, and wait for that, before the application hears of the end.

        The application must not return before the close frame is sent: the server would then close
        the connection with a code of its own.
        """
        await asyncio.wait([self._start_close(end)])

    def _start_close(self, end: Close) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.create_task(self._send_close(end))
        return self._closing

    async def _send_close(self, end: Close) -> None:
        send, self._send = self._send, _discard
        try:
            close = {"type": "websocket.close", "code": end.code, "reason": end.reason}
            await asyncio.wait_for(send(cast(ASGISendEvent, close)), _CLOSE_TIMEOUT)
        except Exception as error:
            # Servers raise different errors when the connection has ended meanwhile.
            logger.debug(
                "The close frame was not sent: %r", error, extra=_logging.fields(self._scope)
            )


async def report_start(scope: Mapping[str, Any]) -> None:
    """Tell the log and the signal `connected` of a connection that has been accepted."""
    if logger.isEnabledFor(logging.INFO):
        logger.info("Connected: path %.200a.", scope["path"], extra=_logging.fields(scope))
    await connected.asend_robust(None, scope=scope)


async def report_end(scope: Mapping[str, Any], code: int, reason: str, duration: float) -> None:
    """Tell the log and the signal `disconnected` of its end, `duration` seconds later."""
    if logger.isEnabledFor(logging.INFO):
        logger.info(
            "Disconnected with %d after %.1f s: path %.200a.",
            code,
            duration,
            scope["path"],
            extra=_logging.fields(scope, code=code, duration=duration),
        )
    await disconnected.asend_robust(None, scope=scope, code=code, reason=reason, duration=duration)


async def _discard(message: ASGISendEvent) -> None:
    """Drop a message to a client whose connection was closed. Raises `ClientGone` for data."""
    await asyncio.sleep(0)
    if message["type"] == "websocket.send":
        raise ClientGone("The connection was closed.")


def _unheard(traceback: TracebackType | None) -> Callable[[Any], Awaitable[None]] | None:
    """Return `dispatch()` of a consumer of Channels that has not handled `websocket.disconnect`.

    The consumer is found in the traceback of the exception that a handler has raised: Channels
    (4.3) ends a consumer with it. Return `None` if there is no such consumer.
    """
    while traceback is not None:
        if traceback.tb_frame.f_code is await_many_dispatch.__code__:
            found = traceback.tb_frame.f_locals
            if found.get("result", {}).get("type") != "websocket.disconnect":
                return cast(Callable[[Any], Awaitable[None]], found["dispatch"])
        traceback = traceback.tb_next
    return None
