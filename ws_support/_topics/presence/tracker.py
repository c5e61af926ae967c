"""The tracker: what one event loop has to do with presence, its own entries and its watches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, cast

from ws_support._asyncio import PerLoop
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
        self.worker = Worker(storage, on_lapse=self._disturb, sweep=self._remove_dead)
        self._watches: dict[str, Watch] = {}
        self._task: asyncio.Task[None] | None = None
        # Only while the task runs: it refers to the loop, which could not be forgotten.
        self._wake: asyncio.Event | None = None

    # Reading

    async def read(self, topic: str) -> dict[str, Entry]:
        """Return the entries under `topic`, none of a dead worker. Raises `BrokerError`."""
        await self.worker.until_sure()
        _, entries = await self._read(topic)
        return entries

    async def _read(self, topic: str) -> tuple[Stored, dict[str, Entry]]:
        stored = await self._storage.read(topic)
        workers = {worker_of(each) for each in stored.entries}
        dead = await self._remove_dead(topic, workers)
        texts = {each: text for each, text in stored.entries.items() if worker_of(each) not in dead}
        return stored, read_entries(texts)

    async def _remove_dead(self, topic: str, workers: Iterable[str]) -> set[str]:
        """Remove the entries of those of `workers` that are dead, and return these workers."""
        others = {each for each in workers if not self.worker.is_called(each)}
        dead = others - await self._storage.living(others) if others else set()
        for worker in dead:
            await self._storage.remove(topic, worker)
        return dead

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

    def _disturb(self) -> None:
        for watch in self._watches.values():
            watch.disturb()

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()

    # The task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()

        def on_outage(error: Exception) -> None:
            with suppress(RuntimeError):  # The loop has been closed.
                loop.call_soon_threadsafe(self._disturb)

        # It does not notice outages itself. The listener does, which hears the differences.
        outage = self._storage.outages.detector(on_outage)
        wake = self._wake = asyncio.Event()
        look_at = loop.time() + LOOK_EVERY
        try:
            while self._watches:
                pause: float | None = None
                try:
                    if self._storage.outages.is_noticed:
                        # The listener is not back: what was read now could miss something.
                        pause = RETRY_EVERY
                    else:
                        await self._read_stale()
                        if look_at <= loop.time():
                            look_at = loop.time() + LOOK_EVERY
                            await self._look()
                except BrokerError:
                    pause = RETRY_EVERY
                for watch in self._watches.values():
                    watch.end_ghosts()
                if pause is None:
                    pause = self._pause(look_at)
                await rest(wake, pause)
                # What comes in the same moment is one round.
                await asyncio.sleep(MOMENT)
        finally:
            outage.leave()
            self._wake = self._task = None

    def _pause(self, look_at: float) -> float | None:
        """Return the seconds until something is due; `None` if nothing is."""
        now = asyncio.get_running_loop().time()
        due = [until for each in self._watches.values() if (until := each.ghosts_until)]
        if self._others():
            due.append(look_at)
        return max(min(due) - now, 0) if due else None

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
            stored, entries = await self._read(watch.topic)
        except BaseException:
            watch.fail_reading()
            raise
        watch.end_reading(stored.epoch, stored.version, entries)

    def _others(self) -> set[str]:
        """Return the workers of other event loops that have entries under watched topics."""
        workers = set().union(*(each.workers() for each in self._watches.values()))
        return {each for each in workers if not self.worker.is_called(each)}

    async def _look(self) -> None:
        """Remove the entries of workers that have died."""
        others = self._others()
        if not others:
            return
        dead = others - await self._storage.living(others)
        if not dead:
            return
        for watch in tuple(self._watches.values()):
            for worker in dead & watch.workers():
                await self._storage.remove(watch.topic, worker)
                watch.disturb()  # The storage may have lost the worker before, and say nothing.


_trackers: Final[PerLoop[dict[Any, Tracker]]] = PerLoop(dict)
