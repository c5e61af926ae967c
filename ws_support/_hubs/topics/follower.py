"""The subscriptions of one hub connection to topics: a subscriber, as each consumer is one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

from ws_support._hubs.connection import HubConnection
from ws_support._hubs.messages import Invocation
from ws_support._hubs.published import Published as Written
from ws_support._hubs.topics.watching import Watching
from ws_support._hubs.topics.written import for_hubs
from ws_support._topics.messages import names
from ws_support._topics.positions import Position
from ws_support._topics.registry import Recovery, TopicRegistry
from ws_support._topics.subscriber import Published, Subscriber
from ws_support.conf import get_options
from ws_support.presence import Presence

BURST: Final = 5.0
"""Seconds: so much of what a connection may publish at its rate, it may publish at once."""


class Follower:
    """Sends what is published under topics to the client of a hub connection."""

    __slots__ = (
        "_closed",
        "_connection",
        "_presences",
        "_published",
        "_published_at",
        "_watched",
        "topics",
        "topics_length",
    )

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection
        self.topics: set[str] = set()
        self.topics_length = 0
        # Topics whose messages are not for the client yet: its subscription has not returned.
        self._closed: set[str] = set()
        self._presences: dict[str, Presence] = {}
        self._watched: set[str] = set()
        # A leaky bucket: messages in it, and when that was.
        self._published, self._published_at = 0.0, 0.0

    @classmethod
    def of(cls, connection: HubConnection) -> Follower:
        """Return the follower of a connection, the same at each call."""
        if connection.follower is None:
            connection.follower = cls(connection)
        follower: Follower = connection.follower
        return follower

    # For the registry of topics

    def push(self, published: Published) -> bool:
        if self._closed and published.topic in self._closed:
            return False
        return self._connection.deliver(for_hubs(published))

    async def replay(self, published: Published) -> None:
        if published.excluded and self.is_known_as(published.excluded):
            return
        connection = self._connection
        if connection.is_open:
            await connection.send_data(for_hubs(published).data(connection.protocol))

    def gap(self, topic: str, position: Position) -> None:
        if topic not in self._closed:
            self.tell("Gap", topic, position)

    def miss(self) -> bool:
        is_open = self._connection.is_open
        self._connection.miss()
        return is_open

    def is_known_as(self, name: str) -> bool:
        return names(name, self._connection.id, self._connection.scope)

    def tell(self, target: str, *arguments: Any) -> None:
        """Invoke a method of the client, however slow it is."""
        connection = self._connection
        if connection.is_open:
            connection.post_data(connection.protocol.write(Invocation(target, list(arguments))))

    # Subscriptions

    async def subscribe(self, topic: str, since: Position | None) -> Recovery:
        """Subscribe, with no message before the return but those that follow `since`.

        Raises the errors of `TopicRegistry.subscribe()`.
        """
        registry = TopicRegistry.of_this_loop()
        with self._withheld(topic):
            return await registry.subscribe(topic, cast(Subscriber, self), since)

    @contextmanager
    def _withheld(self, topic: str) -> Iterator[None]:
        if topic in self.topics:
            yield
            return
        self._closed.add(topic)
        try:
            yield
        finally:
            self._closed.discard(topic)

    async def unsubscribe(self, topic: str) -> None:
        await self.leave(topic)
        await TopicRegistry.of_this_loop().unsubscribe(topic, cast(Subscriber, self))

    async def end(self) -> None:
        """Leave all topics: the connection is over."""
        for topic in {*self._presences, *self._watched}:
            await self.leave(topic)
        await TopicRegistry.of_this_loop().leave_all(cast(Subscriber, self))

    # Presence

    async def attend(self, topic: str, meta: Mapping[str, Any] | None) -> None:
        """Be present under `topic`, unless `meta` is None, and hear who is.

        Raises `TypeError` or `ValueError` for metadata that cannot be.
        """
        before = self._presences.get(topic)
        if meta is None:
            if before is not None:
                del self._presences[topic]
                before.end()
        elif before is None:
            user = self._connection.scope.get("user")
            presence = self._presences[topic] = Presence(topic, user=user, meta=meta)
            # Others see it within a moment, for which the client does not wait.
            self._connection.spawn(self._enter(topic, presence))
        elif before.meta != meta:
            self._connection.spawn(self._update(topic, before, meta))
        self._watched.add(topic)
        Watching.begin(topic, self)

    async def _enter(self, topic: str, presence: Presence) -> None:
        if self._presences.get(topic) is presence:  # It may have left before the first step.
            await presence

    async def _update(self, topic: str, presence: Presence, meta: Mapping[str, Any]) -> None:
        if self._presences.get(topic) is presence:  # As above.
            await presence.update(meta)

    async def leave(self, topic: str) -> None:
        """Be present no longer, and hear no more."""
        presence = self._presences.pop(topic, None)
        if presence is not None:
            presence.end()
        if topic in self._watched:
            self._watched.discard(topic)
            await Watching.end(topic, self)

    def hear(self, message: Written) -> None:
        """Send a message that is written once for many."""
        self._connection.deliver(message)

    # Publishing

    def may_publish_now(self) -> bool:
        """Return True, and count a message, unless the client has published too much of late."""
        rate = get_options().topics_publish_rate
        if rate is None:
            return True
        now = asyncio.get_running_loop().time()
        left = max(self._published - (now - self._published_at) * rate, 0.0)
        self._published_at = now
        may = left + 1 <= max(BURST * rate, 1)
        self._published = left + may
        return may
