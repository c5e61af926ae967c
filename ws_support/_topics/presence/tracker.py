"""The tracker: what one event loop has to do with presence, its own entries and its watches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, cast

from ws_support._asyncio import PerLoop, in_this_loop
from ws_support._topics.brokers.base import BrokerError
from ws_support._topics.presence.entries import Entry, difference_topic, read_entries, worker_of
from ws_support._topics.presence.storage import PresenceStorage, Stored
from ws_support._topics.presence.table import LANES
from ws_support._topics.presence.watch import Reader, Watch
from ws_support._topics.presence.worker import MOMENT, RETRY_EVERY, Worker, rest
from ws_support._topics.registry import TopicRegistry
from ws_support._topics.subscriber import Subscriber

LOOK_EVERY: Final = 4.0
"""Seconds between two looks at the leases of other workers."""

TRUST: Final = 5.0
"""Seconds after an outage in which every worker counts as living: each has to renew its lease."""


class Tracker:
    """The worker and the watches of one event loop, for one storage.

    A task looks at the leases of the workers that have entries under watched topics, and reads
    stale watches. It runs only while something is watched.
    """

    @classmethod
    def of(cls, topic: str) -> Tracker:
        """Return the tracker of the running event loop for `topic`.

        Raises `ImproperlyConfigured` when the broker has no presence.
        """
        storage = TopicRegistry.of_this_loop().broker.presence(topic)
        trackers = _trackers.get()
        if storage not in trackers:
            trackers[storage] = cls(storage)
        return trackers[storage]

    def __init__(self, storage: PresenceStorage) -> None:
        self._storage = storage
        self.worker = Worker(storage, on_restored=self._doubt, sweep=self._sweep)
        self._trusts_until = 0.0
        self._watches: dict[str, Watch] = {}
        self._look_at = 0.0
        self._task: asyncio.Task[None] | None = None
        # Only while the task runs: it refers to the loop, which could not be forgotten.
        self._wake: asyncio.Event | None = None

    # Reading

    async def read(self, topic: str) -> dict[str, Entry]:
        """Return the entries under `topic`, none of a dead worker. Raises `BrokerError`."""
        await self.worker.until_sure()
        stored, dead = await self._read(topic)
        return _living_entries(stored, dead)

    async def _read(self, topic: str) -> tuple[Stored, set[str]]:
        """Return what is stored, and which of the workers in it are dead."""
        stored = await self._storage.read(topic)
        return stored, await self._dead(map(worker_of, stored.entries))

    async def _dead(self, workers: Iterable[str]) -> set[str]:
        """Return those of `workers` that are dead."""
        others = self._others(workers)
        if not others or asyncio.get_running_loop().time() < self._trusts_until:
            return set()
        return others - await self._storage.living(others)

    def _others(self, workers: Iterable[str]) -> set[str]:
        return {each for each in workers if not self.worker.is_called(each)}

    async def _remove(self, topic: str, workers: Iterable[str]) -> None:
        for worker in workers:
            await self._storage.remove(topic, worker)

    async def _sweep(self, topic: str, workers: Iterable[str]) -> None:
        await self._remove(topic, await self._dead(workers))

    def _doubt(self, error: Exception | None = None) -> None:
        """Note that there is an outage or its end, or that this process stood still.

        What is known may be old, and others have to renew their leases first.
        """
        self._trust()
        for watch in self._watches.values():
            watch.disturb()

    def _trust(self) -> None:
        self._trusts_until = asyncio.get_running_loop().time() + TRUST

    # Watching

    def watch(self, topic: str) -> Reader:
        """Return a reader of the changes of `topic`, to be given back with `unwatch()`."""
        watch = self._watches.get(topic)
        if watch is None:
            watch = self._watches[topic] = Watch(topic, self._wake_up, self._is_unsure)
            self._wake_up()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="presence watch")
        reader = Reader(watch)
        watch.readers.add(reader)
        return reader

    async def unwatch(self, reader: Reader) -> None:
        """End a reader."""
        watch = reader.watch
        watch.readers.discard(reader)
        if not watch.readers and self._watches.get(watch.topic) is watch:
            del self._watches[watch.topic]
            self._wake_up()
            registry = TopicRegistry.of_this_loop()
            await registry.leave_all(cast(Subscriber, watch))

    def _is_unsure(self) -> bool:
        return self.worker.is_unsure

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()

    # The task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        # It does not notice outages itself. The listener does, which hears the differences.
        outage = self._storage.outages.detector(in_this_loop(self._doubt))
        wake = self._wake = asyncio.Event()
        self._look_at = loop.time() + LOOK_EVERY
        was_away = False
        try:
            while self._watches:
                is_away = self._storage.outages.is_noticed
                if was_away:
                    # What was read before the listener was back may have missed something.
                    self._doubt()
                was_away = is_away
                wake.clear()
                pause = await self._step()
                await rest(wake, RETRY_EVERY if is_away else pause)
                # What comes in the same moment is one round.
                await asyncio.sleep(MOMENT)
        finally:
            outage.leave()
            self._wake = self._task = None

    async def _step(self) -> float | None:
        """Do what is due, and return the seconds until the next step; `None` if nothing is due."""
        now = asyncio.get_running_loop().time()
        try:
            await self._read_stale()
            if self._look_at <= now:
                self._look_at = now + LOOK_EVERY
                await self._look()
        except BrokerError:
            self._trust()
            return RETRY_EVERY
        for watch in self._watches.values():
            watch.end_ghosts()
        due = [until for each in self._watches.values() if (until := each.ghosts_until)]
        if self._others(self._workers()):
            due.append(self._look_at)
        return max(min(due) - asyncio.get_running_loop().time(), 0) if due else None

    async def _read_stale(self) -> None:
        stale = [each for each in self._watches.values() if each.is_stale]
        if stale:
            await self.worker.until_sure()
        for at in range(0, len(stale), LANES):
            await asyncio.gather(*map(self._read_watch, stale[at : at + LANES]))

    async def _read_watch(self, watch: Watch) -> None:
        if self._watches.get(watch.topic) is not watch:
            return  # Nobody reads it any more.
        if not watch.topics:
            registry = TopicRegistry.of_this_loop()
            await registry.subscribe(difference_topic(watch.topic), cast(Subscriber, watch))
        watch.begin_reading()
        try:
            stored, dead = await self._read(watch.topic)
        except BaseException:
            watch.fail_reading()
            raise
        watch.end_reading(stored.epoch, stored.version, _living_entries(stored, dead))
        await self._remove(watch.topic, dead)

    def _workers(self) -> set[str]:
        """Return the workers that have entries under watched topics."""
        return set().union(*(each.workers() for each in self._watches.values()))

    async def _look(self) -> None:
        """Remove the entries of workers that have died."""
        dead = await self._dead(self._workers())
        for watch in tuple(self._watches.values()):
            if died := dead & watch.workers():
                await self._remove(watch.topic, died)
                watch.disturb()  # The storage may have lost the worker before, and say nothing.


def _living_entries(stored: Stored, dead: set[str]) -> dict[str, Entry]:
    texts = {each: text for each, text in stored.entries.items() if worker_of(each) not in dead}
    return read_entries(texts)


_trackers: Final[PerLoop[dict[Any, Tracker]]] = PerLoop(dict)
