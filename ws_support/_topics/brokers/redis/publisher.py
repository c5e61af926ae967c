"""The publisher: sends what is published at the same time together, in order and with numbers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from redis.asyncio.connection import Connection
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from ws_support._topics.brokers.base import TIMEOUT, BrokerError, BrokerUnavailable
from ws_support._topics.brokers.numbers import Numbers
from ws_support._topics.brokers.redis.address import Address, close
from ws_support._topics.brokers.redis.envelope import Envelope
from ws_support._topics.brokers.redis.scripts import Call, Script
from ws_support._topics.outages import is_away

Result = TypeVar("Result")

_BATCH: Final = 128
"""The most commands that are sent together."""

_BATCH_SIZE: Final = 2**18
"""Characters or bytes, from which on a batch is full."""

_MOST: Final = 2**14
"""The most commands that wait to be sent. One more is refused."""


_CHECK_EVERY: Final = 1.0
"""Seconds between two looks if Redis is writable."""

_CHECK: Final = (b"DEL", b"ws_support:check")
"""A command that a replica refuses. After a failover, the old master is one."""


class _Command(NamedTuple):
    words: Envelope | Call | tuple[bytes, ...]
    answer: asyncio.Future[Any]
    since: float


class Publisher:
    """Sends commands to one Redis over one connection, and each of them once.

    While the answers to some commands are outstanding, others gather, and are sent together: under
    load, one write and one read serve many messages. Each message has a number, which counts the
    messages of its event loop under its topic. When Redis does not take a message, its number is
    used again.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._pool = address.make_pool()
        self._numbers = Numbers.of_this_loop()
        self._waiting: deque[_Command] = deque()
        self._batch: list[_Command] = []
        self._task: asyncio.Task[None] | None = None
        self._checked_at = -_CHECK_EVERY

    async def publish(self, envelope: Envelope) -> int:
        """Publish a message, and return how many connections to Redis it was handed to.

        Raises `BrokerError` when Redis does not take it within 5 s.
        """
        takers: int = await self._ask(envelope)
        return takers

    async def call(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Any:
        """Call a script, and return what Redis answers.

        Raises `BrokerError` when Redis does not answer within 5 s, or with an error.
        """
        return await self._ask(Call(script, tuple(keys), tuple(arguments)))

    async def _ask(self, words: Envelope | Call) -> Any:
        if len(self._waiting) >= _MOST:
            raise BrokerError(f"{_MOST} messages wait for it already")
        command = self._command(words)
        self._waiting.append(command)
        return await self._answer(command)

    async def probe(self, channel: bytes) -> None:
        """Publish nothing to a channel, ahead of the messages that wait. Raises as `publish()`."""
        command = self._command((b"PUBLISH", channel, b""))
        self._waiting.appendleft(command)
        await self._answer(command)

    async def close(self) -> None:
        """Close the connection, once what is under way has been answered or given up."""
        try:
            if self._task is not None:
                await asyncio.wait([self._task])
        finally:
            await close(self._pool)

    def _command(self, words: Envelope | Call | tuple[bytes, ...]) -> _Command:
        loop = asyncio.get_running_loop()
        return _Command(words, loop.create_future(), loop.time())

    async def _answer(self, command: _Command) -> Any:
        if self._task is None:
            self._task = asyncio.create_task(self._send_all(), name="publisher")
            self._task.add_done_callback(self._ended)
        return await command.answer

    async def _send_all(self) -> None:
        while batch := self._next_batch():
            self._batch = batch
            since = min(each.since for each in batch)
            left = since + TIMEOUT - asyncio.get_running_loop().time()
            try:
                answers = await within(self._send(batch), left)
            except BrokerError as error:
                self._checked_at = -_CHECK_EVERY
                answers = [_copy(error) for _ in batch]
            _hand_out(batch, answers)
        self._task = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Answer those who wait for a task that was cancelled, as all are when their loop ends."""
        if self._task is task:
            self._task = None
            left = [*self._batch, *self._waiting]
            self._waiting.clear()
            _hand_out(left, [BrokerUnavailable("the event loop ends") for _ in left])

    async def _send(self, batch: list[_Command]) -> list[Any]:
        # Looks if Redis has closed it meanwhile, and connects again.
        connection = await self._pool.get_connection()
        try:
            numbers: dict[str, int] = {}
            commands = [self._words(each.words, numbers) for each in batch]
            if is_check_due := self._is_check_due():
                commands.append(_CHECK)
            await connection.send_packed_command(connection.pack_commands(commands))
            answers = [await _answer(connection) for _ in batch]
            if is_check_due:
                await self._check(connection)
            await _call_unknown(connection, batch, answers)
        except BaseException:
            # An answer that comes later would be taken for that of another command.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._pool.release(connection)
        for each, answer in zip(batch, answers, strict=True):
            if isinstance(each.words, Envelope) and not isinstance(answer, Exception):
                topic = each.words.topic
                self._numbers.taken(topic, numbers[topic])
        return answers

    def _is_check_due(self) -> bool:
        return asyncio.get_running_loop().time() - self._checked_at >= _CHECK_EVERY

    async def _check(self, connection: Connection) -> None:
        """Raise `ReadOnlyError` if Redis is a replica: it takes messages, and nobody hears them."""
        try:
            await connection.read_response()
        except ReadOnlyError:
            raise
        except ResponseError:
            pass  # Not allowed, or not at present: messages are.
        self._checked_at = asyncio.get_running_loop().time()

    def _next_batch(self) -> list[_Command]:
        """Return the commands that are sent next. Those that have waited for too long fail."""
        batch: list[_Command] = []
        oldest = asyncio.get_running_loop().time() - TIMEOUT
        size = 0
        while self._waiting and len(batch) < _BATCH and size < _BATCH_SIZE:
            command = self._waiting.popleft()
            if command.since >= oldest:
                batch.append(command)
                size += getattr(command.words, "size", 0)
            else:
                late = BrokerUnavailable(f"it was not sent within {TIMEOUT:g} s")
                _hand_out([command], [late])
        return batch

    def _words(
        self, words: Envelope | Call | tuple[bytes, ...], numbers: dict[str, int]
    ) -> tuple[bytes, ...]:
        if isinstance(words, Call):
            return words.words
        if not isinstance(words, Envelope):
            return words
        topic = words.topic
        base = self._numbers.next(topic) - 1
        number = numbers[topic] = numbers.get(topic, base) + 1
        data = words.write(self._numbers.publisher.bytes[:12], number, base)
        return (b"PUBLISH", self._address.channel(topic), data)


async def _call_unknown(connection: Connection, batch: list[_Command], answers: list[Any]) -> None:
    """Call the scripts that Redis did not know once more, in place: it has forgotten them when it
    was restarted, or another one has taken its place."""
    unknown = [
        (at, each.words)
        for at, (each, answer) in enumerate(zip(batch, answers, strict=True))
        if isinstance(each.words, Call) and _is_unknown(answer)
    ]
    if not unknown:
        return
    loading = list({call.script: call.loading for _, call in unknown}.values())
    commands = [*loading, *(call.words for _, call in unknown)]
    await connection.send_packed_command(connection.pack_commands(commands))
    for _ in loading:
        await _answer(connection)  # If it fails, so does the call.
    for at, _ in unknown:
        answers[at] = await _answer(connection)


def _is_unknown(answer: Any) -> bool:
    return isinstance(answer, BrokerError) and isinstance(answer.__cause__, NoScriptError)


async def _answer(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        # The answers to the other commands follow.
        return unavailable(error)


def _hand_out(batch: list[_Command], answers: list[Any]) -> None:
    for (_, future, _), answer in zip(batch, answers, strict=True):
        if future.done():
            continue  # Who has asked was cancelled.
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


async def within(
    coroutine: Coroutine[Any, Any, Result], seconds: float = TIMEOUT, of: float | None = None
) -> Result:
    """Wait for Redis, and return what comes.

    Raises `BrokerUnavailable` when the error reports an outage or it takes longer than `seconds`,
    and `BrokerError` for any other error. The text names `of` seconds, or `TIMEOUT`.

    `asyncio.wait_for()` of Python 3.11 loses a cancellation that comes together with the result.
    """
    task = asyncio.create_task(coroutine)
    task.add_done_callback(_retrieve)
    try:
        await asyncio.wait([task], timeout=max(seconds, 0))
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=TIMEOUT)
    if task.cancelled():
        raise BrokerUnavailable(f"no answer within {of or TIMEOUT:g} s")
    error = task.exception()
    if isinstance(error, Exception):
        raise error if isinstance(error, BrokerError) else unavailable(error)
    return task.result()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Look at the exception of a task that nobody may wait for any more."""
    if not task.cancelled():
        task.exception()


def _copy(error: BrokerError) -> BrokerError:
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


def unavailable(error: Exception) -> BrokerError:
    """Return what `error`, one of redis-py, means for a broker."""
    kind = BrokerUnavailable if is_away(error) else BrokerError
    wrapped = kind(f"{type(error).__name__}: {error}".rstrip("."))
    wrapped.__cause__ = error
    return wrapped
