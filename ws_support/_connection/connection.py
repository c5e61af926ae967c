"""The connection: handles messages one at a time, runs background tasks, and ends exactly once."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, Final

from channels.exceptions import StopConsumer

from ws_support import _logging
from ws_support._asgi import check_close, direct_of, is_served
from ws_support._asyncio import cancelled_by_others, to_the_end
from ws_support._connection.lifecycle import TURN, Lifecycle
from ws_support._connection.queue import MessageQueue
from ws_support._connection.state import Close, Side, State
from ws_support._connection.watchdog import Watchdog
from ws_support._logging import mark_as_logged
from ws_support._topics.messages import names
from ws_support._topics.positions import Position
from ws_support._topics.registry import Recovery, TopicRegistry
from ws_support._topics.subscriber import Subscriber, Wrapping
from ws_support.close_codes import CloseCode
from ws_support.conf import get_options
from ws_support.exceptions import ClientGone, InvalidMessage, is_client_gone
from ws_support.presence import Presence

logger = logging.getLogger("ws_support.connection")

Message = dict[str, Any]

_CLOSE_TIMEOUT: Final = 0.5
"""Seconds that sending a close frame may take: full buffers of a client would block it forever."""

_STOP_TIMEOUT: Final = 5.0
"""Seconds in which a cancelled background task has to end. After that nobody waits for the task."""

_LAST_TIMEOUT: Final = 10.0
"""Seconds in which a connection has to end after the server has cancelled it."""


_UNSET: Final = object()


class NoHandler(ValueError):
    """The consumer has no handler for a type of message."""


class Connection:
    """Runs the handlers of one connection, one at a time, in the order in which messages came.

    While the client is the only source of messages, the task of `run()` both receives and handles
    them, with no queue in between. Otherwise one task for each source (not for each message) reads
    into a queue. That is so with a channel layer, and while a handler takes long: its client may
    leave in that time.

    However the connection ends, the last message to be handled is one `websocket.disconnect`.
    """

    __slots__ = (
        "__weakref__",
        "_background",
        "_context",
        "_end",
        "_id",
        "_is_interrupted",
        "_left",
        "_lifecycle",
        "_presences",
        "_queue",
        "_receive",
        "_scope",
        "_send",
        "_send_data",
        "_sending",
        "_sources",
        "_state",
        "_subscriber",
        "_turn",
        "_watchdog",
        "_wrapping",
        "cancel_on_disconnect",
        "task",
    )

    def __init__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
        *,
        cancel_on_disconnect: bool = True,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = self._send_data = send
        self.cancel_on_disconnect = cancel_on_disconnect
        self._context: Context | None = None
        self._sources: tuple[asyncio.Task[None], ...] = ()
        self._queue: MessageQueue | None = None
        self._background: set[asyncio.Task[Any]] | None = None
        self._subscriber: Subscriber | None = None
        self._wrapping: Wrapping | None = None
        self._id: str | None = None
        self._presences: dict[Presence, None] | None = None

        self._state = State.CONNECTING
        # The end that waits in the queue, behind messages that are still handled.
        self._left: Close | None = None
        # Why no more messages are handled, once that is so. The first reason counts.
        self._end: Close | BaseException | None = None
        # True once this class, and not the server, has cancelled the task of `run()`.
        self._is_interrupted = False
        # Done once the close frame is sent, or cannot be sent. None until a task begins to send it.
        self._sending: asyncio.Future[None] | None = None
        # Messages that may be sent before other tasks get their turn.
        self._turn = TURN

    # Methods for handlers.

    async def send(self, message: Any) -> None:
        """Send an ASGI message. After this side has closed, drop the message.

        Raises `ClientGone`, an `OSError`, when the server reports that the client has gone (ASGI
        2.4 allows that). A handler may leave it uncaught: the handler is done then, and the
        connection goes on to `websocket.disconnect`.
        """
        if message["type"] == "websocket.send":
            try:
                await self.send_data(message)
            except OSError as error:
                raise ClientGone(*error.args) from error
        elif self.is_open:
            await self._send_other(message)
        else:
            _drop(message)

    def send_data(self, message: Any) -> Awaitable[None]:
        """Send a `websocket.send`. Errors of the server are raised unchanged.

        This is not a coroutine function: a coroutine more would cost time for each message.
        """
        turn = self._turn
        if turn > 0:
            self._turn = turn - 1
            return self._send_data(message)
        return self._send_and_give_way(message)

    async def _send_and_give_way(self, message: Any) -> None:
        # The `send()` of every server returns at once when there is room, and most also do when the
        # client has left (Uvicorn 0.54 until it notices, Hypercorn 0.18, Daphne 4.2, Granian 2.8).
        # In a loop that only sends, no other task would run, and the loss would go unnoticed.
        self._turn = TURN
        await self._send_data(message)
        await asyncio.sleep(0)

    def start_background(
        self, coroutine: Coroutine[Any, Any, Any], name: str | None
    ) -> asyncio.Task[Any]:
        """Run `coroutine` beside the handlers, until it is done or the connection ends."""
        if self.is_over:
            coroutine.close()
            raise RuntimeError("start_background() was called after the connection had ended.")
        task = asyncio.create_task(coroutine, name=name or getattr(coroutine, "__qualname__", None))
        if self._background is None:
            self._background = set()
        self._background.add(task)
        task.add_done_callback(self._background_done)
        return task

    # Topics.

    async def subscribe(
        self, topic: str, since: Position | None = None, *, positions: bool = False
    ) -> Recovery:
        """Subscribe to `topic`: from the return on, what is published there goes to the client.

        Before the handshake is accepted, these messages wait. What has followed the position
        `since` is sent first. With `positions`, messages are wrapped in JSON with their positions.
        """
        if self.is_over:
            raise RuntimeError("subscribe() was called after the connection had ended.")
        if since is not None and self._state is State.CONNECTING:
            raise RuntimeError(
                "subscribe() with a position was called before accept(): what has followed it is"
                " sent at once."
            )
        subscriber = self._subscriber
        if subscriber is None:
            subscriber = self._subscriber = Subscriber(self, get_options().broadcast_queue)
            if self._state is not State.CONNECTING:
                subscriber.begin()
        registry = TopicRegistry.of_this_loop()
        if positions:
            if self._wrapping is None:
                self._wrapping = Wrapping(subscriber)
            await registry.unsubscribe(topic, subscriber)
            return await registry.subscribe(topic, self._wrapping, since)
        if self._wrapping is not None:
            await registry.unsubscribe(topic, self._wrapping)
        return await registry.subscribe(topic, subscriber, since)

    async def unsubscribe(self, topic: str) -> None:
        for each in (self._subscriber, self._wrapping):
            if each is not None:
                await TopicRegistry.of_this_loop().unsubscribe(topic, each)

    @property
    def id(self) -> str:
        """The id of the connection, which is made when somebody asks for it."""
        if self._id is None:
            self._id = secrets.token_urlsafe(12)
        return self._id

    def is_known_as(self, name: str) -> bool:
        """Return True if `name`, of `exclusion_of()`, stands for the connection or its user."""
        return names(name, self._id, self._scope)

    # Presence.

    def hold(self, presence: Presence) -> None:
        """Remember somebody who is present until the end of the connection."""
        if self.is_over:
            raise RuntimeError("present() was called after the connection had ended.")
        if self._presences is None:
            self._presences = {}
        limit = get_options().max_subscriptions
        if len(self._presences) >= limit:
            raise ValueError(
                f"One connection may be present {limit} times, and is: {presence.topic!r:.60} would"
                ' be one more. To allow more, raise WS_SUPPORT["MAX_SUBSCRIPTIONS"].'
            )
        self._presences[presence] = None

    def let_go_of(self, presence: Presence) -> None:
        """Forget somebody who has left."""
        (self._presences or {}).pop(presence, None)

    @property
    def is_open(self) -> bool:
        """True until this side closes the connection."""
        return self._state is not State.CLOSING and self._state is not State.CLOSED

    @property
    def is_over(self) -> bool:
        """True once no handler runs any more, except for that of the end."""
        return self._state is State.CLOSED

    @property
    def direct(self) -> Any:
        return direct_of(self._scope, self._send_data)

    def fail(self, error: Exception) -> None:
        """End the connection because of an error of the server. `run()` raises this error."""
        self._interrupt(error)

    # The loop over messages.

    async def run(
        self,
        handle: Callable[[Message], Awaitable[None]],
        *sources: Callable[[], Awaitable[Any]],
        handle_data: Callable[[Message], Awaitable[None]] | None = None,
    ) -> None:
        """Call `handle` with each message of the client and of `sources`, until the end.

        Messages with data of the client go to `handle_data` instead, if it is given.

        An exception of a handler, or the cancellation by the server, is raised again after the end
        of the connection. The client sees 1011 or 1012.
        """
        self.task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        # A source is read in the context of its connection, whichever task starts to read it.
        self._context = copy_context()
        self._watchdog = watchdog = Watchdog.of_this_loop()
        lifecycle = self._lifecycle = Lifecycle.behind(self._scope, self._receive)
        if lifecycle is not None:
            self._receive, send = lifecycle.make_way(self)
            # Not if a middleware in between has wrapped it.
            if self._send == lifecycle.send:
                self._send_data = send
        for source in sources:
            self._start_source(self._listen(source, self.read_ahead()))
        busy = watchdog.busy
        receive = self._receive
        handle_data = handle_data or handle
        has_begun = False
        error: BaseException | None = None
        try:
            # The path of each message: every line here costs time.
            while self._end is None:
                if self._queue is None:
                    message = await receive()
                    kind = message.get("type")
                    if lifecycle is not None:
                        if kind != "websocket.receive":
                            lifecycle.heard(message)
                        else:
                            # The same as `heard()`, without the cost of a call.
                            lifecycle.heard_at = monotonic()
                            if (
                                lifecycle.heartbeat is not None
                                and message.get("text") == lifecycle.heartbeat
                            ):
                                await lifecycle.answer()
                                continue
                else:
                    message = await self._queue.get()
                    kind = message.get("type")
                handler = handle_data
                if kind != "websocket.receive":
                    has_begun = True
                    if kind == "websocket.disconnect":
                        # Granian 2.8 returns its own `websocket.disconnect` when `receive()` is
                        # cancelled, so an end that is known already counts more.
                        self._end = self._end or self._left or Close.heard(message)
                        break
                    handler = handle
                busy[self] = False
                if not watchdog.is_armed:
                    watchdog.arm()
                try:
                    await handler(message)
                except Exception as raised:
                    if not is_client_gone(raised):
                        raise
                finally:
                    del busy[self]
                # The message may be large, and the next one may come much later.
                del message
        except StopConsumer:
            pass
        except asyncio.CancelledError as cancelled:
            error = None if self._is_interrupted else cancelled
        except Exception as raised:
            error = raised
        await self._conclude(handle if has_begun else None, error)

    def adopt_context(self) -> None:
        """Copy the context variables that handlers have set into the current context.

        Called after the end, by the task that created the task of `run()`: for its caller, both
        then look like one task.
        """
        for variable, value in (self._context or {}).items():
            if variable.get(_UNSET) is not value:
                variable.set(value)

    # The queue, and the tasks that fill it.

    def read_ahead(self) -> MessageQueue:
        """Start a task that receives from the client into the queue, and return the queue."""
        if self._queue is None:
            self._queue = MessageQueue()
            if self.is_open:
                self._start_source(self._read(self._queue))
        return self._queue

    def _start_source(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._context.run(  # type: ignore[union-attr]  # `run()` has set it.
            asyncio.create_task, coroutine
        )
        task.add_done_callback(self._source_done)
        self._sources = (*self._sources, task)

    async def _read(self, queue: MessageQueue) -> None:
        lifecycle = self._lifecycle
        while True:
            message = await self._receive()
            if lifecycle is not None and lifecycle.heard(message):
                await lifecycle.answer()
                continue
            queue.put(message)
            if message["type"] == "websocket.disconnect":
                self._has_left(Close.heard(message))
                return
            if queue.is_full:
                del message  # The queue may keep it in a form that takes less memory.
                await queue.room()

    @staticmethod
    async def _listen(source: Callable[[], Awaitable[Any]], queue: MessageQueue) -> None:
        while True:
            queue.put(await source())
            if queue.is_full:
                await queue.room()

    def _source_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._interrupt(error)

    @property
    def is_reading(self) -> bool:
        """True while messages of the client are received, for the heartbeat."""
        if self._queue is None:
            return self not in self._watchdog.busy
        return not self._queue.is_full

    # The end. A connection ends in one of these ways, of which the first one counts:
    #
    # - The client leaves. The loop gets `websocket.disconnect`, which may have been read ahead.
    # - A handler or another task sends `websocket.close`, or the server stops: `_close()`.
    # - The server gives up a client that is silent or slow: `give_up()`.
    # - The server, a source or a background task fails: `_interrupt()`.
    # - A handler raises, or the server cancels it: `run()`.
    #
    # Then `_conclude()` does the rest.

    def tell(self, close: Close) -> bool:
        """Tell the handler that runs of the end. Return True if it ends by itself then.

        A hook for subclasses. The handlers of this class hear of the end by its message.
        """
        return False

    def _has_left(self, close: Close) -> None:
        """Note an end by the client that was read ahead: its `message` is in the queue."""
        self._left = self._left or close
        if self.is_open:
            # Most servers would take messages now and drop them without an error.
            self._send_data = _refuse
        if self.tell(close):
            self._end = self._end or close

    def give_up(self, code: int, reason: str) -> None:
        """End the connection of a client that is silent or does not read."""
        if self.is_over:
            return
        close = Close.told(code, reason, Side.SERVER)
        self._stop_sending(State.CLOSING)
        if self.tell(close):
            self._end = self._end or close
        elif self.cancel_on_disconnect or (self._queue is None and self not in self._watchdog.busy):
            self._interrupt(close)
        else:
            self._left = self._left or close
            self.read_ahead().put(close.message)

    async def close(self, code: int, reason: str) -> None:
        """Close the connection, since the server stops.

        A busy handler then has as much time as it has when the client leaves.
        """
        try:
            await self.send({"type": "websocket.close", "code": int(code), "reason": reason})
        except Exception as unsaid:
            self._log_unsaid(unsaid)

    async def _send_other(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.close":
            await self._close(message)
            return
        if kind == "websocket.accept":
            await self._accept(message)
            return
        try:
            await self._send(message)
        except OSError as error:
            raise ClientGone(*error.args) from error
        if kind == "websocket.http.response.body" and not message.get("more_body"):
            self._stop_sending(State.CLOSING)
            self._end = Close(CloseCode.ABNORMAL_CLOSURE, "", Side.APPLICATION)

    async def _accept(self, message: Message) -> None:
        # Set before the message is sent, not after: `send()` also runs the receivers of the signal
        # `connected`, and the server may stop meanwhile.
        before, self._state = self._state, State.OPEN
        # One that is made meanwhile has begun.
        subscriber = self._subscriber
        try:
            await self._send(message)
        except Exception as error:
            if self.is_open:
                self._state = before
            if isinstance(error, OSError):
                raise ClientGone(*error.args) from error
            raise
        if subscriber is not None and before is State.CONNECTING:
            subscriber.begin()

    async def _close(self, message: Message) -> None:
        check_close(message)
        # The end is not taken from the server: some report it late, or never when the client does
        # not answer (Hypercorn 0.18), others without the code (Granian 2.8). A refused handshake
        # ends with 1006, which is what the client sees.
        close = self._left or Close(
            (message.get("code") or CloseCode.NORMAL_CLOSURE)
            if self._state is State.OPEN
            else CloseCode.ABNORMAL_CLOSURE,
            message.get("reason") or "",
            Side.APPLICATION if asyncio.current_task() is self.task else Side.TASK,
            message,
        )
        self._stop_sending(State.CLOSING)
        self.tell(close)
        if asyncio.current_task() is not self.task and self not in self._watchdog.busy:
            self._interrupt(close)
            return
        # A handler that is busy now has as much time as when the client leaves.
        self._end = self._end or close
        # Granian 2.8 sends no close frame while a task waits in `receive()`. It also loses a close
        # frame that is not sent completely when the application returns.
        await self._stop(*self._sources)
        await self._send_frame(message)

    def _stop_sending(self, state: State) -> None:
        """Go to `state`, in which what is sent is dropped."""
        self._state = state
        self._send_data = _dropped
        if self._subscriber is not None:
            self._subscriber.end()

    def _interrupt(self, end: Close | BaseException) -> None:
        """End the connection now: cancel the handler that runs, or the wait for a message."""
        if not self._is_interrupted and not self.is_over:
            if not isinstance(end, Close):
                self.tell(Close(CloseCode.INTERNAL_ERROR, "", Side.SERVER))
            self._end = self._end or end
            self._is_interrupted = True
            self.task.cancel()

    def takes_long(self) -> None:
        """Read ahead, or cancel the handler if the connection has ended; called by the watchdog.

        A handler that has closed the connection itself may go on.
        """
        end = self._end or self._left
        if (
            not isinstance(end, Close)
            or end.by is Side.APPLICATION
            or self._is_interrupted
            or not self.cancel_on_disconnect
        ):
            self.read_ahead()
            return
        unread = len(self._queue) - 1 if self._queue else 0
        logger.info(
            "A handler was cancelled, since its connection has ended, and %d messages are dropped:"
            " path %.200a. With cancel_on_disconnect = False the consumer finishes first.",
            max(unread, 0),
            self._scope["path"],
            extra=_logging.fields(self._scope, code=end.code),
        )
        self._interrupt(end)

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)  # type: ignore[union-attr]  # `start_background` made it.
        error = None if task.cancelled() else task.exception()
        if error is None or is_client_gone(error):
            return
        logger.error(
            "The background task %s raised %r: path %.200a.",
            task.get_name(),
            error,
            self._scope["path"],
            extra=_logging.fields(self._scope),
            exc_info=error,
        )
        mark_as_logged(error)
        self._interrupt(error)

    async def _conclude(
        self,
        handle: Callable[[Message], Awaitable[None]] | None,
        error: BaseException | None,
    ) -> None:
        """Tell the client of the end, stop all tasks, and `handle` the last message.

        `error` is what a handler has raised. Without `handle`, the connection has not begun.
        """
        if self._is_interrupted and cancelled_by_others(self.task):
            error = error or asyncio.CancelledError()
        if isinstance(self._end, Close):
            close = self._end
        else:
            error = error or self._end
            close = self._end_because_of(error)
        self._stop_sending(State.CLOSED)
        # This runs in the task and the context of all handlers, so that `disconnect()` can leave a
        # context manager that `connect()` has entered.
        limit = self._limit_the_end() if isinstance(error, asyncio.CancelledError) else None
        try:
            for step in (self._end_for_the_client(close), self._let_go()):
                try:
                    await step
                except asyncio.CancelledError as cancelled:  # noqa: PERF203  # Two steps.
                    # The server has cancelled. `disconnect()` has to be called all the same.
                    error = error or cancelled
                    if limit is not None:
                        limit.cancel()
                    limit = self._limit_the_end()
            if handle is not None:
                with suppress(StopConsumer):
                    await handle(close.message)
        except Exception as failure:
            if error is not None:
                logger.error(
                    "disconnect() raised, too: path %.200a.",
                    self._scope["path"],
                    exc_info=failure,
                    extra=_logging.fields(self._scope),
                )
            error = error or failure
        finally:
            if limit is not None:
                limit.cancel()
            self._context = copy_context()
        if error is not None:
            try:
                raise error
            finally:
                del error  # Breaks the cycle of the exception and this frame.

    def _end_because_of(self, error: BaseException | None) -> Close:
        """Return the end of a connection whose handler has raised `error`, or has stopped."""
        code, reason, by = CloseCode.NORMAL_CLOSURE, "", Side.APPLICATION
        if isinstance(error, asyncio.CancelledError):
            code, by = CloseCode.SERVICE_RESTART, Side.SERVER
        elif isinstance(error, InvalidMessage):
            code, reason = error.code, error.reason
        elif error is not None:
            code = CloseCode.INTERNAL_ERROR
        if self._left is not None:
            # The client hears why it was given up, or has left.
            return Close(code, reason, by, self._left.frame)
        if self._state is not State.CONNECTING and self._is_told_to_the_client(error):
            return Close.told(code, reason, by)
        return Close(code, reason, by)

    async def _end_for_the_client(self, close: Close) -> None:
        await self._stop(*self._sources)
        if self._sending is not None:  # By another task, or it is sent already.
            await asyncio.wait([self._sending], timeout=_CLOSE_TIMEOUT)
        elif close.frame is not None:
            try:
                await asyncio.wait_for(self._send_frame(close.frame), _CLOSE_TIMEOUT)
            except Exception as unsaid:
                self._log_unsaid(unsaid)

    def _log_unsaid(self, error: Exception) -> None:
        # Servers raise different errors when the connection has ended meanwhile.
        logger.debug("Not sent: %r", error, extra=_logging.fields(self._scope))

    async def _send_frame(self, frame: Message) -> None:
        self._sending = asyncio.get_running_loop().create_future()
        try:
            await self._send(frame)
        except OSError as error:
            raise ClientGone(*error.args) from error
        finally:
            self._sending.set_result(None)

    async def _let_go(self) -> None:
        for presence in tuple(self._presences or ()):
            presence.end()
        try:
            if self._subscriber is not None:
                await to_the_end(self._leave_topics())
        finally:
            await self._stop(*(self._background or ()))

    async def _leave_topics(self) -> None:
        registry = TopicRegistry.of_this_loop()
        for each in (self._subscriber, self._wrapping):
            if each is not None:
                await registry.leave_all(each)

    def _is_told_to_the_client(self, error: BaseException | None) -> bool:
        """Return True if a close frame is sent for `error`.

        Without a server, in a test, `error` is raised instead: the test would otherwise read the
        close frame and not see the error.
        """
        if isinstance(error, NoHandler):
            return False
        return (
            is_served(self._scope)
            or not isinstance(error, Exception)
            or isinstance(error, InvalidMessage)
        )

    async def _stop(self, *tasks: asyncio.Task[Any]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=_STOP_TIMEOUT)
            for task in pending:
                logger.error(
                    "The task %s has not ended %g s after its cancellation: path %.200a.",
                    task.get_name(),
                    _STOP_TIMEOUT,
                    self._scope["path"],
                    extra=_logging.fields(self._scope),
                )

    def _limit_the_end(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(_LAST_TIMEOUT, self._cancel_the_end)

    def _cancel_the_end(self) -> None:
        logger.error(
            "disconnect() is cancelled, %g s after the server has cancelled the connection: path"
            " %.200a.",
            _LAST_TIMEOUT,
            self._scope["path"],
            extra=_logging.fields(self._scope),
        )
        self.task.cancel()


def _drop(message: Message) -> None:
    logger.debug("Dropped after the end: %s.", message["type"])


async def _dropped(message: Message) -> None:
    _drop(message)
    # In a loop that only sends, no other task would run.
    await asyncio.sleep(0)


async def _refuse(message: Message) -> None:
    await asyncio.sleep(0)
    raise ClientGone("The client has left.")
