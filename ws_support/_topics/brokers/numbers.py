"""The numbers of messages: each publisher counts its own, so that who misses one notices."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import OrderedDict
from typing import ClassVar, Final
from weakref import ref

from ws_support._asyncio import after_fork

_NUMBERED: Final = 10_000
"""The most topics whose last numbers are remembered. A forgotten topic starts again with 1."""


class Numbers:
    """The number of the last message under each topic; used by one event loop at a time.

    When a loop is closed, the next one continues its numbers. `async_to_sync(broadcast)` makes a
    thread and a loop for each call: with new numbers, each message would have the number 1.
    """

    _all: ClassVar[list[Numbers]] = []
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self.publisher = uuid.uuid4()
        self._last: OrderedDict[str, int] = OrderedDict()
        self._loop: ref[asyncio.AbstractEventLoop] | None = None

    @classmethod
    def of_this_loop(cls) -> Numbers:
        """Return the numbers of this event loop: its own, or those that no open loop uses."""
        here = asyncio.get_running_loop()
        with cls._lock:
            used = [(each, each._user()) for each in cls._all]
            numbers = next((each for each, loop in used if loop is here), None)
            if numbers is None:
                numbers = next((each for each, loop in used if loop is None), None)
            if numbers is None:
                numbers = cls()
                cls._all.append(numbers)
            numbers._loop = ref(here)
        return numbers

    @classmethod
    def renew_lock(cls) -> None:
        """Make a lock that nobody holds, in a process that was forked."""
        cls._lock = threading.Lock()

    def _user(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop that uses them, if it is still open."""
        loop = None if self._loop is None else self._loop()
        return None if loop is None or loop.is_closed() else loop

    def next(self, topic: str) -> int:
        """Return the number of the next message under `topic`."""
        return self._last.get(topic, 0) + 1

    def taken(self, topic: str, number: int) -> None:
        """Note that the message with this number was taken: the next one has another."""
        self._last[topic] = number
        self._last.move_to_end(topic)
        if len(self._last) > _NUMBERED:
            self._last.popitem(last=False)


after_fork(Numbers.renew_lock)
