"""The publisher: hands messages to a channel layer, in order and with numbers."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections import OrderedDict
from itertools import count
from time import monotonic
from typing import Any, ClassVar, Final
from weakref import ref

from ws_support._topics.brokers.base import BrokerUnavailable
from ws_support._topics.brokers.channel_layer.calls import (
    PUBLISHED,
    cancelled,
    group_of,
    send_to_group,
    within,
)

_LANES: Final = 8
"""The most messages that go to the layer at the same time: each takes a connection to Redis."""

_NUMBERED: Final = 10_000
"""The most topics whose last numbers are remembered. A forgotten topic starts again with 1."""


class Publisher:
    """Hands messages to `layer`; those of one topic one after the other.

    Each message has a number, which counts the messages of its event loop under its topic. A
    process that misses one notices the gap with the next message. When the layer does not take a
    message, its number is used again.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._numbers = _Numbers.of_this_loop()
        self._lanes = [asyncio.Lock() for _ in range(_LANES)]
        self._outage: BrokerUnavailable | None = None
        self._outage_at = 0.0

    async def publish(self, topic: str, message: dict[str, Any], **more: Any) -> None:
        """Hand `message`, a `websocket.send`, to every process that has joined `topic`.

        Raises `BrokerError` when the layer does not take the message within 5 s, and when there was
        an outage while it waited for the message in front of it.
        """
        began_at = monotonic()
        async with self._lanes[hash(topic) % _LANES]:
            if self._outage is not None and self._outage_at >= began_at:
                raise BrokerUnavailable(*self._outage.args)
            number = self._numbers.last.get(topic, 0) + 1
            envelope = {
                **message,
                **more,
                "type": PUBLISHED,
                "topic": topic,
                "id": f"{_PROCESS}.{os.getpid()}.{next(_ids)}",
                "publisher": f"{self._numbers.publisher}.{os.getpid()}",
                "number": number,
            }
            try:
                await send_to_group(self._layer, group_of(topic), envelope)
            except BrokerUnavailable as outage:
                self._outage, self._outage_at = outage, monotonic()
                raise
            self._numbers.taken(topic, number)

    async def count_takers(self, topic: str, message: dict[str, Any], wait: float) -> int:
        """Publish a message, and return how many processes confirm it within `wait` seconds."""
        channel = await within(self._layer.new_channel())
        takers = 0

        async def listen() -> None:
            nonlocal takers
            while True:
                await self._layer.receive(channel)
                takers += 1

        listener = asyncio.create_task(listen())
        try:
            await self.publish(topic, message, reply_to=channel)
            await asyncio.wait([listener], timeout=wait)
        finally:
            await cancelled(listener)
        return takers


class _Numbers:
    """The number of the last message under each topic; used by one event loop at a time.

    When a loop is closed, the next one continues its numbers. `async_to_sync(broadcast)` makes a
    thread and a loop for each call: with new numbers, each message would have the number 1.
    """

    _all: ClassVar[list[_Numbers]] = []
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self.publisher = uuid.uuid4().hex
        self.last: OrderedDict[str, int] = OrderedDict()
        self._loop: ref[asyncio.AbstractEventLoop] | None = None

    @classmethod
    def of_this_loop(cls) -> _Numbers:
        """Return numbers that no other open event loop uses."""
        with cls._lock:
            numbers = next((each for each in cls._all if not each._are_in_use()), None)
            if numbers is None:
                numbers = cls()
                cls._all.append(numbers)
            numbers._loop = ref(asyncio.get_running_loop())
        return numbers

    def _are_in_use(self) -> bool:
        loop = None if self._loop is None else self._loop()
        return loop is not None and not loop.is_closed()

    def taken(self, topic: str, number: int) -> None:
        self.last[topic] = number
        self.last.move_to_end(topic)
        if len(self.last) > _NUMBERED:
            self.last.popitem(last=False)


_ids: Final = count()
_PROCESS: Final = uuid.uuid4().hex
"""The first part of each message's identifier. The process identifier follows it, since forked
processes have the same value here."""
