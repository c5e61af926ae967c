"""The broker within one process: from event loop to event loop."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Final

from django.core.signals import request_started

from ws_support._asyncio import PerLoop
from ws_support._topics.brokers.base import MOMENT, Appended, Broker, Keeping, Log, Receiver
from ws_support._topics.brokers.local_presence import LocalPresence
from ws_support._topics.brokers.memory import histories
from ws_support._topics.positions import Position

logger = logging.getLogger("ws_support.broadcast")


class LocalBroker(Broker):
    """Delivers messages at once; to another event loop, in its next turn."""

    is_between_processes = False
    has_history = True
    title = "this process"

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._presence = LocalPresence(_hand_out_text)

    async def subscribe(self, topic: str) -> None:
        _Listeners.are_here = True
        _receivers.get().setdefault(topic, {})[self] = self._receiver

    async def unsubscribe(self, topic: str) -> None:
        topics = _receivers.get()
        brokers = topics.get(topic, {})
        brokers.pop(self, None)
        if not brokers:
            topics.pop(topic, None)

    async def publish(self, topic: str, message: Any) -> None:
        if not _Listeners.are_here:
            _Listeners.warn(topic)
        _, is_filling = _hand_out("deliver", topic, message)
        # Code that publishes in an endless loop must let other tasks run.
        await asyncio.sleep(MOMENT if is_filling else 0)

    async def append(self, topic: str, message: Any, keeping: Keeping) -> Appended:
        if not _Listeners.are_here:
            _Listeners.warn(topic)
        kept = histories()
        # Under the lock, so that messages of several threads are handed out in their order.
        with kept.lock:
            position, previous = kept.append(topic, message, keeping)
            takers, is_filling = _hand_out("deliver_kept", topic, message, position, previous)
        await asyncio.sleep(MOMENT if is_filling else 0)
        return Appended(position, takers)

    async def read(self, topic: str, since: Position | None, limit: int) -> Log:
        kept = histories()
        with kept.lock:
            return kept.read(topic, since, limit)

    async def count_takers(self, topic: str, message: Any, wait: float) -> int:
        takers = sum(len(topics.get(topic, ())) for _, topics in _receivers.items())
        await self.publish(topic, message)
        return takers

    def presence(self, topic: str) -> LocalPresence:
        return self._presence


def _hand_out(method: str, topic: str, *message: Any) -> tuple[int, bool]:
    """Give a message to that method of each receiver.

    Return how many there are, and True if one of this event loop has much to do.
    """
    here = asyncio.get_running_loop()
    takers, is_filling = 0, False
    for loop, topics in _receivers.items():
        for receiver in tuple(topics.get(topic, {}).values()):
            takers += 1
            deliver = getattr(receiver, method)
            if loop is here:
                is_filling |= deliver(topic, *message)
            else:
                with suppress(RuntimeError):  # That loop has been closed.
                    loop.call_soon_threadsafe(deliver, topic, *message)
    return takers, is_filling


def _hand_out_text(topic: str, text: str) -> None:
    _hand_out("deliver", topic, {"type": "websocket.send", "text": text})


_receivers: Final = PerLoop[dict[str, dict[LocalBroker, Receiver]]](dict)
"""For each event loop the topics that are subscribed to there, and their receivers."""


class _Listeners:
    """Notes if this process may have subscribers: only the process of a server can."""

    are_here = False

    @classmethod
    def warn(cls, topic: str) -> None:
        """Warn, once, that a broadcast from a shell or a task worker reaches no other process."""
        cls.are_here = True
        logger.warning(
            "Nobody has heard the broadcast under %.100a: in this process nobody has subscribed to"
            " anything, and CHANNEL_LAYERS has no layer to other processes. With Redis, its BACKEND"
            " is channels_redis.core.RedisChannelLayer.",
            topic,
        )

    @classmethod
    def note_request(cls, **details: Any) -> None:
        """Note a request: one with a scope has come to an ASGI server."""
        if "scope" in details:
            cls.are_here = True
            request_started.disconnect(cls.note_request)


request_started.connect(_Listeners.note_request)
