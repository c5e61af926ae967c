"""The broker on Redis itself: publish and subscribe, over two connections for each process."""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from ws_support._asyncio import to_the_end
from ws_support._topics.brokers.base import Appended, Broker, Keeping, Log, Receiver
from ws_support._topics.brokers.redis.address import Address, addresses
from ws_support._topics.brokers.redis.background import in_background
from ws_support._topics.brokers.redis.envelope import Envelope
from ws_support._topics.brokers.redis.history import (
    APPEND,
    KEYS,
    READ,
    append_arguments,
    log_of,
    read_arguments,
)
from ws_support._topics.brokers.redis.listener import Listener
from ws_support._topics.brokers.redis.presence import RedisPresence
from ws_support._topics.brokers.redis.publisher import Publisher
from ws_support._topics.brokers.redis.scripts import Script
from ws_support._topics.positions import Position
from ws_support._topics.presence.entries import difference_topic

Result = TypeVar("Result")


class RedisBroker(Broker):
    """Publishes each message with one PUBLISH, also to the subscribers of this process.

    All subscribers then see the same order. With several Redis, each has its share of the topics.
    """

    is_between_processes = True
    has_history = True

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._addresses = addresses()
        named_by = 'WS_SUPPORT["BROKER"]'
        if self._addresses[0].layer is not None:
            named_by = 'CHANNEL_LAYERS["default"]'
        self.title = f"Redis ({named_by})"
        self._listeners: dict[Address, Listener] = {}
        self._publishers: dict[Address, Publisher] = {}
        self._presences: dict[Address, RedisPresence] = {}
        self._topics: set[str] = set()

    def _address(self, topic: str) -> Address:
        return self._addresses[crc32(topic.encode()) % len(self._addresses)]

    async def subscribe(self, topic: str) -> None:
        self._topics.add(topic)
        address = self._address(topic)
        listener = self._listeners.get(address)
        if listener is None:
            publisher = self._publishers[address] = Publisher(address)
            outages = address.outages()
            listener = Listener(address, self._receiver, publisher, outages)
            self._listeners[address] = listener
        await listener.join(topic)

    async def unsubscribe(self, topic: str) -> None:
        if topic not in self._topics:
            return
        # At once: somebody else may subscribe while this waits.
        self._topics.remove(topic)
        address = self._address(topic)
        listener = self._listeners[address]
        leaving = listener.leave(topic)
        if listener.is_needed:
            await leaving
        else:
            del self._listeners[address]
            del self._publishers[address]
            await to_the_end(_close(leaving, listener))

    async def publish(self, topic: str, message: Any) -> None:
        await self._publish(topic, message)

    async def count_takers(self, topic: str, message: Any, wait: float) -> int:
        # Redis says at once to how many it has handed a message.
        return await self._publish(topic, message)

    async def append(self, topic: str, message: Any, keeping: Keeping) -> Appended:
        channel = self._address(topic).channel(topic)
        arguments = append_arguments(message, keeping, channel)
        position, takers = await self.call(topic, APPEND, KEYS, arguments)
        return Appended(position.decode(), takers)

    async def read(self, topic: str, since: Position | None, limit: int) -> Log:
        return log_of(await self.call(topic, READ, KEYS, read_arguments(since, limit)))

    async def _publish(self, topic: str, message: Any) -> int:
        envelope = Envelope(topic, message)
        return await self._use(self._address(topic), lambda each: each.publish(envelope))

    async def call(
        self, topic: str, script: Script, keys: Sequence[str], arguments: Sequence[bytes]
    ) -> Any:
        """Call a script on the Redis of `topic`, and return what it answers.

        `keys` are kinds of data, each of which has a key for the topic. Raises `BrokerError`.
        """
        address = self._address(topic)
        names = [address.key(each, topic) for each in keys]
        return await self._use(address, lambda each: each.call(script, names, arguments))

    def presence(self, topic: str) -> RedisPresence:
        address = self._address(difference_topic(topic))
        presence = self._presences.get(address)
        if presence is None:
            presence = self._presences[address] = RedisPresence(address, self._use)
        return presence

    async def _use(
        self, address: Address, use: Callable[[Publisher], Coroutine[Any, Any, Result]]
    ) -> Result:
        publisher = self._publishers.get(address)
        if publisher is None:
            return await in_background(address, use)
        return await use(publisher)


async def _close(leaving: Coroutine[Any, Any, None], listener: Listener) -> None:
    await leaving
    await listener.close()
