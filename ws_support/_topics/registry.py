"""The registry of topics: their subscribers in this process."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from ws_support._asyncio import PerLoop, to_the_end
from ws_support._topics.brokers import broker_class
from ws_support._topics.messages import check_subscriptions
from ws_support._topics.subscriber import Published, Subscriber
from ws_support.conf import get_options

logger = logging.getLogger("ws_support.broadcast")

_TURN: Final = 64
"""Topics that one connection subscribes to in a row, before others have their turn."""

_LOG_EVERY: Final = 10.0
"""Seconds between two log lines about lost messages: many topics lose some at the same time."""


@dataclass
class Statistics:
    """Figures of this process: two of the present, and two since it started."""

    topics: int = 0
    """Topics that have subscribers in this process now."""

    subscriptions: int = 0
    """Subscriptions of connections to topics, now."""

    dropped: int = 0
    """Connections that were closed with 1013, because their queue was full or because messages were
    lost on the way to this process."""

    lost: int = 0
    """Messages that were lost on the way: the channel layer took them, and did not keep them."""


class TopicRegistry:
    """The topics of one event loop: the receiver of what its broker delivers."""

    lost = 0
    _logged_at: float | None = None

    def __init__(self) -> None:
        self._topics: dict[str, dict[Subscriber, None]] = {}
        self.broker = broker_class()(self)

    @classmethod
    def of_this_loop(cls) -> TopicRegistry:
        """Return the registry of the running event loop."""
        return _registries.get()

    async def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Add a subscriber to `topic`, who gets each message that is published after the return.

        During an outage of the broker, this returns as well, and the subscription holds once the
        broker is back. Raises `ValueError` when the connection may not subscribe to more.
        """
        topics = subscriber.topics
        if topics and len(topics) % _TURN == 0:
            # Without a broker between processes, nothing else here waits.
            await asyncio.sleep(0)
        limit = get_options().max_subscriptions
        check_subscriptions(topics, subscriber.topics_length, topic, limit)
        subscribers = self._topics.setdefault(topic, {})
        subscribers[subscriber] = None
        if topic not in topics:
            topics.add(topic)
            subscriber.topics_length += len(topic)
        await self.broker.subscribe(topic)

    async def unsubscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Remove a subscriber from `topic` at once.

        When it was the last one, the broker is told before this returns.
        """
        if topic in subscriber.topics:
            subscriber.topics.remove(topic)
            subscriber.topics_length -= len(topic)
        subscribers = self._topics.get(topic)
        if subscribers is None:
            return
        subscribers.pop(subscriber, None)
        if subscribers:
            return
        del self._topics[topic]
        await self.broker.unsubscribe(topic)

    async def leave_all(self, subscriber: Subscriber) -> None:
        """Remove a subscriber from all its topics."""
        await to_the_end(self._leave_all(subscriber))

    async def _leave_all(self, subscriber: Subscriber) -> None:
        for topic in tuple(subscriber.topics):
            await self.unsubscribe(topic, subscriber)

    def deliver(self, topic: str, message: Any) -> bool:
        """Send `message`, a `websocket.send`, to all subscribers of `topic` in this process.

        Return True if the next message should wait for a moment. Many messages at once could fill
        the queues of clients that are not slow, before the event loop, or a server that sends from
        its own threads, gets to run.
        """
        is_filling = False
        published = Published(topic, message)
        for subscriber in tuple(self._topics.get(topic, ())):
            if subscriber.push(published):
                is_filling = True
        return is_filling

    def miss(self, topic: str, count: int, cause: str) -> None:
        """Close the connections of all subscribers of `topic`, which have missed `count` messages.

        The messages were lost on the way to this process; `cause` says why.
        """
        TopicRegistry.lost += count
        closed = sum([each.miss() for each in tuple(self._topics.get(topic, ()))])
        now = monotonic()
        if TopicRegistry._logged_at is None or now - TopicRegistry._logged_at >= _LOG_EVERY:
            TopicRegistry._logged_at = now
            logger.error(
                "Messages are lost: %d under the topic %.100a (%d in this process until now). %s"
                " Closed with 1013, to ask again: %d connections.",
                count,
                topic,
                TopicRegistry.lost,
                cause,
                closed,
            )


def statistics() -> Statistics:
    """Return the figures of this process."""
    registries = [registry for _, registry in _registries.items()]
    return Statistics(
        topics=sum(len(each._topics) for each in registries),
        subscriptions=sum(
            len(subscribers) for each in registries for subscribers in list(each._topics.values())
        ),
        dropped=Subscriber.dropped,
        lost=TopicRegistry.lost,
    )


_registries: Final = PerLoop(TopicRegistry)
