"""Helpers for asyncio: a value for each event loop, a backoff, and cancellation."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from random import uniform
from time import monotonic
from types import coroutine
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

Value = TypeVar("Value")


_CANCEL_EVERY: Final = 1.0
"""Seconds between two cancellations of a task that has to end."""

_CANCEL_FOR: Final = 5.0
"""Seconds after which a task that was cancelled is left alone."""


class PerLoop(Generic[Value]):
    """One value for each event loop, made by `make` when it is asked for first."""

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._values: WeakKeyDictionary[asyncio.AbstractEventLoop, Value] = WeakKeyDictionary()

    def get(self) -> Value:
        """Return the value of the running event loop."""
        loop = asyncio.get_running_loop()
        try:
            return self._values[loop]
        except KeyError:
            return self._values.setdefault(loop, self._make())

    def items(self) -> list[tuple[asyncio.AbstractEventLoop, Value]]:
        """Return the values of all loops that there are."""
        # Not with `items()` of the dictionary: event loops of other threads may come meanwhile.
        loops = [loop for each in self._values.keyrefs() if (loop := each()) is not None]
        return [(loop, self._values[loop]) for loop in loops]


class Backoff:
    """The pauses between attempts: from 1 s to 10 s, with jitter."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 1.0

    def next(self) -> float:
        """Return the seconds until the next attempt."""
        pause, self._next = self._next, min(2 * self._next, 10)
        return uniform(0.5, 1) * pause  # noqa: S311  # Not for secrets.


def after_fork(function: Callable[[], None]) -> None:
    """Call `function` in each process that is forked from this one. Windows forks none."""
    getattr(os, "register_at_fork", lambda **_: None)(after_in_child=function)


def in_this_loop(function: Callable[..., None]) -> Callable[..., None]:
    """Return what any thread may call: it calls `function` in the running event loop.

    Once the loop is closed, it does nothing.
    """
    loop = asyncio.get_running_loop()

    def call(*arguments: Any) -> None:
        with suppress(RuntimeError):  # The loop has been closed.
            loop.call_soon_threadsafe(function, *arguments)

    return call


def cancelled_by_others(task: asyncio.Task[Any]) -> bool:
    """Undo our own cancellation of `task`. Return True if other code has cancelled it as well."""
    # Python 3.10 does not count cancellations: there is nothing to undo, and no way to tell.
    uncancel: Callable[[], int] = getattr(task, "uncancel", lambda: 0)
    return uncancel() > 0


def is_being_cancelled() -> bool:
    """Return True if the running task was cancelled. On Python 3.10, nothing says so: False."""
    cancelling: Callable[[], int] = getattr(asyncio.current_task(), "cancelling", lambda: 0)
    return cancelling() > 0


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel `task`, and wait until it has ended, for at most 5 s: it may not heed it.

    The task is cancelled more than once: `asyncio.wait_for()` of Python 3.11 and older loses a
    cancellation that comes together with the result of what it waits for.
    """
    end = monotonic() + _CANCEL_FOR
    while not task.done() and monotonic() < end:
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_EVERY)


async def comes(future: asyncio.Future[Any], seconds: float) -> bool:
    """Return True if `future` is done within `seconds`.

    `asyncio.wait_for()` of Python 3.11 loses a cancellation that comes together with the result.
    """
    done, _ = await asyncio.wait([future], timeout=seconds)
    return bool(done)


async def to_the_end(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run `coroutine` to its end, also when the task that waits for it is cancelled."""
    task = asyncio.create_task(coroutine)
    _unfinished.add(task)
    task.add_done_callback(_unfinished.discard)
    await asyncio.wait([task])


_unfinished: Final[set[asyncio.Task[None]]] = set()
"""asyncio itself keeps only weak references to tasks."""


async def awaited(awaitable: Awaitable[None]) -> None:
    """Await `awaitable`: this makes a coroutine of it, for a task."""
    await awaitable


@coroutine
def rest_of(steps: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Await the rest of a coroutine that was started by hand and now waits for `waits_for`."""
    while True:
        try:
            yield waits_for
        except BaseException as error:
            step: Callable[[], Any] = partial(steps.throw, error)
        else:
            step = partial(steps.send, None)
        try:
            waits_for = step()
        except StopIteration:
            return
