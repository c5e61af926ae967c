"""One connection: its messages one after the other, who else works for it, and its one end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final
from weakref import WeakKeyDictionary

from channels.exceptions import StopConsumer

from ws_support import logs
from ws_support.closing import ClientGone, CloseCode
from ws_support.inbox import Inbox
from ws_support.tasks import cancelled_by_others

logger = logging.getLogger("ws_support.connection")

Message = dict[str, Any]

_LOOK_EVERY: Final = 0.2
"""Seconds between two looks at the busy connections. A handler that is seen twice takes long."""

_GRACE: Final = 0.5
"""Seconds that handlers have, once the client has left, for what it sent before that."""

_CLOSE_TIMEOUT: Final = 0.5
"""Seconds that sending a close frame may take: a client's full buffers would block it for ever."""

_LAST_TIMEOUT: Final = 10.0
"""Seconds for the end of a connection that the server has cancelled."""


class NoHandler(ValueError):
    """A message of a type that nothing handles."""


class Connection:
    """Runs the handlers of one connection: one at a time, in the order in which messages came.

    While the client is the only one to listen to, the task that the server made receives and
    handles its messages, with nothing in between. When there is more to listen to, a channel layer,
    or a client that may leave while its handler takes long, messages are read into an inbox by one
    task for each source, which is not one for each message.

    However the connection ends, what is handled last is one `websocket.disconnect`.
    """

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
        self._send = send
        self._cancel_on_disconnect = cancel_on_disconnect
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        # A source is read in the context of its connection, whoever finds that it is time to.
        self._context = copy_context()
        self._lookout = _Lookout.of_this_loop()

        self._sources: list[asyncio.Task[None]] = []
        self._inbox: Inbox | None = None
        self._background: set[asyncio.Task[Any]] = set()

        self._has_begun = False
        self._is_accepted = False
        self._is_open = True
        self._is_over = False
        # Why it ends, once that is known: a `websocket.disconnect` or what was raised.
        self._end: Message | BaseException | None = None
        self._left: Message | None = None
        self._is_interrupted = False
        self._leaving: asyncio.TimerHandle | None = None

    # What handlers do.

    async def send(self, message: Any) -> None:
        """Send an ASGI message; after this side has closed, drop it.

        Raises `ClientGone`, an `OSError`, when the server says that the client has gone (ASGI 2.4).
        A handler that lets this pass is done; the connection goes on to `websocket.disconnect`.
        """
        if not self._is_open:
            logger.debug("Dropped after the end: %s.", message["type"])
            return
        try:
            await self._send(message)
        except OSError as error:
            raise ClientGone(*error.args) from error
        if message["type"] != "websocket.send":
            self._note(message)

    def start_background(
        self, coroutine: Coroutine[Any, Any, Any], name: str | None
    ) -> asyncio.Task[Any]:
        """Run `coroutine` beside the handlers, until it is done or the connection ends."""
        if self._is_over:
            coroutine.close()
            raise RuntimeError("start_background() was called after the connection had ended.")
        task = asyncio.create_task(coroutine, name=name or getattr(coroutine, "__qualname__", None))
        self._background.add(task)
        task.add_done_callback(self._background_done)
        return task

    # What happens to messages.

    async def run(
        self,
        handle: Callable[[Message], Awaitable[None]],
        *sources: Callable[[], Awaitable[Any]],
    ) -> None:
        """Call `handle` with each message of the client, and of `sources`, until the end.

        What a handler raises is raised again when all is done, and so is the cancellation by the
        server. The client sees 1011 or 1001.
        """
        if sources:
            inbox = self.read_ahead()
            for source in sources:
                self._start_source(self._listen(source, inbox))
        error: BaseException | None = None
        lookout = self._lookout
        busy = lookout.busy
        try:
            # What is in this loop happens for each message.
            while self._end is None:
                message = await (self._receive() if self._inbox is None else self._inbox.get())
                kind = message.get("type")
                if kind != "websocket.receive":
                    if kind == "websocket.disconnect":
                        self._end = message
                        break
                    self._has_begun = True
                busy[self] = False
                if not lookout.is_armed:
                    lookout.arm()
                try:
                    await handle(message)
                except Exception as raised:
                    if not _is_client_gone(raised):
                        raise
                finally:
                    del busy[self]
        except StopConsumer:
            pass
        except asyncio.CancelledError as cancelled:
            error = None if self._is_interrupted else cancelled
        except Exception as raised:
            error = raised
        await self._conclude(handle, error)

    # The sources, when there is more than the client to listen to.

    def read_ahead(self) -> Inbox:
        """From now on a task of its own receives from the client, into the inbox."""
        if self._inbox is None:
            self._inbox = Inbox()
            self._start_source(self._read(self._inbox))
        return self._inbox

    def _start_source(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._context.run(asyncio.create_task, coroutine)
        task.add_done_callback(self._source_done)
        self._sources.append(task)

    async def _read(self, inbox: Inbox) -> None:
        while True:
            message = await self._receive()
            inbox.put(message, len(message.get("bytes") or message.get("text") or ""))
            if message["type"] == "websocket.disconnect":
                self._client_has_left(message)
                return
            if inbox.is_full:
                await inbox.room()

    @staticmethod
    async def _listen(source: Callable[[], Awaitable[Any]], inbox: Inbox) -> None:
        while True:
            inbox.put(await source())
            if inbox.is_full:
                await inbox.room()

    def _source_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._interrupt(error)

    # What ends the connection while a handler is busy, or while there is nothing to do.

    def _client_has_left(self, message: Message) -> None:
        self._left = message
        if self._cancel_on_disconnect:
            self._leaving = asyncio.get_running_loop().call_later(_GRACE, self._give_up, message)

    def _give_up(self, message: Message) -> None:
        logger.info(
            "The client left while its messages were being handled: cancelled after %g s, path"
            " %.200a. With cancel_on_disconnect = False the consumer finishes first.",
            _GRACE,
            self._scope["path"],
            extra=logs.fields(self._scope, code=message.get("code")),
        )
        self._interrupt(message)

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None or _is_client_gone(error):
            return
        is_first = self._end is None and not self._is_over
        logger.error(
            "The background task %s raised %r: path %.200a.",
            task.get_name(),
            error,
            self._scope["path"],
            extra=logs.fields(self._scope),
            # The first is raised to the server, which logs the rest of it.
            exc_info=None if is_first else error,
        )
        self._interrupt(error)

    def _note(self, message: Message) -> None:
        """What a message other than `websocket.send` makes of the connection."""
        kind = message["type"]
        if kind == "websocket.accept":
            self._is_accepted = True
        elif kind == "websocket.close" and self._is_accepted:
            code = message.get("code") or CloseCode.NORMAL_CLOSURE
            self._close(code, message.get("reason") or "")
        elif kind == "websocket.close" or (
            kind == "websocket.http.response.body" and not message.get("more_body")
        ):
            # Refused. Servers differ in what they report of that, and when: some only when the
            # client has closed the TCP connection (Hypercorn 0.18).
            self._close(CloseCode.ABNORMAL_CLOSURE, "")

    def _close(self, code: int, reason: str) -> None:
        self._is_open = False
        # Not that of the server: it may wait for a client which never answers (Hypercorn 0.18),
        # and not know the code (Granian 2.8).
        end = self._left or _disconnect(code, reason)
        if asyncio.current_task() is self._task or self in self._lookout.busy:
            self._end = self._end or end
        else:
            self._interrupt(end)

    def _interrupt(self, end: Message | BaseException) -> None:
        if not self._is_interrupted and not self._is_over:
            self._end = self._end or end
            self._is_interrupted = True
            self._task.cancel()

    async def _conclude(
        self, handle: Callable[[Message], Awaitable[None]], error: BaseException | None
    ) -> None:
        self._is_over = True
        self._is_open = False
        if self._leaving is not None:
            self._leaving.cancel()
        if self._is_interrupted and cancelled_by_others(self._task):
            error = error or asyncio.CancelledError()
        if isinstance(self._end, BaseException):
            error = error or self._end
        error = await self._see_through(asyncio.create_task(self._finish(handle, error)), error)
        if error is not None:
            try:
                raise error
            finally:
                del error  # It refers to this frame, which would refer to it.

    async def _finish(
        self, handle: Callable[[Message], Awaitable[None]], error: BaseException | None
    ) -> None:
        if isinstance(self._end, dict):
            last: Message = self._end
        elif isinstance(error, asyncio.CancelledError):
            last = _disconnect(CloseCode.GOING_AWAY)
        elif error is not None:
            last = _disconnect(CloseCode.INTERNAL_ERROR)
        else:
            last = _disconnect(CloseCode.NORMAL_CLOSURE)
        if self._end is not last and self._is_accepted and not isinstance(error, NoHandler):
            await self._tell_client(last["code"])
        await self._stop(*self._sources, *self._background)
        if self._has_begun or last is self._end:
            with suppress(StopConsumer):
                await handle(last)

    async def _tell_client(self, code: int) -> None:
        try:
            close = {"type": "websocket.close", "code": int(code)}
            await asyncio.wait_for(self._send(close), _CLOSE_TIMEOUT)
        except Exception as error:
            # Servers differ in what they raise when the connection has ended meanwhile.
            logger.debug("The close frame was not sent: %r", error, extra=logs.fields(self._scope))

    async def _stop(self, *tasks: asyncio.Task[Any]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=_LAST_TIMEOUT)
            for task in pending:
                logger.error(
                    "The task %s has not ended %g s after its cancellation: path %.200a.",
                    task.get_name(),
                    _LAST_TIMEOUT,
                    self._scope["path"],
                    extra=logs.fields(self._scope),
                )

    async def _see_through(
        self, task: asyncio.Task[None], error: BaseException | None
    ) -> BaseException | None:
        """Wait for the end, also when the server cancels it; what is to be raised then."""
        timeout = _LAST_TIMEOUT if isinstance(error, asyncio.CancelledError) else None
        try:
            await asyncio.wait([task], timeout=timeout)
        except asyncio.CancelledError as cancelled:
            error = error or cancelled
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task], timeout=_LAST_TIMEOUT)
        if not task.done():
            logger.error(
                "disconnect() has not ended %g s after the server cancelled the connection, and is"
                " cancelled: path %.200a.",
                _LAST_TIMEOUT,
                self._scope["path"],
                extra=logs.fields(self._scope),
            )
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task], timeout=_CLOSE_TIMEOUT)
        if not task.done() or task.cancelled():
            return error or asyncio.CancelledError()
        failure = task.exception()
        if failure is not None and error is not None:
            logger.error(
                "disconnect() raised, too: path %.200a.",
                self._scope["path"],
                exc_info=failure,
                extra=logs.fields(self._scope),
            )
        return error or failure


