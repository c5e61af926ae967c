"""The broker on the channel layer `default`, such as that of channels_redis."""

from __future__ import annotations

from typing import Any, Final

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import BaseChannelLayer, channel_layers, get_channel_layer

from ws_support._asyncio import to_the_end
from ws_support._topics.brokers.base import TIMEOUT, Broker, Receiver
from ws_support._topics.brokers.channel_layer.listener import Listener
from ws_support._topics.brokers.channel_layer.publisher import Publisher
from ws_support._topics.outages import Outages

CAPACITY: Final = 10_000
"""Messages that the channel layer keeps for a process that is busy. The layer's own default of 100
is reached within an instant."""


class ChannelLayerBroker(Broker):
    """Sends all messages through the layer, also those for subscribers of this process.

    All subscribers then see the same order.
    """

    is_between_processes = True
    has_history = False
    title = 'the channel layer (CHANNEL_LAYERS["default"])'

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._layer = _own_layer()
        self._publisher = Publisher(self._layer)
        # Consumers use the same Redis through the layer itself.
        self._outages = Outages.of(get_channel_layer())
        self._topics: set[str] = set()
        self._listener: Listener | None = None

    async def subscribe(self, topic: str) -> None:
        self._topics.add(topic)
        if self._listener is None:
            self._listener = Listener(self._layer, self._receiver, self._outages)
        await self._listener.join(topic)

    async def unsubscribe(self, topic: str) -> None:
        listener = self._listener
        if listener is None or topic not in self._topics:
            return
        self._topics.remove(topic)
        if self._topics:
            await to_the_end(listener.leave(topic))
        else:
            self._listener = None
            await to_the_end(listener.close())

    async def publish(self, topic: str, message: Any) -> None:
        await self._publisher.publish(topic, message)

    async def count_takers(self, topic: str, message: Any, wait: float) -> int:
        return await self._publisher.count_takers(topic, message, wait)


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
    # Only channels_redis.core has this method.
    if hasattr(type(layer), "_group_key"):
        # redis-py 8 waits 5 s for an answer by default. A process that stood still for longer would
        # throw away the message that Redis (BZPOPMIN) has taken from the queue for it. If Redis
        # does not answer, the probe notices.
        usual = {"socket_timeout": None, "socket_connect_timeout": TIMEOUT}
        layer.hosts = [usual | host for host in layer.hosts]
    return layer
