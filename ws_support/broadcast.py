"""Broadcasts: one message to all subscribers of a topic, on every machine.

    await broadcast("prices", "EUR 1.08")
    await broadcast_json("prices", {"EUR": 1.08})

Any async code can call these functions: a view, a consumer, a task or a management command.
Synchronous code uses `async_to_sync(broadcast)(...)`. Subscribers are consumers with
`subscriptions`, or after `subscribe()`, and `WebSocket` objects.

A message goes through the channel layer `default` to all processes that use the same layer. With
the in-memory layer, or without a layer, it goes to this process only. Delivery is at most once: a
message is lost for a client that is not connected, and during an outage of the layer.
"""

from __future__ import annotations

from json import JSONEncoder
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from ws_support._topics.brokers.base import Broker, BrokerError
from ws_support._topics.messages import checked_topic, json_of, message_of
from ws_support._topics.registry import Statistics, TopicRegistry, statistics

__all__ = ["BroadcastError", "Statistics", "broadcast", "broadcast_json", "statistics"]


class BroadcastError(Exception):
    """The channel layer could not be reached, or did not take a message.

    Some subscribers, or all, do not get the message.
    """


async def broadcast(topic: str, message: str | bytes) -> None:
    """Send `message` to all subscribers of `topic`.

    Returns when the channel layer has taken the message, or, without a layer between processes,
    when the subscribers of this process have it. Does not wait for any client. Messages that one
    task broadcasts under the same topic, one after the other, arrive in that order.

    Raises `BroadcastError` when the layer does not take the message within 5 s, and `TypeError` or
    `ValueError` for an invalid topic or message.
    """
    topic, content = checked_topic(topic), message_of(message)
    broker = TopicRegistry.of_this_loop().broker
    try:
        await broker.publish(topic, content)
    except BrokerError as error:
        raise _broadcast_error(topic, broker, error) from error


async def broadcast_json(
    topic: str, value: Any, *, encoder: type[JSONEncoder] = DjangoJSONEncoder
) -> None:
    """Send `value` as JSON text to all subscribers of `topic`. The value is encoded only once.

    Raises the same errors as `broadcast()`, `TypeError` for a value that `encoder` does not know,
    and `ValueError` for NaN and infinity, which no browser can read.
    """
    await broadcast(topic, json_of(value, encoder))


async def count_takers(topic: str, message: str | bytes, wait: float) -> int:
    """Broadcast a message, and return how many processes with subscribers have received it.

    Answers are counted for `wait` seconds.
    """
    topic, content = checked_topic(topic), message_of(message)
    broker = TopicRegistry.of_this_loop().broker
    try:
        return await broker.count_takers(topic, content, wait)
    except BrokerError as error:
        raise _broadcast_error(topic, broker, error) from error


def _broadcast_error(topic: str, broker: Broker, error: BrokerError) -> BroadcastError:
    return BroadcastError(
        f"The broadcast under {topic!r:.100} was not taken by {broker.title}: {error}."
    )
