"""Topics and who hears them, in this process and in all others."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer

from ws_support.link import MOMENT, Link, count_takers, publish
from ws_support.subscriber import FILLING, FULL, Published, Subscriber


@dataclass
class Statistics:
    """What has happened in this process since it started, and what is so now."""

    topics: int = 0
    """Topics that somebody here has subscribed to."""

    subscriptions: int = 0
    """Of connections to topics."""

    dropped: int = 0
    """Connections that were closed with 1013, for a queue that was full."""


class Hub:
    """The topics of one event loop.

    With a channel layer between processes, messages go through it, also those for subscribers of
    this process: all of them see the same order. Without one, and with the layer that is in memory,
    they go from hub to hub.
    """

    dropped = 0

    def __init__(self) -> None:
        self._topics: dict[str, dict[Subscriber, None]] = {}
        # A layer of its own. In channels_redis 4.3, what waits for consumers takes up room in the
        # queue of their process.
        self._layer: Any = (
            channel_layers.make_backend(DEFAULT_CHANNEL_LAYER) if is_between_processes() else None
        )
        self._link: Link | None = None
        # asyncio itself refers to its tasks only weakly.
        self._leaving: set[asyncio.Task[None]] = set()

    @classmethod
    def of_this_loop(cls) -> Hub:
        loop = asyncio.get_running_loop()
        try:
            return _hubs[loop]
        except KeyError:
            return _hubs.setdefault(loop, cls())

    async def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        """From the return on, `subscriber` gets what is published.

        While the layer is away, it returns all the same: that will be so once the layer is back.
        """
        subscribers = self._topics.setdefault(topic, {})
        subscribers[subscriber] = None
        subscriber.topics.add(topic)
        if self._layer is not None:
            if self._link is None:
                self._link = Link(self._layer, self.deliver)
            await self._link.join(topic)

    async def unsubscribe(self, topic: str, subscriber: Subscriber) -> None:
        """At once; the layer is told before this returns, unless it is away."""
        subscriber.topics.discard(topic)
        subscribers = self._topics.get(topic)
        if subscribers is None:
            return
        subscribers.pop(subscriber, None)
        if subscribers:
            return
        del self._topics[topic]
        link = self._link
        if link is None:
            return
        if self._topics:
            leaving = link.leave(topic)
        else:
            self._link = None
            leaving = link.close()
        # A task, since who waits for it may be cancelled.
        task = asyncio.create_task(leaving)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        await asyncio.wait([task])

    async def leave_all(self, subscriber: Subscriber) -> None:
        for topic in tuple(subscriber.topics):
            await self.unsubscribe(topic, subscriber)

    def deliver(self, topic: str, message: Any) -> bool:
        """Send `message`, a `websocket.send`, to all who have subscribed here.

        Whether the next one should wait for a moment: what is published in one go could fill queues
        of clients that are not slow, before the event loop, or a server that sends in threads of
        its own, has had its turn.
        """
        is_filling = False
        published = Published(message)
        for subscriber in tuple(self._topics.get(topic, ())):
            state = subscriber.push(published)
            if state == FILLING:
                is_filling = True
            elif state == FULL:
                Hub.dropped += 1
                subscriber.drop(topic)
        return is_filling

    async def publish(self, topic: str, message: Any) -> None:
        """Deliver `message` wherever somebody has subscribed.

        Raises `LayerError` when the layer does not take it.
        """
        if self._layer is not None:
            await publish(self._layer, topic, message)
            return
        here = asyncio.get_running_loop()
        is_filling = False
        for loop, hub in list(_hubs.items()):
            if loop is here:
                is_filling = hub.deliver(topic, message)
            else:
                with suppress(RuntimeError):  # That loop has been closed.
                    loop.call_soon_threadsafe(hub.deliver, topic, message)
        # Who publishes without end gives the others their turn.
        await asyncio.sleep(MOMENT if is_filling else 0)

    async def count_takers(self, topic: str, message: Any, wait: float) -> int:
        """`publish()` through the layer; how many processes say within `wait` seconds that they
        have taken it."""
        return await count_takers(self._layer, topic, message, wait)


def is_between_processes() -> bool:
    """Whether there is a channel layer that goes to other processes."""
    layer = get_channel_layer()
    return layer is not None and type(layer) is not InMemoryChannelLayer


def statistics() -> Statistics:
    """Of this process."""
    hubs = list(_hubs.values())
    return Statistics(
        topics=sum(len(hub._topics) for hub in hubs),
        subscriptions=sum(len(each) for hub in hubs for each in list(hub._topics.values())),
        dropped=Hub.dropped,
    )


_hubs: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]] = WeakKeyDictionary()
