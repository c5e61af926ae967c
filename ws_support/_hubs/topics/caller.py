"""The subscriptions of a client to topics, for the code of its hub."""

from __future__ import annotations

from ws_support._hubs.connection import HubConnection
from ws_support._hubs.topics.follower import Follower
from ws_support._topics.brokers.base import BrokerError
from ws_support._topics.errors import not_read
from ws_support._topics.messages import checked_topic
from ws_support._topics.positions import checked_position
from ws_support._topics.registry import Recovery, TopicRegistry


class HubCallerTopics:
    """The topics that the caller of a hub follows. They end with the connection.

    The client gets each message as a call of its method `Message(topic, position, data)`, and a
    hole in a history as `Gap(topic, position)`, as the clients of `TopicsHub` do. Rules of topics
    are not asked: this is code of the server.
    """

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection

    async def subscribe(self, topic: str, since: str | None = None) -> Recovery:
        """Subscribe the client to `topic`: messages that are broadcast there go to the client.

        With a position, as `broadcast()` returns it, what has followed it is sent first, without a
        hole and without a double. When the topic no longer has all of it, nothing of it is sent,
        and the result is `recovered=False`.

        Returns also during an outage of the broker: the subscription holds once the broker is back.
        But with a position, it raises `BroadcastError`, and nothing is subscribed to. Raises
        `TypeError` if `topic` or `since` is not a string, `ValueError` for more topics than
        `MAX_SUBSCRIPTIONS`, and `RuntimeError` once the connection ends.
        """
        topic = checked_topic(topic)
        if since is not None:
            since = checked_position(since)
        if self._connection.is_ending:
            raise RuntimeError("subscribe() was called after the connection had ended.")
        try:
            return await Follower.of(self._connection).subscribe(topic, since)
        except BrokerError as error:
            raise not_read(topic, TopicRegistry.of_this_loop().broker, error) from error

    async def unsubscribe(self, topic: str) -> None:
        """Unsubscribe the client from `topic`. Without a subscription, do nothing."""
        await Follower.of(self._connection).unsubscribe(checked_topic(topic))
