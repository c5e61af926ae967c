"""One message to every subscriber, on every machine.

    await broadcast("prices", "EUR 1.08")
    await broadcast_json("prices", {"EUR": 1.08})

From an async view, a consumer, a task or a management command; from synchronous code with
`async_to_sync(broadcast)(...)`. Subscribers are consumers with `subscriptions`, or after
`subscribe()`, and `WebSocket` objects.

It goes through the channel layer `default`: to all processes that use the same, or, with the one
that is in memory and without any, to this process. Delivery is at most once: what is broadcast
while the layer is away is lost, as is what goes to a client that is not connected.
"""

from __future__ import annotations

from json import JSONEncoder
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from ws_support._topics.brokers.channel_layer import LayerError
from ws_support._topics.messages import checked_topic, json_of, message_of
from ws_support._topics.registry import Statistics, TopicRegistry, statistics

__all__ = ["BroadcastError", "Statistics", "broadcast", "broadcast_json", "statistics"]


class BroadcastError(Exception):
    """The channel layer could not be reached, or did not take a message: nobody, or not everybody,
    gets it."""


async def broadcast(topic: str, message: str | bytes) -> None:
    """Send `message` to all who have subscribed to `topic`.

    Returns when the channel layer has taken it, or, without one between processes, when it was
    handed to the subscribers of this process. No client is waited for. Messages of one task, one
    after the other under the same topic, arrive in that order.

    Raises `BroadcastError` when the layer does not take it within 5 s, `TypeError` and `ValueError`
    for what is no topic or no message.
    """
    topic, content = checked_topic(topic), message_of(message)
    try:
        await TopicRegistry.of_this_loop().publish(topic, content)
    except LayerError as error:
        raise _broadcast_error(topic, error) from error


async def broadcast_json(
    topic: str, value: Any, *, encoder: type[JSONEncoder] = DjangoJSONEncoder
) -> None:
    """Send `value` as JSON to all who have subscribed to `topic`: encoded once, and as text.

    Raises what `broadcast()` raises, `TypeError` for what `encoder` does not know, and `ValueError`
    for NaN and infinity, which no browser can read.
    """
    await broadcast(topic, json_of(value, encoder))


async def count_takers(topic: str, message: str | bytes, wait: float) -> int:
    """`broadcast()` through a channel layer between processes; how many processes with subscribers
    say within `wait` seconds that they have taken it."""
    topic, content = checked_topic(topic), message_of(message)
    try:
        return await TopicRegistry.of_this_loop().count_takers(topic, content, wait)
    except LayerError as error:
        raise _broadcast_error(topic, error) from error


def _broadcast_error(topic: str, error: LayerError) -> BroadcastError:
    return BroadcastError(
        f"The broadcast under {topic!r:.100} was not taken by the channel layer"
        f' (CHANNEL_LAYERS["default"]): {error}.'
    )
