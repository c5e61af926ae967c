"""The broker on a Redis Cluster: each message stays in the shard of its topic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from redis.crc import key_slot

from ws_support._asyncio import to_the_end
from ws_support._topics.brokers.base import (
    TIMEOUT,
    BrokerError,
    BrokerUnavailable,
    Receiver,
)
from ws_support._topics.brokers.redis.address import Address
from ws_support._topics.brokers.redis.background import in_background
from ws_support._topics.brokers.redis.broker import RedisBroker
from ws_support._topics.brokers.redis.cluster import NAME, Node, configured_cluster
from ws_support._topics.brokers.redis.envelope import Envelope
from ws_support._topics.brokers.redis.presence import RedisPresence
from ws_support._topics.brokers.redis.publisher import Publisher, within
from ws_support._topics.brokers.redis.scripts import Script
from ws_support._topics.brokers.redis.sharded import ShardListener, ShardPublisher
from ws_support._topics.outages import OutageDetector

Result = TypeVar("Result")

_PATIENCE: Final = 1.0
"""Seconds for nodes to answer who moves topics to them. Then the others go on."""


class ClusterBroker(RedisBroker):
    """Publishes each message with one SPUBLISH to the master that has the slot of its topic.

    Each node with topics of this event loop has a listener. While something is subscribed to, a
    task follows the cluster: when there is trouble, it reads the map, and takes topics to where
    they are now.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._cluster = configured_cluster()
        self.title = f"Redis Cluster ({NAME})"
        self._names = self._cluster.seeds[0]
        self._topics: set[str] = set()
        self._places: dict[str, ShardListener] = {}
        """The listener of each topic. A topic whose node is not known yet has none."""
        self._shards: dict[Node, ShardListener] = {}
        self._publishers: dict[Address, Publisher] = {}
        self._presence: RedisPresence | None = None
        self._outage: OutageDetector
        self._has_trouble = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._arranged: object = None

    def _address(self, topic: str) -> Address:
        return self._names  # All nodes have the same names for a topic.

    def _slot(self, topic: str) -> int:
        return key_slot(self._names.channel(topic))

    # Subscriptions

    async def subscribe(self, topic: str) -> None:
        self._topics.add(topic)
        if self._following is None:
            self._outage = self._names.outages().detector()
            self._following = asyncio.create_task(self._follow(), name="cluster")
        if not self._cluster.is_known:
            try:
                await self._cluster.renew()
            except asyncio.CancelledError:
                self._has_trouble.set()  # The topic has no listener yet.
                raise
        place = self._place(topic)
        while place is not None:
            await place.join(topic)
            before, place = place, self._places.get(topic)
            if place is before:
                return

    def _place(self, topic: str) -> ShardListener | None:
        """Return the listener of a topic, or None if it was left meanwhile or cannot have one."""
        place = self._places.get(topic)
        if place is not None or topic not in self._topics:
            return place
        slot = self._slot(topic)
        node = self._cluster.slots[slot]
        if node is None:
            self._outage.lose(self._cluster.error(slot))
            self._has_trouble.set()
            return None
        return self._put(topic, node)

    def _put(self, topic: str, node: Node) -> ShardListener:
        listener = self._shards.get(node)
        if listener is None:
            publisher = self._publishers[node] = ShardPublisher(node)
            listener = ShardListener(node, self._receiver, publisher, self._has_trouble.set)
            self._shards[node] = listener
        self._places[topic] = listener
        return listener

    async def unsubscribe(self, topic: str) -> None:
        if topic not in self._topics:
            return
        # At once: somebody else may subscribe while this waits.
        self._topics.remove(topic)
        place = self._places.pop(topic, None)
        leaving = [] if place is None else [place.leave(topic)]
        if not self._topics and self._following is not None:
            self._following.cancel()
            self._following = None
            self._outage.leave()
        if place is None or not place.is_needed:
            await to_the_end(self._close_idle(leaving))
        else:
            await asyncio.gather(*leaving)

    async def _close_idle(self, leaving: Sequence[Coroutine[Any, Any, None]] = ()) -> None:
        """Close the listeners that have no topics, after those who wait for them."""
        idle = [each for each in self._shards.values() if not each.is_needed]
        for each in idle:
            del self._shards[each.node]
            del self._publishers[each.node]
        await asyncio.gather(*leaving)
        await asyncio.gather(*(each.close() for each in idle))

    async def _follow(self) -> None:
        while True:
            await self._has_trouble.wait()
            self._has_trouble.clear()
            await self._cluster.renew()
            await self._arrange()
            if not self._is_whole():
                self._has_trouble.set()

    def _is_whole(self) -> bool:
        """Return True if every topic is at a node, and none of these has lost it."""
        is_lost = any(each.is_lost for each in self._shards.values())
        return not is_lost and len(self._places) == len(self._topics)

    async def _arrange(self) -> None:
        """Take topics to the nodes that have their slots, and ask for those that are gone."""
        waiting = [each for topic, node in self._moving() for each in self._move(topic, node)]
        waiting += [each for listener in self._shards.values() for each in listener.again()]
        if waiting:
            # What is told of an outage holds: something may be lost that was published meanwhile.
            self._outage.lose(BrokerUnavailable("slots have moved to another node"))
            if await _some_are_done(waiting):
                self._receiver.catch_up()
        await to_the_end(self._close_idle())
        if self._is_whole():
            self._outage.find()

    def _moving(self) -> list[tuple[str, Node]]:
        """Return the topics that are not where they ought to be, with the nodes that have them."""
        if self._arranged is self._cluster.version and len(self._places) == len(self._topics):
            return []
        self._arranged = self._cluster.version
        nodes = self._cluster.slots
        moving = []
        for topic in self._topics:
            node, place = nodes[self._slot(topic)], self._places.get(topic)
            if node is not None and (place is None or place.node is not node):
                moving.append((topic, node))
        return moving

    def _move(self, topic: str, node: Node) -> list[Coroutine[Any, Any, None]]:
        before = self._places.get(topic)
        # Nothing comes twice: what is still on its way through the old node is dropped.
        leaving = [] if before is None else [before.leave(topic)]
        return [self._put(topic, node).join(topic), *leaving]

    # Commands

    async def _publish(self, topic: str, message: Any) -> int:
        envelope = Envelope(topic, message)
        return await self._at(self._slot(topic), lambda each: each.publish(envelope))

    async def call(
        self, topic: str, script: Script, keys: Sequence[str], arguments: Sequence[bytes]
    ) -> Any:
        names = [self._names.key(each, topic) for each in keys]
        return await self._at(key_slot(names[0]), lambda each: each.call(script, names, arguments))

    def presence(self, topic: str) -> RedisPresence:
        if self._presence is None:
            self._presence = _Presence(self._names, self._at)
        return self._presence

    async def _at(
        self, slot: int, use: Callable[[Publisher], Coroutine[Any, Any, Result]]
    ) -> Result:
        """Use the publisher of the node that has a slot.

        What a node has refused because the slot has moved is sent once more, to the node that has
        it now.
        """
        loop = asyncio.get_running_loop()
        since = loop.time()
        node = self._cluster.slots[slot]
        if node is None:
            return await within(self._find(slot, use))
        try:
            return await self._use(node, use)
        except BrokerError as error:
            target = self._cluster.heed(error, node)
            if target is None:
                raise
        self._has_trouble.set()
        return await within(self._try(target, use), since + TIMEOUT - loop.time())

    async def _find(
        self, slot: int, use: Callable[[Publisher], Coroutine[Any, Any, Result]]
    ) -> Result:
        await self._cluster.renew()
        node = self._cluster.slots[slot]
        if node is None:
            raise self._cluster.error(slot)
        return await self._try(node, use)

    async def _try(
        self, node: Node, use: Callable[[Publisher], Coroutine[Any, Any, Result]]
    ) -> Result:
        try:
            return await self._use(node, use)
        except BrokerError as error:
            self._cluster.heed(error, node)
            raise

    async def _use(
        self, address: Address, use: Callable[[Publisher], Coroutine[Any, Any, Result]]
    ) -> Result:
        publisher = self._publishers.get(address)
        if publisher is None:
            return await in_background(address, use, ShardPublisher)
        return await use(publisher)


async def _some_are_done(waiting: Sequence[Coroutine[Any, Any, None]]) -> bool:
    """Wait for all of these, but not long: a slot may be nobody's for ever."""
    tasks = [asyncio.create_task(each) for each in waiting]
    try:
        done, _ = await asyncio.wait(tasks, timeout=_PATIENCE)
        return bool(done)
    finally:
        for each in tasks:
            each.cancel()


class _Presence(RedisPresence):
    """Keeps who is present under all topics. The leases have one slot, and each topic has its
    own."""

    def __init__(self, names: Address, at: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        super().__init__(names, at)
        self._at = at

    async def _call(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Any:
        return await self._at(key_slot(keys[0]), lambda each: each.call(script, keys, arguments))
