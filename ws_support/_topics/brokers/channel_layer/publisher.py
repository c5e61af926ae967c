"""The publisher: hands messages to a channel layer, in order and with numbers."""

from __future__ import annotations

import asyncio
import os
import uuid
from itertools import count
from time import monotonic
from typing import Any, Final

from ws_support._asyncio import cancelled
from ws_support._topics.brokers.base import BrokerUnavailable
from ws_support._topics.brokers.channel_layer.calls import (
    PUBLISHED,
    group_of,
    send_to_group,
    within,
)
from ws_support._topics.brokers.numbers import Numbers
from ws_support._topics.messages import JSONText

_LANES: Final = 8
"""The most messages that go to the layer at the same time: each takes a connection to Redis."""


class Publisher:
    """Hands messages to `layer`; those of one topic one after the other.

    Each message has a number, which counts the messages of its event loop under its topic. A
    process that misses one notices the gap with the next message. When the layer does not take a
    message, its number is used again.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._numbers = Numbers.of_this_loop()
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
            number = self._numbers.next(topic)
            envelope = {
                **message,
                **more,
                "type": PUBLISHED,
                "topic": topic,
                "id": f"{_PROCESS}.{os.getpid()}.{next(_ids)}",
                "publisher": f"{self._numbers.publisher.hex}.{os.getpid()}",
                "number": number,
            }
            if isinstance(message.get("text"), JSONText):
                envelope["json"] = True
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


_ids: Final = count()
_PROCESS: Final = uuid.uuid4().hex
"""The first part of each message's identifier. The process identifier follows it, since forked
processes have the same value here."""
