"""The worker: the entries of one event loop, and their lease."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from ws_support._asyncio import in_this_loop
from ws_support._topics.brokers.base import TIMEOUT, BrokerError
from ws_support._topics.outages import OutageDetector
from ws_support._topics.presence.storage import LEASE, PresenceStorage
from ws_support._topics.presence.table import LANES, Table, settle

MOMENT: Final = 0.05
"""Seconds in which changes gather, to be one change of a topic."""

GRACE: Final = 2.0
"""Seconds after which an entry is removed whose owner has left: a page that is loaded again is
there by then."""

RENEW_EVERY: Final = 3.0
"""Seconds between two renewals of the lease."""

RETRY_EVERY: Final = 1.0
"""Seconds between two attempts in an outage."""

KEEP_EVERY: Final = 60.0
"""Seconds after which a topic is kept for longer, and what is stored there is looked at."""


class Worker:
    """Keeps the entries of one event loop in the storage, for as long as there are any.

    When the lease was over, since the process stood still or the storage has lost it, others may
    have removed all entries, or be about to: the worker then has a new generation, under which all
    entries are put back. `on_restored` is called then, and after an outage. `sweep` is called now
    and then, with the other workers that have entries under a topic.
    """

    def __init__(
        self,
        storage: PresenceStorage,
        on_restored: Callable[[], None],
        sweep: Callable[[str, Iterable[str]], Any],
    ) -> None:
        self._storage = storage
        self._on_restored = on_restored
        self._sweep = sweep
        self._table = Table()
        self.base = secrets.token_hex(8)
        """The name without its generation."""
        self.name = ""
        """The name with its generation; empty without a lease."""
        self._generation = 0
        self._number = 0
        self._leased_at = 0.0
        # Reasons to doubt that the storage has the entries, and how many of these were dealt with.
        self._doubts = self._settled = 0
        self._unsure: list[asyncio.Future[None]] = []
        self._leaving: deque[tuple[float, str, int]] = deque()
        self._kept_at: dict[str, float] = {}
        self._renew_at = 0.0
        self._tell_at: float | None = None
        # Only while the task runs: they refer to the loop, which could not be forgotten.
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._outage: OutageDetector | None = None

    # For those who are present

    def new_number(self) -> int:
        """Return the number of a new entry."""
        self._number += 1
        return self._number

    async def put(self, topic: str, number: int, text: str) -> None:
        """Put an entry, as JSON, under `topic`, or replace the one with this number.

        Returns when the storage has it, or at once in an outage, after which the entry holds.
        """
        self._table.put(topic, number, text)
        self._tell_soon()
        if self._outage is None or not self._outage.is_away:
            await self._table.until_told(number, TIMEOUT)

    def leave(self, topic: str, number: int) -> None:
        """Remove an entry, in some seconds."""
        self._leaving.append((_now() + GRACE, topic, number))
        if len(self._leaving) == 1:
            self._wake_up()

    # For those who read

    @property
    def is_unsure(self) -> bool:
        """True if the storage may have lost or removed what it ought to have.

        A process that stood still finds that here, before it does anything else.
        """
        is_late = bool(self.name) and _now() - self._leased_at > LEASE
        return is_late or self._doubts > self._settled

    async def until_sure(self) -> None:
        """Wait until the storage has the entries, for at most 5 s."""
        if self._task is not None and self.is_unsure:
            self._renew_at = 0.0
            self._wake_up()
            future = asyncio.get_running_loop().create_future()
            self._unsure.append(future)
            await asyncio.wait([future], timeout=TIMEOUT)

    def is_called(self, name: str) -> bool:
        """Return True if `name` is that of this worker, or was before entries are put back."""
        return name == self.name or (self.is_unsure and name.partition(".")[0] == self.base)

    # The task

    def _tell_soon(self) -> None:
        if self._tell_at is None:
            self._tell_at = _now() + MOMENT
            self._wake_up()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="presence")

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()

    async def _run(self) -> None:
        outage = self._outage = self._storage.outages.detector(in_this_loop(self._doubt))
        wake = self._wake = asyncio.Event()
        self._renew_at = 0.0
        try:
            await self._step(outage)
            while self._table.has_entries or self._table.has_changes:
                await rest(wake, self._next_step(outage) - _now())
                await self._step(outage)
        finally:
            outage.leave()
            self._task = self._wake = self._outage = self._tell_at = None
            self.name = ""
            self._table.forget_changes()
            self._release()
            self._doubts, self._settled = 0, 0
            if self._table.has_entries:  # The task was cancelled.
                self._doubts += 1

    def _next_step(self, outage: OutageDetector) -> float:
        """Return the time at which something is due."""
        due = self._renew_at
        if self._leaving:
            due = min(due, self._leaving[0][0])
        if self._tell_at is not None and not outage.is_away:
            due = min(due, self._tell_at)
        return due

    async def _step(self, outage: OutageDetector) -> None:
        """Do what is due."""
        self._remove_those_who_left()
        try:
            if self._renew_at <= _now():
                await self._renew(outage)
                await self._keep()
            if self._tell_at is not None and self._tell_at <= _now() and not outage.is_away:
                await self._tell()
        except BrokerError as error:
            outage.lose(error)
            self._doubt()
            self._renew_at = _now() + RETRY_EVERY
            self._release()
            if not self._table.has_entries:
                # What is left in the storage ends with the lease.
                self._table.forget_changes()

    def _remove_those_who_left(self) -> None:
        while self._leaving and self._leaving[0][0] <= _now():
            _, topic, number = self._leaving.popleft()
            self._table.remove(topic, number)
            self._tell_soon()

    async def _tell(self) -> None:
        self._tell_at = None
        await self._table.tell(self._storage, self.name)

    def _release(self) -> None:
        self._table.release()
        settle(self._unsure)
        self._unsure.clear()

    # The lease

    def _doubt(self, error: Exception | None = None) -> None:
        """Note that nobody knows what the storage has: there is an outage."""
        self._doubts += 1
        self._renew_at = 0.0
        self._wake_up()

    async def _renew(self, outage: OutageDetector) -> None:
        asked_at, doubts = _now(), self._doubts
        successor = f"{self.base}.{self._generation + 1}"
        if not await self._storage.lease(self.name, successor):
            self._generation += 1
            before, self.name = self.name, successor
            if before:
                doubts = self._doubts = self._doubts + 1
                self._table.rename(before)
        self._leased_at = asked_at
        self._renew_at = asked_at + RENEW_EVERY
        if doubts > self._settled:
            self._on_restored()
            self._table.change_all()
            await self._tell()
            self._settled = doubts
        settle(self._unsure)
        self._unsure.clear()
        outage.find()

    async def _keep(self) -> None:
        now = _now()
        topics = set(self._table.topics())
        self._kept_at = {each: self._kept_at.get(each, now) for each in topics}
        due = [each for each in topics if now - self._kept_at[each] >= KEEP_EVERY]
        for at in range(0, len(due), LANES):
            await asyncio.gather(*map(self._keep_topic, due[at : at + LANES]))

    async def _keep_topic(self, topic: str) -> None:
        counts = await self._storage.keep(topic)
        self._kept_at[topic] = _now()
        if self._table.differs(topic, counts.get(self.name, 0)):
            # Some were lost, with a Redis whose replica had not heard of them.
            self._tell_soon()
        await self._sweep(topic, counts.keys() - {self.name})


async def rest(wake: asyncio.Event, seconds: float | None) -> None:
    """Wait until `wake` is set, and clear it; at most for so many seconds."""
    timer = None
    if seconds is not None:
        timer = asyncio.get_running_loop().call_later(seconds, wake.set)
    try:
        await wake.wait()
    finally:
        if timer is not None:
            timer.cancel()
    wake.clear()


def _now() -> float:
    return asyncio.get_running_loop().time()
