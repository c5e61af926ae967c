"""The streams that a client sends to a method of a hub."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from ws_support._hubs.errors import WRONG_ITEM, HubException
from ws_support._hubs.messages import Completion, StreamItem
from ws_support._hubs.protocols.base import HubProtocol, InvalidValue


class Budget:
    """The bytes that may wait in all upload streams of one client together."""

    __slots__ = ("_most", "used")

    def __init__(self, most: int) -> None:
        self._most = most
        self.used = 0

    @property
    def is_spent(self) -> bool:
        return self.used > self._most


class Upload:
    """An asynchronous iterator over the items that a client sends.

    It ends when the client says so, and raises `HubException` with the error that the client gives.
    At most `capacity` items wait, and only one when the `budget` is spent. When there is room
    again, it calls `make_way()`.
    """

    def __init__(
        self,
        protocol: HubProtocol,
        type_: Any,
        capacity: int,
        budget: Budget,
        make_way: Callable[[], None],
    ) -> None:
        self._protocol = protocol
        self._type = type_
        self._capacity = capacity
        self._budget = budget
        self._make_way = make_way
        self._items: deque[tuple[Any, int]] = deque()
        """Items, and their sizes in bytes as they came."""
        self._end: BaseException | None = None
        self._is_over = False
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> Any:
        if self._waiter is not None:
            raise RuntimeError("Only one task may read a stream of the client at a time.")
        while not self._items:
            if self._end is not None:
                end, self._end = self._end, StopAsyncIteration()
                raise end
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        was_full = self._is_full
        item, size = self._items.popleft()
        self._budget.used -= size
        if was_full:
            self._make_way()
        return item

    @property
    def _is_full(self) -> bool:
        waiting = len(self._items)
        return waiting >= self._capacity or (waiting > 0 and self._budget.is_spent)

    def take(self, message: StreamItem) -> bool:
        """Take an item. Return False if there is no room for it yet: then try again later."""
        if self._is_over:
            return True
        if self._is_full:
            return False
        try:
            size = len(memoryview(message.item))
            self._items.append((self._protocol.value(message.item, self._type), size))
            self._budget.used += size
        except InvalidValue:
            self.end(HubException(WRONG_ITEM))
        self._wake()
        return True

    def complete(self, message: Completion) -> None:
        """End the stream as the client does. What waits is still read."""
        self.end(StopAsyncIteration() if message.error is None else HubException(message.error))

    def end(self, error: BaseException) -> None:
        """End the stream, for who reads it with `error`. The first end counts."""
        if not self._is_over:
            self._is_over = True
            self._end = error
            self._wake()

    def forget(self) -> None:
        """Drop what waits and what still comes: nobody reads it any more."""
        was_full = self._is_full
        self._is_over = True
        self._budget.used -= sum(size for _, size in self._items)
        self._items.clear()
        if was_full:
            self._make_way()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
