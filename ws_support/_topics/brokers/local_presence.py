"""Presence within one process: between its event loops."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import ClassVar, Final

from ws_support._asyncio import after_fork
from ws_support._topics.outages import Outages
from ws_support._topics.presence.entries import difference_topic, worker_of, write_difference
from ws_support._topics.presence.storage import KEEP, LEASE, PresenceStorage, Stored

_LOOK_EVERY: Final = 60.0
"""Seconds between two looks for topics that nobody keeps."""


@dataclass
class _Topic:
    epoch: str = field(default_factory=lambda: secrets.token_hex(4))
    version: int = 0
    entries: dict[str, str] = field(default_factory=dict)
    until: float = 0.0


class LocalPresence(PresenceStorage):
    """Keeps everything in the memory of the process, with the same leases as between processes.

    `publish` hands a text to the subscribers of a topic at once.
    """

    outages = Outages("This process")
    _lock: ClassVar[threading.Lock] = threading.Lock()
    _topics: ClassVar[dict[str, _Topic]] = {}
    _leases: ClassVar[dict[str, float]] = {}
    _look_at: ClassVar[float] = 0.0

    def __init__(self, publish: Callable[[str, str], None]) -> None:
        self._publish = publish

    @classmethod
    def forget(cls) -> None:
        """Forget everything: a process that was forked has none of the event loops."""
        cls._lock = threading.Lock()
        cls._topics.clear()
        cls._leases.clear()
        cls._look_at = 0.0

    async def lease(self, worker: str, successor: str) -> bool:
        now = monotonic()
        with self._lock:
            self._end_what_is_over(now)
            is_renewed = worker in self._leases
            self._leases[worker if is_renewed else successor] = now + LEASE
        return is_renewed

    def _end_what_is_over(self, now: float) -> None:
        for worker in [each for each, until in self._leases.items() if until <= now]:
            del self._leases[worker]
        if now >= LocalPresence._look_at:
            LocalPresence._look_at = now + _LOOK_EVERY
            for topic in [each for each, kept in self._topics.items() if kept.until <= now]:
                del self._topics[topic]

    async def living(self, workers: Collection[str]) -> set[str]:
        now = monotonic()
        with self._lock:
            return {each for each in workers if self._leases.get(each, now) > now}

    async def change(self, topic: str, joined: Mapping[str, str], left: Collection[str]) -> None:
        with self._lock:
            self._change(topic, joined, left)

    async def remove(self, topic: str, worker: str) -> None:
        with self._lock:
            entries = self._topics.get(topic, _Topic()).entries
            self._change(topic, {}, [each for each in entries if worker_of(each) == worker])

    def _change(self, topic: str, joined: Mapping[str, str], left: Collection[str]) -> None:
        kept = self._topics.get(topic) or _Topic()
        new = {each: text for each, text in joined.items() if kept.entries.get(each) != text}
        gone = [each for each in left if kept.entries.pop(each, None) is not None]
        kept.entries.update(new)
        if new or gone:
            self._topics[topic] = kept
            kept.until = monotonic() + KEEP
            kept.version += 1
            # Under the lock, so that the differences of several threads come in their order.
            difference = write_difference(kept.epoch, kept.version, new, gone)
            self._publish(difference_topic(topic), difference)

    async def keep(self, topic: str) -> dict[str, int]:
        with self._lock:
            kept = self._topics.get(topic)
            if kept is None:
                return {}
            kept.until = monotonic() + KEEP
            return Counter(map(worker_of, kept.entries))

    async def read(self, topic: str) -> Stored:
        with self._lock:
            kept = self._topics.get(topic)
            if kept is None:
                return Stored("", 0, {})
            return Stored(kept.epoch, kept.version, dict(kept.entries))


after_fork(LocalPresence.forget)
