"""Broadcasts: one message to all subscribers of a topic, on every machine.

    await broadcast("prices", "EUR 1.08")
    await broadcast_json("prices", {"EUR": 1.08})

Any async code can call these functions: a view, a consumer, a task or a management command.
Synchronous code has functions of its own, one of which waits until a transaction is committed:

    broadcast_sync("prices", "EUR 1.08")
    broadcast_on_commit("prices", "EUR 1.08")

Subscribers are consumers with `subscriptions`, or after `subscribe()`, and `WebSocket` objects.

A message goes through Redis or the channel layer `default` to all processes that use the same one.
With the in-memory layer, or without a layer, it goes to this process only. Delivery is at most
once: a message is lost for a client that is not connected, and during an outage, unless the topic
has a history (`ws_support.topics`).
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from json import JSONEncoder
from typing import Any

from asgiref.sync import async_to_sync
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connections, transaction

from ws_support._topics.brokers.base import Broker, BrokerError, Keeping
from ws_support._topics.errors import not_taken
from ws_support._topics.messages import (
    EXCLUDE,
    JSONText,
    checked_topic,
    exclusion_of,
    json_of,
    message_of,
)
from ws_support._topics.registry import Statistics, TopicRegistry, statistics
from ws_support._topics.rules import rules_of
from ws_support.conf import is_debug
from ws_support.exceptions import BroadcastError

__all__ = [
    "BroadcastError",
    "Statistics",
    "broadcast",
    "broadcast_json",
    "broadcast_json_on_commit",
    "broadcast_json_sync",
    "broadcast_on_commit",
    "broadcast_sync",
    "statistics",
]

logger = logging.getLogger("ws_support.broadcast")


async def broadcast(topic: str, message: str | bytes, *, exclude: Any = None) -> str | None:
    """Send `message` to all subscribers of `topic`.

    Returns when Redis or the channel layer has taken the message, or, without any of these,
    when the subscribers of this process have it. Does not wait for any client. Messages that one
    task broadcasts under the same topic, one after the other, arrive in that order.

    `exclude` is who does not get it, in any process: a consumer or a `WebSocket`, the id of a
    connection, or a user with all connections.

    Returns the position of the message in the history of the topic, a short string, or None for a
    topic without history.

    Raises `BroadcastError` when the message is not taken within 5 s, and `TypeError` or
    `ValueError` for an invalid topic or message.
    """
    return await _send(checked_topic(topic), message_of(message), exclude)


async def broadcast_json(
    topic: str, value: Any, *, encoder: type[JSONEncoder] = DjangoJSONEncoder, exclude: Any = None
) -> str | None:
    """Send `value` as JSON text to all subscribers of `topic`. The value is encoded only once.

    Raises the same errors as `broadcast()`, `TypeError` for a value that `encoder` does not know,
    and `ValueError` for NaN and infinity, which no browser can read.
    """
    return await broadcast(topic, JSONText(json_of(value, encoder)), exclude=exclude)


async def _send(topic: str, content: dict[str, Any], exclude: Any) -> str | None:
    if exclude is not None:
        content[EXCLUDE] = exclusion_of(exclude)
    broker = TopicRegistry.of_this_loop().broker
    try:
        keeping = _keeping(topic, broker)
        if keeping is not None:
            return (await broker.append(topic, content, keeping)).position
        await broker.publish(topic, content)
    except BrokerError as error:
        raise not_taken(topic, broker, error) from error
    return None


def _keeping(topic: str, broker: Broker) -> Keeping | None:
    """Return what the history of `topic` keeps, or None if it has none."""
    rules = rules_of(topic)
    if rules is None or not rules.history or not broker.has_history:
        return None
    return Keeping(rules.history, rules.history_seconds)


def broadcast_sync(topic: str, message: str | bytes, *, exclude: Any = None) -> str | None:
    """Send `message` to all subscribers of `topic`, from synchronous code: a view, a signal, a task
    of Celery or a thread.

    Returns and raises what `broadcast()` does, and `RuntimeError` in an event loop, where it would
    stop everything else. In a transaction, use `broadcast_on_commit()`: subscribers may hear of
    what they cannot read yet, or of what is rolled back. With `DEBUG`, this is warned of once.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError(
            "broadcast_sync() was called in an event loop. Write `await broadcast(...)` there."
        )
    _warn_of_a_transaction(topic)
    return async_to_sync(broadcast)(topic, message, exclude=exclude)


def broadcast_json_sync(
    topic: str, value: Any, *, encoder: type[JSONEncoder] = DjangoJSONEncoder, exclude: Any = None
) -> str | None:
    """Send `value` as JSON text to all subscribers of `topic`, from synchronous code.

    Raises the errors of `broadcast_json()` and of `broadcast_sync()`.
    """
    return broadcast_sync(topic, JSONText(json_of(value, encoder)), exclude=exclude)


def broadcast_on_commit(
    topic: str, message: str | bytes, *, using: str | None = None, exclude: Any = None
) -> None:
    """Send `message` to all subscribers of `topic` when the transaction is committed.

    Without a transaction, this is done at once, and after a rollback never. `using` is the alias of
    the database, as in `django.db.transaction.on_commit()`.

    Raises `TypeError` or `ValueError` at once for an invalid topic or message. What is committed
    stays so: when the message is not taken, one line in the log (ERROR) says so, and nothing is
    raised.
    """
    checked_topic(topic)
    message_of(message)
    if exclude is not None:
        exclusion_of(exclude)
    sending = partial(_broadcast_committed, topic, message, exclude)
    transaction.on_commit(sending, using=using)


def broadcast_json_on_commit(
    topic: str,
    value: Any,
    *,
    encoder: type[JSONEncoder] = DjangoJSONEncoder,
    using: str | None = None,
    exclude: Any = None,
) -> None:
    """Send `value`, as it is now, as JSON text when the transaction is committed.

    Raises the errors of `broadcast_on_commit()` and of `broadcast_json()`.
    """
    broadcast_on_commit(topic, JSONText(json_of(value, encoder)), using=using, exclude=exclude)


def _broadcast_committed(topic: str, message: str | bytes, exclude: Any) -> None:
    try:
        async_to_sync(broadcast)(topic, message, exclude=exclude)
    except BroadcastError as error:
        logger.error("Committed, but not broadcast. %s", error)


class _Transactions:
    """Warns, once in a process, of a message from within a transaction."""

    is_warned_of = False


def _warn_of_a_transaction(topic: str) -> None:
    if _Transactions.is_warned_of or not is_debug():
        return
    if any(each.in_atomic_block for each in connections.all(initialized_only=True)):
        _Transactions.is_warned_of = True
        logger.warning(
            "broadcast_sync() was called in a transaction, under %.100a: subscribers may hear of"
            " what they cannot read yet, or of what is rolled back. Write broadcast_on_commit().",
            topic,
        )


async def count_takers(topic: str, message: str | bytes, wait: float) -> int:
    """Broadcast a message, and return how many processes with subscribers have received it.

    Answers are counted for `wait` seconds.
    """
    topic, content = checked_topic(topic), message_of(message)
    broker = TopicRegistry.of_this_loop().broker
    try:
        keeping = _keeping(topic, broker)
        if keeping is not None:
            return (await broker.append(topic, content, keeping)).takers
        return await broker.count_takers(topic, content, wait)
    except BrokerError as error:
        raise not_taken(topic, broker, error) from error
