"""The contract of a broker: what carries a published message to those who have subscribed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from django.core.exceptions import ImproperlyConfigured

from ws_support._topics.positions import Position
from ws_support._topics.presence.storage import PresenceStorage

MOMENT: Final = 0.001
"""Seconds between two messages while queues fill up. A stalled client delays the others by 32 of
these, and only once: then its queue is full."""


TIMEOUT: Final = 5.0
"""Seconds that a broker between processes has for one step: it may connect and never answer."""


class BrokerError(Exception):
    """The broker has failed. The text of the error begins in lower case and has no full stop."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be used at present: there is an outage."""


class Keeping(NamedTuple):
    """What the history of a topic keeps."""

    most: int
    """The most messages; at least 1."""
    seconds: float
    """How long it is kept after the last message."""


class Entry(NamedTuple):
    """A message in the history of a topic."""

    position: Position
    message: Any


class Appended(NamedTuple):
    """A message that was published and is kept."""

    position: Position
    takers: int
    """How many receivers it was handed to, as far as the broker knows at once."""


class Log(NamedTuple):
    """A part of the history of a topic: what follows a position."""

    entries: list[Entry]
    """The oldest first."""
    position: Position
    """The position of the last entry; without entries, that of the last message of the topic."""
    is_complete: bool
    """False if messages are missing between the position that was asked for and the entries: they
    are no longer kept, or the history is another one. There are no entries then."""
    has_more: bool
    """True if more entries follow these."""


class Receiver(Protocol):
    """The receiver of the messages that come to one event loop."""

    def deliver(self, topic: str, message: Any) -> bool:
        """Take a `websocket.send`, and return at once.

        Return True if the next message should wait for `MOMENT`. A message under a topic that is
        not subscribed to (any more) is dropped.
        """

    def deliver_kept(
        self, topic: str, message: Any, position: Position, previous: Position
    ) -> bool:
        """Take a message that has a place in the history of `topic`, behind `previous`.

        Returns what `deliver()` does.
        """

    def miss(self, topic: str, count: int, cause: str) -> None:
        """Note that `count` messages under `topic` were lost; `cause` is a sentence for the log."""

    def catch_up(self) -> None:
        """Note the end of an outage: what is in the histories may not have come here."""


class Broker(ABC):
    """Carries messages from publishers to the receiver of its event loop.

    Each event loop has a broker of its own. Brokers of the same class and configuration reach one
    another, in this process or, if `is_between_processes`, in all processes.

    - Order: messages that one task publishes under the same topic, one after the other, arrive in
      that order at every receiver. Nothing is promised between two topics.
    - At most once: no message is delivered twice. A message that was lost on the way is reported
      with `Receiver.miss()` before the next message of its topic. An outage is reported by the log,
      and what is lost in an outage is not reported with `miss()`.
    - Outages: `publish()` raises within 5 s. `subscribe()` and `unsubscribe()` do not raise, and
      what they have asked for holds once the outage is over.
    - History: a message that was appended has a place in the history of its topic, and is
      delivered with its position and that before it. So the receiver sees which one is missing,
      and reads it from the history.
    - Bounds: a broker keeps no message that it cannot deliver, except in a history.

    A broker that no topic is subscribed to runs no task, so it needs no `close()`.
    """

    is_between_processes: ClassVar[bool]
    has_history: ClassVar[bool]
    """True if topics may have a history: `append()` and `read()` can be used."""
    title: str
    """What an error calls the broker, with the setting that configures it."""

    @abstractmethod
    def __init__(self, receiver: Receiver) -> None:
        """Create a broker for the running event loop."""

    @abstractmethod
    async def subscribe(self, topic: str) -> None:
        """Subscribe to `topic`, also if it is subscribed to already.

        What is published after the return is delivered, except in an outage.
        """

    @abstractmethod
    async def unsubscribe(self, topic: str) -> None:
        """Unsubscribe from `topic`, to the end also when the task that waits is cancelled."""

    @abstractmethod
    async def publish(self, topic: str, message: Any) -> None:
        """Hand `message`, a `websocket.send`, to all receivers that have subscribed to `topic`.

        Raises `BrokerError` when the broker does not take the message.
        """

    @abstractmethod
    async def count_takers(self, topic: str, message: Any, wait: float) -> int:
        """Publish a message, and return how many receivers have taken it within `wait` seconds.

        Raises `BrokerError` when the broker does not take the message.
        """

    async def append(self, topic: str, message: Any, keeping: Keeping) -> Appended:
        """Publish a message, and put it into the history of `topic`.

        Raises `BrokerError` when the broker does not take the message.
        """
        raise BrokerError("it keeps no history")

    async def read(self, topic: str, since: Position | None, limit: int) -> Log:
        """Return up to `limit` messages from the history of `topic`: those that follow `since`.

        Without `since`, return the last ones. With it, less is returned, but at least one, when
        messages are large. Raises `BrokerError` when the broker does not answer.
        """
        raise BrokerError("it keeps no history")

    def presence(self, topic: str) -> PresenceStorage:
        """Return what keeps who is present under `topic`, for this event loop.

        Raises `ImproperlyConfigured` when the broker has no presence.
        """
        raise ImproperlyConfigured(
            f"Presence cannot be kept by {self.title}. It needs Redis: a layer of channels_redis in"
            ' CHANNEL_LAYERS["default"], or the URL of a Redis in WS_SUPPORT["BROKER"].'
        )
