"""The streams that a client sends to a method of a hub."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from ws_support._hubs.errors import WRONG_ITEM, HubException
from ws_support._hubs.messages import Completion, StreamItem, Undecoded
from ws_support._hubs.protocols.base import HubProtocol, InvalidValue

logger = logging.getLogger("ws_support.hubs")


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
    At most `capacity` items wait, and only one when the `budget` is spent: it may be the one that a
    method needs first. They wait as they came, which takes less than their values. When there is
    room again, it calls `make_way()`.
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
        self._items: deque[bytes] = deque()
        """Items as they came."""
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
        item = self._items.popleft()
        self._budget.used -= len(item)
        try:
            return self._protocol.value(Undecoded(item), self._type)
        except InvalidValue as error:
            # DEBUG, since the reason may have a value of the client in it.
            logger.debug("An item of an upload stream does not fit: %.300a", str(error))
            self._drop(StopAsyncIteration())
            raise HubException(WRONG_ITEM) from None
        finally:
            if was_full:
                self._make_way()

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
        item = bytes(message.item)  # Not a part of the frame, which would be kept as a whole.
        self._items.append(item)
        self._budget.used += len(item)
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

    def forget(self, error: BaseException) -> None:
        """Drop what waits and what still comes: its method is over.

        A task that the method has made, and that still reads, gets `error`.
        """
        was_full = self._is_full
        self._drop(error)
        if was_full:
            self._make_way()

    def _drop(self, error: BaseException) -> None:
        self._budget.used -= sum(map(len, self._items))
        self._items.clear()
        self.end(error)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