class _Lookout:
    """Finds the connections of an event loop whose handlers take long.

    For that, a message costs an entry in a dictionary, and all connections together one timer,
    which runs only while there are messages.
    """

    def __init__(self) -> None:
        self.busy: dict[Connection, bool] = {}
        """The connections whose handlers run now, and whether one look has seen that already."""
        self.is_armed = False

    @classmethod
    def of_this_loop(cls) -> _Lookout:
        loop = asyncio.get_running_loop()
        try:
            return _lookouts[loop]
        except KeyError:
            return _lookouts.setdefault(loop, cls())

    def arm(self) -> None:
        self.is_armed = True
        asyncio.get_running_loop().call_later(_LOOK_EVERY, self._look)

    def _look(self) -> None:
        self.is_armed = False
        for connection, was_seen in list(self.busy.items()):
            if was_seen:
                connection.read_ahead()
            else:
                self.busy[connection] = True
        if self.busy:
            self.arm()


_lookouts: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Lookout]] = WeakKeyDictionary()


def _disconnect(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": int(code), "reason": reason}


def _is_client_gone(error: BaseException) -> bool:
    """Whether `error`, or all that it groups, says that the client has gone."""
    grouped = getattr(error, "exceptions", None)
    if grouped:
        return all(map(_is_client_gone, grouped))
    return isinstance(error, ClientGone)
