"""One thread for all that is published where nobody has subscribed: views, tasks, the shell.

`async_to_sync(broadcast)` makes an event loop for each call. A connection of its own would cost
each call a handshake with Redis, and be left open when the loop is closed.
"""

from __future__ import annotations

import asyncio
import threading
from typing import ClassVar, Final

from ws_support._asyncio import after_fork
from ws_support._topics.brokers.redis.address import Address
from ws_support._topics.brokers.redis.envelope import Envelope
from ws_support._topics.brokers.redis.publisher import Publisher

_IDLE: Final = 10.0
"""Seconds without a message after which the thread ends, and closes its connections."""


async def in_background(address: Address, envelope: Envelope) -> int:
    """Publish a message over the connection that this process keeps for that.

    Returns and raises what `Publisher.publish()` does.
    """
    thread = _Thread.taken()
    publishing = thread.publish(address, envelope)
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(publishing, thread.loop))


class _Thread:
    """Runs an event loop with a publisher for each Redis, until nothing was published for `_IDLE`
    seconds."""

    _current: ClassVar[_Thread | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def taken(cls) -> _Thread:
        """Return the thread of this process. It stays until `publish()` has run."""
        with cls._lock:
            if cls._current is None:
                cls._current = cls()
            cls._current._publishing += 1
            return cls._current

    @classmethod
    def forget(cls) -> None:
        """Forget the thread: a process that was forked has none."""
        cls._current, cls._lock = None, threading.Lock()

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._publishing = 0
        self._publishers: dict[Address, Publisher] = {}
        # The end of the process does not wait for it.
        thread = threading.Thread(target=self._run, name="ws_support-publisher", daemon=True)
        thread.start()

    async def publish(self, address: Address, envelope: Envelope) -> int:
        publisher = self._publishers.get(address)
        if publisher is None:
            publisher = self._publishers[address] = Publisher(address)
        try:
            return await publisher.publish(envelope)
        finally:
            with self._lock:
                self._publishing -= 1
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
            if self._publishing or self.loop.time() - self._used_at < _IDLE:
                return False
            _Thread._current = None
            return True


after_fork(_Thread.forget)
