"""Subscriptions of consumers and `WebSocket` objects, with their checks."""

from __future__ import annotations

from ws_support._connection.connection import Connection
from ws_support._topics.brokers.base import BrokerError
from ws_support._topics.errors import not_read
from ws_support._topics.messages import checked_topic
from ws_support._topics.positions import checked_position
from ws_support._topics.registry import Recovery, TopicRegistry
from ws_support._topics.rules import rules_of


async def subscribed(
    connection: Connection, topic: str, since: str | None, *, positions: bool
) -> Recovery:
    """Subscribe a connection to `topic`; see `AsyncWebsocketConsumer.subscribe()`."""
    topic = checked_topic(topic)
    if since is not None:
        since = checked_position(since)
    if positions and not getattr(rules_of(topic), "history", 0):
        raise ValueError(
            f"positions=True is for topics with a history, and {topic!r:.100} has none: give it one"
            " with a Topic class."
        )
    try:
        return await connection.subscribe(topic, since, positions=positions)
    except BrokerError as error:
        raise not_read(topic, TopicRegistry.of_this_loop().broker, error) from error
