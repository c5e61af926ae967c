"""The contract of a broker: what carries a published message to those who have subscribed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final, Protocol

from django.core.exceptions import ImproperlyConfigured

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


class Receiver(Protocol):
    """The receiver of the messages that come to one event loop."""

    def deliver(self, topic: str, message: Any) -> bool:
        """Take a `websocket.send`, and return at once.

        Return True if the next message should wait for `MOMENT`. A message under a topic that is
        not subscribed to (any more) is dropped.
        """

    def miss(self, topic: str, count: int, cause: str) -> None:
        """Note that `count` messages under `topic` were lost; `cause` is a sentence for the log."""


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
    - Bounds: a broker keeps no message that it cannot deliver.

    A broker that no topic is subscribed to runs no task, so it needs no `close()`.
    """

    is_between_processes: ClassVar[bool]
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

    def presence(self, topic: str) -> PresenceStorage:
        """Return what keeps who is present under `topic`, for this event loop.

        Raises `ImproperlyConfigured` when the broker has no presence.
        """
        raise ImproperlyConfigured(
            f"Presence cannot be kept by {self.title}. It needs Redis: a layer of channels_redis in"
            ' CHANNEL_LAYERS["default"], or the URL of a Redis in WS_SUPPORT["BROKER"].'
        )
