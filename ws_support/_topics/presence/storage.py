"""The contract of the storage of presence: what a broker keeps about who is there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

LEASE: Final = 10.0
"""Seconds after which a worker that does not renew its lease is dead."""

KEEP: Final = 300.0
"""Seconds that the entries under a topic are kept after the last change or `keep()`."""

MOST: Final = 500
"""The most entries in one change."""


class Stored(NamedTuple):
    """The entries under a topic."""

    epoch: str
    """Empty if nothing is kept under the topic. The topic is kept for `KEEP` seconds when everybody
    has left, so that the epoch says if something was lost."""
    version: int
    entries: dict[str, str]
    """Each as JSON, by its id. Entries of dead workers are among them."""


class PresenceStorage(ABC):
    """Keeps entries by topic, and the leases of workers. Used by one event loop.

    Each change of a topic raises its version by one, and publishes the difference under
    `difference_topic()`, both in one step. A change that changes nothing does neither, so any call
    may be repeated. All methods raise `BrokerError` within 5 s if the storage does not answer.
    """

    outages: Any
    """The `Outages` of what is behind the storage. (They know the errors of brokers, whose contract
    knows this one.)"""

    @abstractmethod
    async def lease(self, worker: str, successor: str) -> bool:
        """Renew the lease of `worker` for `LEASE` seconds. Return False if it was over.

        Then, the lease of `successor` begins.
        """

    @abstractmethod
    async def living(self, workers: Collection[str]) -> set[str]:
        """Return those of `workers` whose lease is not over."""

    @abstractmethod
    async def change(self, topic: str, joined: Mapping[str, str], left: Collection[str]) -> None:
        """Put entries, given as JSON by their ids, under `topic`, and remove those in `left`.

        These are `MOST` together.
        """

    @abstractmethod
    async def remove(self, topic: str, worker: str) -> None:
        """Remove all entries of a dead worker, `MOST` in one change."""

    @abstractmethod
    async def keep(self, topic: str) -> dict[str, int]:
        """Keep `topic` for another `KEEP` seconds. Return the number of entries of each worker."""

    @abstractmethod
    async def read(self, topic: str) -> Stored:
        """Return the entries under `topic`."""
