"""What the client of one hub connection invokes: methods, and streams in both directions."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, Final, TypeAlias

from ws_support._asyncio import cancelled_by_others, is_being_cancelled
from ws_support._connection.database import OldConnections
from ws_support._hubs import errors
from ws_support._hubs.errors import BindingError, HubException
from ws_support._hubs.messages import (
    CancelInvocation,
    Completion,
    Invocation,
    Message,
    StreamInvocation,
    StreamItem,
)
from ws_support._hubs.methods import HubMethod, find
from ws_support._hubs.protocols.base import (
    HubProtocol,
    InvalidValue,
    ProtocolError,
    WrongNumber,
)
from ws_support._hubs.uploads import Budget, Upload

logger = logging.getLogger("ws_support.hubs")

_Call: TypeAlias = Invocation | StreamInvocation

_turn: Final[ContextVar[list[asyncio.Task[Any]]]] = ContextVar("turn", default=[])  # noqa: B039
"""The task that runs this plain invocation, also in the tasks that a method makes. It is taken out
when the invocation is over."""

_NOBODY: Final[frozenset[asyncio.Task[Any]]] = frozenset()
"""One for all: an empty set takes 0.2 KiB."""

_COUNTS: Final = hasattr(asyncio.Task, "cancelling")
"""False on Python 3.10: nothing says that a task has been cancelled."""

_IN_A_ROW: Final = 64
"""Items, or plain invocations, after which other tasks have their turn, if nothing has waited."""


@dataclass(frozen=True)
class Limits:
    """What .NET calls HubOptions, as far as invocations are concerned, with its defaults."""

    parallel: int = 1
    """Plain invocations that run at the same time."""
    stream_buffer: int = 10
    """Items of an upload stream that wait."""
    upload_size: int = 1024 * 1024
    """Bytes of items that wait in all upload streams together. .NET has no limit."""
    tasks: int = 100
    """Streams, and methods with upload streams, that run or wait to. .NET has no limit."""
    detailed_errors: bool = False
    """True to tell clients the class and the text of each exception."""


class Invocations:
    """Runs what one client invokes, in the order that .NET has.

    - A plain invocation takes a slot, and the next one waits until there is one, with everything
      behind it. What comes in between is handled: items, completions, cancels.
    - Streams, and methods with upload streams, take no slot.
    - When the queue of an upload stream is full, everything behind the next item waits.

    `send` writes a message, and returns something to wait for if the client is slow. It raises
    `InvalidValue` for what cannot be sent, and nothing else: to a client that has gone, nothing is
    sent. `answer` does the same, and may wait for `flush()`, which is called when no plain
    invocation waits for its turn: answers can be sent together then. `new_hub` returns
    an instance of the hub for one invocation. `may_invoke` returns False for a method that the user
    may not call. `filtered` calls a method through the filters of the hub. `make_way` is called
    when no message waits for its turn any more.
    """

    __slots__ = (
        "_answer",
        "_budget",
        "_calls",
        "_databases",
        "_filtered",
        "_flush",
        "_free",
        "_has_ended",
        "_idle",
        "_jobs",
        "_lent",
        "_limits",
        "_make_way",
        "_may_invoke",
        "_methods",
        "_new_hub",
        "_protocol",
        "_send",
        "_streams",
        "_tasks",
        "_uploads",
        "_workers",
        "waiting",
    )

    def __init__(
        self,
        protocol: HubProtocol,
        methods: Mapping[str, HubMethod],
        new_hub: Callable[[], Any],
        send: Callable[[Message], Awaitable[None] | None],
        *,
        answer: Callable[[Message], Awaitable[None] | None] | None = None,
        limits: Limits = Limits(),
        may_invoke: Callable[[HubMethod], Awaitable[bool]] | None = None,
        filtered: Callable[[HubMethod, Any, Sequence[Any]], Any] | None = None,
        make_way: Callable[[], None] = lambda: None,
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self._protocol = protocol
        self._methods = methods
        self._new_hub = new_hub
        self._send = send
        self._answer = answer or send
        self._limits = limits
        self._may_invoke = may_invoke
        self._filtered = filtered
        self._make_way = make_way
        self._flush = flush
        self.waiting: list[Message] = []
        """Messages that wait for their turn. While there are some, no more should be taken."""
        self._jobs: list[Invocation] = []
        self._databases = OldConnections.of_this_loop()
        self._free = limits.parallel
        """Slots that no invocation has."""
        self._idle: list[asyncio.Future[None]] = []
        """What the tasks that run plain invocations wait for."""
        self._uploads: dict[str, Upload] = {}
        self._budget = Budget(limits.upload_size)
        self._streams: dict[str, _Stream] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._workers: list[asyncio.Task[Any]] = []
        """The tasks that run plain invocations: one for each slot."""
        self._lent = _NOBODY
        """Tasks that have given up their slot, and still run their invocation."""
        self._calls = 0
        """Calls that run in a task of their own, or wait to."""
        self._has_ended = False

    def start(self) -> None:
        """Start the tasks that run plain invocations."""
        for _ in range(self._limits.parallel):
            self._workers.append(self._spawn(self._work()))

    def release_slot(self) -> None:
        """Give up the slot of the plain invocation that this task runs, or has been made by.

        The method waits for the answer of a client, which is behind the next invocation.
        """
        if self._has_ended or not (turn := _turn.get()):
            return
        [worker] = turn
        if worker in self._workers and len(self._lent) < self._limits.tasks:
            self._lent |= {worker}
            self._workers.remove(worker)
            self._workers.append(self._spawn(self._work()))
            self._free += 1
            self._advance()

    def take(self, message: Message) -> None:
        """Handle the next message of the client, now or as soon as it is its turn.

        Raises `ProtocolError` for a client that has too many streams.
        """
        if not _is_plain(message) and _has_task(message):
            # Of a client that reads nothing, the answers wait in tasks as well.
            most = self._limits.parallel + 3 * self._limits.tasks
            if self._calls >= self._limits.tasks or len(self._tasks) >= most:
                raise ProtocolError(
                    f"A client may have at most {self._limits.tasks} streams at a time."
                )
            self._calls += 1
        if self.waiting or not self._begin(message):
            self.waiting.append(message)

    async def end(self, timeout: float, *, grace: float = 0) -> bool:
        """Cancel what still runs, plain invocations only after `grace` seconds.

        Return False if something has ignored that for `timeout` seconds, and still runs.
        """
        self._has_ended = True
        self.waiting.clear()
        self._jobs.clear()
        for waiter in self._idle:
            waiter.cancel()
        plain = {*self._workers, *self._lent}
        # Those that the client has cancelled clean up already.
        cleaning = {each.task for each in self._streams.values() if each.is_cleaning}
        for task in self._tasks:
            if task not in plain and task not in cleaning:
                task.cancel()
        if running := plain.intersection(self._tasks):
            # A client may leave right after its last call, which should still do its work.
            await asyncio.wait(running, timeout=grace)
        for task in plain.intersection(self._tasks):
            task.cancel()
        if not self._tasks:
            return True
        # Streams clean up since the beginning: cancelled once more, they could not.
        _, running = await asyncio.wait(self._tasks, timeout=timeout)
        for task in running:
            task.cancel()
        return not running

    # In the task that reads

    def _advance(self) -> None:
        if not self.waiting:
            return
        while self.waiting and self._begin(self.waiting[0]):
            self.waiting.pop(0)
        if not self.waiting:
            self._make_way()

    def _begin(self, message: Message) -> bool:
        """Return False for a message that has to wait."""
        if _is_plain(message):
            if not self._free:
                return False
            self._free -= 1
            self._jobs.append(message)  # type: ignore[arg-type]
            if self._idle:
                self._wake()
            return True
        match message:
            case Invocation() | StreamInvocation():
                self._begin_with_streams(message)
            case StreamItem():
                upload = self._uploads.get(message.id)
                return upload is None or upload.take(message)
            case Completion():
                if upload := self._uploads.get(message.id):
                    upload.complete(message)
            case CancelInvocation():
                if stream := self._streams.get(message.id):
                    stream.cancel()
        return True

    def _begin_with_streams(self, message: _Call) -> None:
        if isinstance(message, StreamInvocation) and message.id in self._streams:
            self._calls -= 1
            self._spawn(self._complete(message.id, errors.in_use(message.id)))
            return
        # Their items may come in the next message, so they are there from now on.
        method = find(self._methods, message.target)
        uploads: list[Upload] = []
        if method is not None and len(message.stream_ids) == len(method.streams):
            for id_, type_ in zip(message.stream_ids, method.streams.values(), strict=True):
                upload = Upload(
                    self._protocol,
                    type_,
                    self._limits.stream_buffer,
                    self._budget,
                    self._advance,
                )
                uploads.append(upload)
                self._uploads.setdefault(id_, upload)
        if isinstance(message, Invocation):
            self._spawn(self._run(message, uploads, self._send))
        else:
            stream = self._streams[message.id] = _Stream()
            stream.task = self._spawn(self._run_stream(message, uploads, stream))

    def _wake(self) -> None:
        while self._idle:
            waiter = self._idle.pop(0)
            if not waiter.done():  # Others may have cancelled the task that waits.
                waiter.set_result(None)
                return

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)
        return task

    # In tasks of their own

    async def _work(self) -> None:
        """Run plain invocations, one after the other."""
        worker: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        loop = asyncio.get_running_loop()
        count = 0
        while True:
            while not self._jobs:
                waiter = loop.create_future()
                self._idle.append(waiter)
                await waiter
            turn = [worker]
            _turn.set(turn)
            await self._run(self._jobs.pop(0), [], self._answer)
            turn.clear()
            if self._has_ended or (_COUNTS and worker.cancelling()):
                return  # The method has swallowed the cancellation.
            if worker not in self._workers:  # It has given up its slot.
                self._lent -= {worker}
                self._flush()
                return
            self._free += 1
            self._advance()
            count += 1
            if not self._jobs:
                self._flush()
            if not count % _IN_A_ROW:
                await asyncio.sleep(0)

    def _is_over(self) -> bool:
        return self._has_ended or is_being_cancelled()

    async def _run(
        self,
        message: Invocation,
        uploads: list[Upload],
        send: Callable[[Message], Awaitable[None] | None],
    ) -> None:
        """Run a method that answers once."""
        error = None
        try:
            if self._databases.are_due():
                await self._databases.close()
            method, arguments = self._bind(message)
            if self._may_invoke is not None and not await self._may_invoke(method):
                raise self._unauthorized(message)
            if message.stream_ids or method.is_stream or method.streams:
                arguments = self._with_streams(message, method, arguments, uploads)
            if self._filtered is None:
                result = method.function(self._new_hub(), *arguments)
            else:
                result = self._filtered(method, self._new_hub(), arguments)
            if result.__class__ is CoroutineType or inspect.isawaitable(result):
                result = await result
        except _Refused as refused:
            error = str(refused)
        except asyncio.CancelledError as raised:
            if self._is_over():
                raise
            # The method has awaited what somebody else has cancelled.
            error = self._explain(errors.unexpected(message.target), raised, message)
        except Exception as raised:
            error = self._explain(errors.unexpected(message.target), raised, message)
        finally:
            if message.stream_ids:
                self._forget(message, uploads)
        if message.id is None:
            return
        if error is None:
            try:
                slow = send(Completion(message.id, result, has_result=True))
            except InvalidValue as raised:
                error = self._explain(errors.unexpected(message.target), raised, message)
        if error is not None:
            slow = send(Completion(message.id, error=error))
        if slow is not None:
            await slow

    async def _run_stream(
        self, message: StreamInvocation, uploads: list[Upload], stream: _Stream
    ) -> None:
        """Run a method that answers with a stream."""
        stream.has_begun = True
        error = None
        try:
            if not stream.is_cancelled:
                error = await self._stream(message, uploads)
        except asyncio.CancelledError as raised:
            if self._has_ended or (stream.is_cancelled and cancelled_by_others(stream.task)):
                raise
            if not stream.is_cancelled:
                if is_being_cancelled():
                    raise
                error = self._explain(errors.STREAMING, raised, message)
        finally:
            self._forget(message, uploads)
            self._streams.pop(message.id, None)
        await self._complete(message.id, error)

    async def _stream(self, message: StreamInvocation, uploads: list[Upload]) -> str | None:
        """Send the items of a stream, and return the error that has ended it."""
        text = errors.unexpected(message.target)
        try:
            if self._databases.are_due():
                await self._databases.close()
            method, arguments = self._bind(message)
            if self._may_invoke is not None and not await self._may_invoke(method):
                raise self._unauthorized(message)
            arguments = self._with_streams(message, method, arguments, uploads)
            if self._filtered is None:
                items = method.function(self._new_hub(), *arguments)
            else:
                items = self._filtered(method, self._new_hub(), arguments)
            if inspect.isawaitable(items):
                items = await items
            if not hasattr(items, "__aiter__"):
                raise HubException(errors.no_stream(message.target))
            text = errors.STREAMING
            iterator = items.__aiter__()
            count = 0
            try:
                async for item in iterator:
                    slow = self._send(StreamItem(message.id, item))
                    if slow is not None:
                        await slow
                    count += 1
                    if not count % _IN_A_ROW:
                        await asyncio.sleep(0)
            finally:
                if hasattr(iterator, "aclose"):
                    await iterator.aclose()
        except _Refused as refused:
            return str(refused)
        except Exception as raised:
            return self._explain(text, raised, message)
        return None

    def _bind(self, message: _Call) -> tuple[HubMethod, Sequence[Any]]:
        """Return the method that is meant, and the arguments in the message. Raises `_Refused`."""
        target = message.target
        method = find(self._methods, target)
        if method is None:
            raise self._refused(errors.failed(target), HubException("Method does not exist."))
        try:
            arguments = self._protocol.arguments(
                message.arguments, method.arguments_type, len(method.types)
            )
        except WrongNumber as error:
            raise self._refused(errors.failed(target), BindingError(str(error))) from None
        except InvalidValue as error:
            # The text for clients is that of .NET, and names no argument. DEBUG, since the reason
            # may have a value of the client in it.
            logger.debug("The arguments of a call to %.200a do not fit: %.300a", target, str(error))
            wrong_types = BindingError(errors.WRONG_TYPES)
            raise self._refused(errors.failed(target), wrong_types) from None
        return method, arguments

    def _with_streams(
        self,
        message: _Call,
        method: HubMethod,
        arguments: Sequence[Any],
        uploads: list[Upload],
    ) -> Sequence[Any]:
        """Return the arguments with the upload streams among them. Raises `_Refused`."""
        target = message.target
        if method.is_stream != isinstance(message, StreamInvocation):
            raise _Refused(errors.wrong_mode(target, is_stream=method.is_stream))
        if len(uploads) != len(method.streams) or len(message.stream_ids) != len(uploads):
            wrong = errors.wrong_streams(len(message.stream_ids), len(method.streams))
            raise self._refused(errors.unexpected(target), HubException(wrong))
        return method.arrange(arguments, uploads)

    def _refused(self, text: str, error: Exception) -> _Refused:
        logger.debug("%.300a: %.300a", text, str(error))
        is_detailed = self._limits.detailed_errors
        return _Refused(errors.describe(text, error, is_detailed=is_detailed))

    @staticmethod
    def _unauthorized(message: _Call) -> _Refused:
        text = errors.unauthorized(message.target)
        logger.debug("%.300a: it does not meet @authorize() of the method.", text)
        return _Refused(text)

    def _explain(self, text: str, error: BaseException, message: _Call) -> str:
        """Log what a method has raised, and return what its client may read of it."""
        if errors.is_one_line(error):
            name = type(error).__name__
            logger.error(
                "The hub method %r has raised %s: %.300a", message.target, name, str(error)
            )
        elif not isinstance(error, HubException):
            logger.error(
                "The hub method %r has raised %s.",
                message.target,
                type(error).__name__,
                exc_info=error,
            )
        return errors.describe(text, error, is_detailed=self._limits.detailed_errors)

    async def _complete(self, invocation_id: str, error: str | None) -> None:
        slow = self._send(Completion(invocation_id, error=error))
        if slow is not None:
            await slow

    def _forget(self, message: _Call, uploads: list[Upload]) -> None:
        """Note that a method has ended, and drop its upload streams."""
        self._calls -= _has_task(message)
        end = HubException(errors.CLOSED) if self._has_ended else StopAsyncIteration()
        for id_, upload in zip(message.stream_ids, uploads, strict=False):
            if self._uploads.get(id_) is upload:
                del self._uploads[id_]
            upload.forget(end)


def _is_plain(message: Message) -> bool:
    """Return True for an invocation that takes a slot."""
    return message.__class__ is Invocation and not message.stream_ids


def _has_task(message: Message) -> bool:
    """Return True for a call that takes no slot, but has a task of its own."""
    return isinstance(message, StreamInvocation) or (
        isinstance(message, Invocation) and bool(message.stream_ids)
    )


class _Refused(Exception):
    """An invocation is answered with this text, and its method does not run."""


class _Stream:
    """A stream that is being sent, which the client may cancel."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.has_begun = False
        self.is_cancelled = False

    @property
    def is_cleaning(self) -> bool:
        """True if its task has been cancelled, and may still do something."""
        return self.is_cancelled and self.has_begun

    def cancel(self) -> None:
        if self.is_cancelled:
            return  # Once more, it would break off what the stream does at its end.
        self.is_cancelled = True
        # A task that is cancelled before its first step would send no Completion.
        if self.has_begun:
            self.task.cancel()
