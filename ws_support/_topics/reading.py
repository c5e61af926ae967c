"""The history of a topic, as a project reads it."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from ws_support._topics.brokers.base import Broker, BrokerError, BrokerUnavailable
from ws_support._topics.errors import not_read
from ws_support._topics.messages import checked_topic
from ws_support._topics.positions import checked_position
from ws_support._topics.registry import TopicRegistry
from ws_support._topics.rules import rules_of

_ATTEMPTS: Final = 3
"""How often a history is read from its beginning, when meanwhile it loses what was to be read."""


class HistoryMessage(NamedTuple):
    """A message in the history of a topic."""

    position: str
    message: str | bytes
    """As it was broadcast: text, which may be JSON, or binary."""

    @property
    def json(self) -> Any:
        """The value of a message that is JSON text. Raises `ValueError` if it is none."""
        return json.loads(self.message)


class History(NamedTuple):
    """A part of the history of a topic."""

    messages: list[HistoryMessage]
    """The oldest first."""
    position: str
    """The position of the last of them; without messages, that of the topic. Who subscribes with
    `since=position` gets what follows."""
    recovered: bool
    """False if messages between the position that was asked for and these are no longer kept: then
    there are none."""


async def history(topic: str, since: str | None = None, limit: int | None = None) -> History:
    """Return what the history of `topic` has: what has followed the position `since`, or the last.

    `limit` is the most messages: without `since` the last ones, with it the first that follow.

    Raises `ValueError` for a topic without history and a limit below 1, and `BroadcastError` when
    the history cannot be read within 5 s, or the broker keeps none.
    """
    topic = checked_topic(topic)
    rules = rules_of(topic)
    if rules is None or not rules.history:
        raise ValueError(
            f"The topic {topic!r:.100} has no history: give it one with a Topic class."
        )
    if since is not None:
        since = checked_position(since)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is a whole number of messages above 0: got {limit!r:.100}.")
    broker = TopicRegistry.of_this_loop().broker
    most = rules.history if limit is None else min(limit, rules.history)
    try:
        for _ in range(_ATTEMPTS):
            found = await _read(broker, topic, since, most)
            if found.recovered or since is not None:
                return found
        raise BrokerUnavailable("meanwhile, more is published than it keeps")
    except BrokerError as error:
        raise not_read(topic, broker, error) from error


async def _read(broker: Broker, topic: str, since: str | None, left: int) -> History:
    """Read a history in parts. Raises `BrokerError`."""
    messages: list[HistoryMessage] = []
    while True:
        log = await broker.read(topic, since, left)
        if not log.is_complete:
            return History([], log.position, recovered=False)
        messages += [_message(each.position, each.message) for each in log.entries]
        since, left = log.position, left - len(log.entries)
        if not log.has_more or left <= 0:
            return History(messages, log.position, recovered=True)


def _message(position: str, message: dict[str, Any]) -> HistoryMessage:
    text = message.get("text")
    return HistoryMessage(position, message["bytes"] if text is None else str(text))
