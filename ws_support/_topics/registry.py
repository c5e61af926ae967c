"""The registry of topics: their subscribers in this process."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, NamedTuple

from ws_support._asyncio import PerLoop, to_the_end
from ws_support._topics.brokers import broker_class
from ws_support._topics.feed import Feed
from ws_support._topics.messages import check_subscriptions
from ws_support._topics.positions import Position
from ws_support._topics.rules import rules_of
from ws_support._topics.subscriber import AnySubscriber, Published, Subscriber, hand_out
from ws_support.conf import get_options

logger = logging.getLogger("ws_support.broadcast")

_TURN: Final = 64
"""Topics that one connection subscribes to in a row, before others have their turn."""

_NO_HISTORY: Final = "The history does not reach back to what came last, or it was lost."

_LANES: Final = 64
"""Histories that are read at the same time after an outage. What is published waits behind them."""

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


class Recovery(NamedTuple):
    """How a subscription to a topic has begun."""

    recovered: bool
    """True if everything that has followed the position was sent. Without a position: False."""
    position: Position | None
    """The position from which on messages come; None for a topic without history."""


class TopicRegistry:
    """The topics of one event loop: the receiver of what its broker delivers."""

    lost = 0
    _logged_at: float | None = None

    def __init__(self) -> None:
        # Whether a subscription holds, or is only on its way: with a position, it may fail.
        self._topics: dict[str, dict[AnySubscriber, bool]] = {}
        self._feeds: dict[str, Feed] = {}
        self._catching_up: asyncio.Task[None] | None = None
        self.broker = broker_class()(self)

    @classmethod
    def of_this_loop(cls) -> TopicRegistry:
        """Return the registry of the running event loop."""
        return _registries.get()

    async def subscribe(
        self, topic: str, subscriber: AnySubscriber, since: Position | None = None
    ) -> Recovery:
        """Add a subscriber to `topic`, who gets each message that is published after the return.

        With a position, what has followed it is sent first, if the history of the topic still has
        all of it.

        During an outage of the broker, this returns as well, and the subscription holds once the
        broker is back; but with a position, `BrokerError` is raised, and nothing is subscribed to.
        Raises `ValueError` when the connection may not subscribe to more.
        """
        limit = get_options().max_subscriptions
        check_subscriptions(subscriber.topics, subscriber.topics_length, topic, limit)
        rules = rules_of(topic)
        if rules is None or not rules.history or not self.broker.has_history:
            await self._add(topic, subscriber)
            return Recovery(recovered=False, position=None)
        if since is None:
            feed = self._feed(topic)
            await self._add(topic, subscriber)
            self._confirm(topic, subscriber)
            await feed.until_known()
            return Recovery(recovered=False, position=feed.position)
        return await self._subscribe_since(topic, subscriber, since)

    async def _subscribe_since(
        self, topic: str, subscriber: AnySubscriber, since: Position
    ) -> Recovery:
        feed = self._feed(topic)
        held_at = feed.position
        feed.hold(subscriber)
        try:
            await self._add(topic, subscriber)
            recovery = Recovery(*await feed.recover(subscriber, since))
            self._confirm(topic, subscriber)
            return recovery
        except BaseException:
            if not self._topics.get(topic, {}).get(subscriber, False):
                if feed.is_held_once(subscriber):  # Otherwise, it has asked once more meanwhile.
                    await to_the_end(self.unsubscribe(topic, subscriber))
            elif feed.position != held_at:
                # Others have got meanwhile what this one has not.
                _tell_gap(subscriber, topic, feed.position)
            raise
        finally:
            feed.release(subscriber)

    def _feed(self, topic: str) -> Feed:
        feed = self._feeds.get(topic)
        if feed is None:
            subscribers = self._topics.setdefault(topic, {})
            feed = self._feeds[topic] = Feed(topic, self.broker, subscribers, self._gap)
        return feed

    async def _add(self, topic: str, subscriber: AnySubscriber) -> None:
        topics = subscriber.topics
        subscribers = self._topics.setdefault(topic, {})
        subscribers.setdefault(subscriber, False)
        if topic not in topics:
            topics.add(topic)
            subscriber.topics_length += len(topic)
        await self.broker.subscribe(topic)
        if len(topics) % _TURN == 0:
            # Without a broker between processes, nothing else here waits. The subscriber has been
            # added by then: whoever ends it meanwhile has to see that.
            await asyncio.sleep(0)

    def _confirm(self, topic: str, subscriber: AnySubscriber) -> None:
        subscribers = self._topics.get(topic, {})
        if subscriber in subscribers:  # It may have unsubscribed meanwhile.
            subscribers[subscriber] = True

    async def unsubscribe(self, topic: str, subscriber: AnySubscriber) -> None:
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
        feed = self._feeds.pop(topic, None)
        if feed is not None:
            feed.end()
        await self.broker.unsubscribe(topic)

    async def leave_all(self, subscriber: AnySubscriber) -> None:
        """Remove a subscriber from all its topics."""
        await to_the_end(self._leave_all(subscriber))

    async def _leave_all(self, subscriber: AnySubscriber) -> None:
        for topic in tuple(subscriber.topics):
            await self.unsubscribe(topic, subscriber)

    def deliver(self, topic: str, message: Any) -> bool:
        """Send `message`, a `websocket.send`, to all subscribers of `topic` in this process.

        Return True if the next message should wait for a moment. Many messages at once could fill
        the queues of clients that are not slow, before the event loop, or a server that sends from
        its own threads, gets to run.
        """
        return hand_out(Published(topic, message), self._topics.get(topic, ()))

    def deliver_kept(
        self, topic: str, message: Any, position: Position, previous: Position
    ) -> bool:
        """Send a message that has a place in the history of its topic; return as `deliver()` does.

        What is missing before it is read from the history, and sent first.
        """
        feed = self._feeds.get(topic)
        if feed is None:  # The rules of this process know of no history.
            return self.deliver(topic, message)
        return feed.deliver(message, position, previous)

    def catch_up(self) -> None:
        """Read from the histories what has not come here: there was an outage."""
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._catching_up = asyncio.create_task(self._catch_up(), name="histories")

    async def _catch_up(self) -> None:
        topics = list(self._feeds)
        for at in range(0, len(topics), _LANES):
            chunk = topics[at : at + _LANES]
            reading = [self._feeds[each].catch_up() for each in chunk if each in self._feeds]
            if reading:
                await asyncio.wait(reading)
        self._catching_up = None

    def miss(self, topic: str, count: int, cause: str) -> None:
        """Close the connections of all subscribers of `topic`, which have missed `count` messages.

        The messages were lost on the way to this process; `cause` says why.
        """
        TopicRegistry.lost += count
        closed = sum([each.miss() for each in tuple(self._topics.get(topic, ()))])
        self._log_loss(f"{count}", topic, cause, closed)

    def _gap(self, topic: str, position: Position) -> None:
        """Tell the subscribers of `topic` that the history goes on at `position`, with a gap.

        Those that cannot be told are closed.
        """
        TopicRegistry.lost += 1
        closed = 0
        for subscriber in tuple(self._topics.get(topic, ())):
            closed += _tell_gap(subscriber, topic, position)
        self._log_loss("at least 1", topic, _NO_HISTORY, closed)

    def _log_loss(self, count: str, topic: str, cause: str, closed: int) -> None:
        now = monotonic()
        if TopicRegistry._logged_at is None or now - TopicRegistry._logged_at >= _LOG_EVERY:
            TopicRegistry._logged_at = now
            logger.error(
                "Messages are lost: %s under the topic %.100a (%d in this process until now). %s"
                " Closed with 1013, to ask again: %d connections.",
                count,
                topic,
                TopicRegistry.lost,
                cause,
                closed,
            )


def _tell_gap(subscriber: Any, topic: str, position: Position | None) -> bool:
    """Tell a subscriber that messages before `position` are missing.

    Close one that cannot be told, and return True.
    """
    tell = getattr(subscriber, "gap", None)
    if tell is None:
        return bool(subscriber.miss())
    tell(topic, position)
    return False


def statistics() -> Statistics:
    """Return the figures of this process."""
    registries = [registry for loop, registry in _registries.items() if not loop.is_closed()]
    return Statistics(
        topics=sum(len(each._topics) for each in registries),
        subscriptions=sum(
            len(subscribers) for each in registries for subscribers in list(each._topics.values())
        ),
        dropped=Subscriber.dropped,
        lost=TopicRegistry.lost,
    )


_registries: Final = PerLoop(TopicRegistry)
