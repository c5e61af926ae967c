"""What errors of a broker are for those who use topics."""

from __future__ import annotations

from ws_support._topics.brokers.base import Broker, BrokerError
from ws_support.exceptions import BroadcastError


def not_taken(topic: str, broker: Broker, error: BrokerError) -> BroadcastError:
    """Return the error for a message that the broker has not taken."""
    return BroadcastError(
        f"The broadcast under {topic!r:.100} was not taken by {broker.title}: {error}."
    )


def not_read(topic: str, broker: Broker, error: BrokerError) -> BroadcastError:
    """Return the error for a history that could not be read."""
    return BroadcastError(
        f"The history of {topic!r:.100} could not be read from {broker.title}: {error}."
    )
