"""The registry of topics: their subscribers in this process, and the way to other processes."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    channel_layers,
    get_channel_layer,
)
from django.core.signals import request_started

from ws_support._asyncio import PerLoop
from ws_support._topics.brokers.channel_layer import MOMENT, ChannelLayerBroker
from ws_support._topics.brokers.publisher import Publisher
from ws_support._topics.messages import check_subscriptions
from ws_support._topics.subscriber import Published, Subscriber
from ws_support.conf import get_options

logger = logging.getLogger("ws_support.broadcast")

CAPACITY: Final = 10_000
"""Messages that the channel layer keeps for a process that is busy. The layer's own default of 100
is reached within an instant."""

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
    """The topics of one event loop.

    With a channel layer between processes, all messages go through the layer, also those for
    subscribers of this process: all subscribers see the same order. Without a layer, or with the
    in-memory layer, messages go from registry to registry within the process.
    """

    lost = 0
    _logged_at: float | None = None

    def __init__(self) -> None:
        self._topics: dict[str, dict[Subscriber, None]] = {}
        self._layer: Any = None
        self._publisher: Publisher | None = None
        if is_between_processes():
            self._layer = _own_layer()
            self._publisher = Publisher(self._layer)
        self._broker: ChannelLayerBroker | None = None
        # asyncio itself keeps only weak references to tasks.
        self._leaving: set[asyncio.Task[None]] = set()

    @classmethod
    def of_this_loop(cls) -> TopicRegistry:
        """Return the registry of the running event loop."""
        return _registries.get()

    async def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Add a subscriber to `topic`, who gets each message that is published after the return.

        During an outage of the layer, this returns as well, and the subscription holds once the
        layer is back. Raises `ValueError` when the connection may not subscribe to more.
        """
        topics = subscriber.topics
        if topics and len(topics) % _TURN == 0:
            # Without a layer, nothing else here waits.
            await asyncio.sleep(0)
        limit = get_options().max_subscriptions
        check_subscriptions(topics, subscriber.topics_length, topic, limit)
        _Listeners.are_here = True
        subscribers = self._topics.setdefault(topic, {})
        subscribers[subscriber] = None
        if topic not in topics:
            topics.add(topic)
            subscriber.topics_length += len(topic)
        if self._layer is not None:
            if self._broker is None:
                self._broker = ChannelLayerBroker(self._layer, self)
            await self._broker.join(topic)

    async def unsubscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Remove a subscriber from `topic` at once.

        When it was the last one, the layer is told before this returns, except during an outage.
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
        broker = self._broker
        if broker is None:
            return
        if self._topics:
            leaving = broker.leave(topic)
        else:
            self._broker = None
            leaving = broker.close()
        # A task of its own, since the task that waits for it may be cancelled.
        task = asyncio.create_task(leaving)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        await asyncio.wait([task])

    async def leave_all(self, subscriber: Subscriber) -> None:
        """Remove a subscriber from all its topics."""
        # A task of its own, since the task that waits for it may be cancelled.
        task = asyncio.create_task(self._leave_all(subscriber))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        await asyncio.wait([task])

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

    def miss(self, topic: str, count: int) -> None:
        """Close the connections of all subscribers of `topic`, which have missed `count` messages.

        The messages were lost on the way to this process.
        """
        TopicRegistry.lost += count
        closed = sum([each.miss() for each in tuple(self._topics.get(topic, ()))])
        now = monotonic()
        if TopicRegistry._logged_at is None or now - TopicRegistry._logged_at >= _LOG_EVERY:
            TopicRegistry._logged_at = now
            logger.error(
                "Messages are lost: %d under the topic %.100a (%d in this process until now). More"
                " were waiting for this process than the channel layer keeps, its capacity of %s,"
                " or for longer than its expiry. Closed with 1013, to ask again: %d connections.",
                count,
                topic,
                TopicRegistry.lost,
                getattr(self._layer, "capacity", "Redis"),
                closed,
            )

    async def publish(self, topic: str, message: Any) -> None:
        """Deliver `message` to the subscribers of `topic` in all processes.

        Raises `LayerError` when the layer does not take the message.
        """
        if self._publisher is not None:
            await self._publisher.publish(topic, message)
            return
        if not _Listeners.are_here:
            _Listeners.warn(topic)
        here = asyncio.get_running_loop()
        is_filling = False
        for loop, registry in _registries.items():
            if loop is here:
                is_filling = registry.deliver(topic, message)
            else:
                with suppress(RuntimeError):  # That loop has been closed.
                    loop.call_soon_threadsafe(registry.deliver, topic, message)
        # Code that publishes in an endless loop must let other tasks run.
        await asyncio.sleep(MOMENT if is_filling else 0)

    async def count_takers(self, topic: str, message: Any, wait: float) -> int:
        """Publish a message, and return how many processes have received it.

        Answers are counted for `wait` seconds. There has to be a layer between processes.
        """
        return await self._publisher.count_takers(  # type: ignore[union-attr]
            topic, message, wait
        )


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


def _own_layer() -> Any:
    """Return a second layer with the configuration of the one that consumers use.

    In channels_redis 4.3, the messages that wait for consumers take up room in the queue of their
    process.
    """
    layer: Any = channel_layers.make_backend(DEFAULT_CHANNEL_LAYER)
    # RedisPubSubChannelLayer keeps nothing, and has no capacity.
    if issubclass(type(layer), BaseChannelLayer):
        layer.capacity = max(layer.capacity, CAPACITY)
        layer.channel_capacity = []
    return layer


def is_between_processes() -> bool:
    """Return True if the default channel layer reaches other processes."""
    layer = get_channel_layer()
    return layer is not None and type(layer) is not InMemoryChannelLayer


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
