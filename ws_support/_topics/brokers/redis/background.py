"""One thread for all that is published where nobody has subscribed: views, tasks, the shell.

`async_to_sync(broadcast)` makes an event loop for each call. A connection of its own would cost
each call a handshake with Redis, and be left open when the loop is closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, ClassVar, Final, TypeVar

from ws_support._asyncio import after_fork
from ws_support._topics.brokers.redis.address import Address
from ws_support._topics.brokers.redis.publisher import Publisher

Result = TypeVar("Result")

_IDLE: Final = 10.0
"""Seconds without a message after which the thread ends, and closes its connections."""


async def in_background(
    address: Address,
    use: Callable[[Publisher], Coroutine[Any, Any, Result]],
    make: Callable[[Address], Publisher] = Publisher,
) -> Result:
    """Use the publisher that this process keeps for that, which `make` makes.

    Returns and raises what `use` does.
    """
    thread = _Thread.taken()
    using = thread.use(address, use, make)
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(using, thread.loop))


def once_in_background(key: Any, run: Callable[[], Coroutine[Any, Any, None]]) -> Future[None]:
    """Run a coroutine there, if none runs for `key`. The result is there when that has ended."""
    thread = _Thread.taken()
    return asyncio.run_coroutine_threadsafe(thread.once(key, run), thread.loop)


class _Thread:
    """Runs an event loop with a publisher for each Redis, until nothing was published for `_IDLE`
    seconds."""

    _current: ClassVar[_Thread | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def taken(cls) -> _Thread:
        """Return the thread of this process. It stays until `use()` has run."""
        with cls._lock:
            if cls._current is None:
                cls._current = cls()
            cls._current._using += 1
            return cls._current

    @classmethod
    def forget(cls) -> None:
        """Forget the thread: a process that was forked has none."""
        cls._current, cls._lock = None, threading.Lock()

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._using = 0
        self._publishers: dict[Address, Publisher] = {}
        self._running: dict[Any, asyncio.Task[None]] = {}
        # The end of the process does not wait for it.
        thread = threading.Thread(target=self._run, name="ws_support-publisher", daemon=True)
        thread.start()

    async def use(
        self,
        address: Address,
        use: Callable[[Publisher], Coroutine[Any, Any, Result]],
        make: Callable[[Address], Publisher],
    ) -> Result:
        publisher = self._publishers.get(address)
        if publisher is None:
            publisher = self._publishers[address] = make(address)
        try:
            return await use(publisher)
        finally:
            self._used()

    async def once(self, key: Any, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._running.get(key)
        if task is None or task.done():
            task = self._running[key] = asyncio.create_task(run())
        try:
            await asyncio.wait([task])
        finally:
            self._used()

    def _used(self) -> None:
        with self._lock:
            self._using -= 1
        self._used_at = self.loop.time()

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self._until_idle())
        finally:
            self.loop.close()

    async def _until_idle(self) -> None:
        self._used_at = self.loop.time()
        while not self._is_over():  # noqa: ASYNC110  # Only time can tell.
            await asyncio.sleep(_IDLE / 2)
        closing = [each.close() for each in self._publishers.values()]
        await asyncio.gather(*closing, return_exceptions=True)

    def _is_over(self) -> bool:
        with self._lock:
            if self._using or self.loop.time() - self._used_at < _IDLE:
                return False
            _Thread._current = None
            return True


after_fork(_Thread.forget)
