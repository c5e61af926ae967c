"""Watches: who is present under a topic, followed by readers of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from ws_support._topics.presence.entries import (
    Change,
    Difference,
    Entry,
    Member,
    members_of,
    read_difference,
    slot_of,
    worker_of,
)

GHOST: Final = 10.0
"""Seconds in which workers put back what the storage has lost."""

_EARLY: Final = 1000
"""The most differences that wait while the state is read."""


class Watch:
    """Knows the entries under one topic: from a reading, and the differences after it.

    It is a subscriber to the topic of the differences. Whatever may have been missed makes the
    watch stale: it is read anew. `on_stale` is called then, and `is_unsure` says if the worker of
    this event loop is about to put back its own entries, which others have removed.
    """

    def __init__(self, topic: str, on_stale: Any, is_unsure: Any) -> None:
        self.topic = topic
        self.readers: set[Reader] = set()
        self.is_stale = True
        self.is_known = False
        """True once the state was read for the first time."""
        # For the registry of topics.
        self.topics: set[str] = set()
        self.topics_length = 0
        self._on_stale = on_stale
        self._is_unsure = is_unsure
        self._epoch, self._version = "", 0
        # By slots: the id of an entry changes when its worker has a new generation.
        self._slots: dict[str, tuple[str, Entry]] = {}
        self._members: dict[str, set[str]] = {}
        # Slots that the storage has lost, and until when they count as present.
        self._ghosts: dict[str, float] = {}
        self._early: list[Difference] | None = None

    # For the registry of topics

    def push(self, published: Any) -> bool:
        """Take a difference."""
        try:
            difference = read_difference(published.message["text"])
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            self.disturb()  # Somebody else has put it there.
            return False
        if self._is_unsure():
            self.disturb()
        elif self._early is not None and len(self._early) < _EARLY:
            self._early.append(difference)
        elif self._early is not None:
            self.disturb()
        elif not self.is_stale:
            self._apply(difference)
        return False

    def miss(self) -> bool:
        """Note that differences were lost on the way."""
        self.disturb()
        return False

    def disturb(self) -> None:
        """Have the state read anew."""
        self.is_stale = True
        self._on_stale()

    # The state

    def workers(self) -> set[str]:
        """Return the workers that have entries here."""
        slots = self._slots.items()
        return {worker_of(entry) for slot, (entry, _) in slots if slot not in self._ghosts}

    def begin_reading(self) -> None:
        """Keep the differences that come from now on."""
        self.is_stale = False
        self._early = []

    def fail_reading(self) -> None:
        self.is_stale = True
        self._early = None

    def end_reading(self, epoch: str, version: int, entries: Mapping[str, Entry]) -> None:
        """Take the state that was read, and the differences that have come meanwhile."""
        early, self._early = self._early or [], None
        self.is_known = True
        self._replace(epoch, version, entries)
        for difference in early:
            if not self.is_stale:
                self._apply(difference)

    def _replace(self, epoch: str, version: int, entries: Mapping[str, Entry]) -> None:
        is_lost = epoch != self._epoch or version < self._version
        slots = {slot_of(each): (each, entry) for each, entry in entries.items()}
        missing = self._slots.keys() - slots.keys()
        if is_lost:
            until = _now() + GHOST
            self._ghosts = {each: self._ghosts.get(each, until) for each in missing}
        else:
            self._ghosts = {each: self._ghosts[each] for each in missing & self._ghosts.keys()}
        self._epoch, self._version = epoch, version
        self._update(slots, missing - self._ghosts.keys())

    def _apply(self, difference: Difference) -> None:
        epoch, version, joined, left = difference
        if epoch == self._epoch and version <= self._version:
            return
        if version == 1 and not self._slots:
            self._replace(epoch, version, joined)
            return
        if epoch != self._epoch or version != self._version + 1:
            self.disturb()
            return
        self._version = version
        slots = {slot_of(each): (each, entry) for each, entry in joined.items()}
        for each in slots.keys() & self._ghosts.keys():
            del self._ghosts[each]
        gone = {slot_of(each) for each in left if self._slots.get(slot_of(each), ("",))[0] == each}
        self._update(slots, gone - slots.keys())

    def _update(self, slots: Mapping[str, tuple[str, Entry]], gone: Collection[str]) -> None:
        touched = set()
        for slot in (*gone, *slots):
            before = self._slots.pop(slot, None)
            if before is not None:
                key = before[1].key
                touched.add(key)
                self._members[key].discard(slot)
        for slot, (entry, value) in slots.items():
            self._slots[slot] = (entry, value)
            touched.add(value.key)
            self._members.setdefault(value.key, set()).add(slot)
        for key in touched:
            if not self._members[key]:
                del self._members[key]
        for reader in self.readers:
            reader.touch(touched)

    @property
    def ghosts_until(self) -> float | None:
        """The time at which a ghost ends; `None` without ghosts."""
        return min(self._ghosts.values(), default=None)

    def end_ghosts(self) -> None:
        """Remove entries that nobody has put back in time."""
        now = _now()
        over = {slot for slot, until in self._ghosts.items() if until <= now}
        if over:
            for slot in over:
                del self._ghosts[slot]
            self._update({}, over)

    def members(self, keys: Iterable[str] | None = None) -> list[Member]:
        """Return the members, or those of `keys` that are present. Who came first is first."""
        keys = self._members if keys is None else keys
        slots = (slot for key in keys for slot in self._members.get(key, ()))
        return members_of(self._slots[each][1] for each in slots)


class Reader:
    """Reads the changes of a watch: several as one, if they come faster than they are read."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._seen: dict[str, Member] | None = None
        self._touched: set[str] = set()
        self._has_news = asyncio.Event()

    def touch(self, keys: set[str]) -> None:
        """Note that the members with these keys have changed."""
        self._touched |= keys
        self._has_news.set()

    async def next(self) -> Change:
        """Return the next change. The first one has everybody in `joined`."""
        while True:
            if self.watch.is_known and (change := self._change()) is not None:
                return change
            self._has_news.clear()
            await self._has_news.wait()

    def _change(self) -> Change | None:
        if self._seen is None:
            members = self.watch.members()
            self._seen = {each.key: each for each in members}
            self._touched.clear()
            return Change(joined=members, left=[], changed=[], count=len(members))
        touched, self._touched = self._touched, set()
        seen = self._seen
        before = {each: seen.pop(each) for each in touched if each in seen}
        after = {each.key: each for each in self.watch.members(touched)}
        seen.update(after)
        joined = [each for key, each in after.items() if key not in before]
        left = [each for key, each in before.items() if key not in after]
        changed = [each for key, each in after.items() if before.get(key, each) != each]
        if not (joined or left or changed):
            return None
        return Change(joined, left, changed, count=len(seen))


def _now() -> float:
    return asyncio.get_running_loop().time()
