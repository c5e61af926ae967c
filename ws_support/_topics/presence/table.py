"""The table of a worker: the entries that the storage ought to have, and what it was not told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from ws_support._topics.presence.entries import id_of, worker_of
from ws_support._topics.presence.storage import MOST, PresenceStorage

LANES: Final = 64
"""The most calls of the storage at the same time."""

_SIZE: Final = 2**18
"""Characters of entries, from which on a change is full."""

_Future = asyncio.Future[None]


@dataclass
class _Part:
    """A part of the changes of a topic, which goes to the storage in one call."""

    topic: str
    joined: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    waiting: list[_Future] = field(default_factory=list)
    size: int = 0

    def join(self, entry: str, text: str) -> None:
        self.joined[entry] = text
        self.size += len(text)

    @property
    def is_full(self) -> bool:
        return len(self.joined) + len(self.left) >= MOST or self.size >= _SIZE


class Table:
    """The entries of one worker by topic and number, and which of them are to be told.

    To tell an entry once more changes nothing in the storage.
    """

    def __init__(self) -> None:
        self._entries: dict[str, dict[int, str]] = {}
        self._changed: dict[str, set[int]] = {}
        # Ids of the generations before, of which the storage may still have some.
        self._obsolete: dict[str, set[str]] = {}
        self._waiting: dict[int, _Future] = {}

    @property
    def has_entries(self) -> bool:
        return bool(self._entries)

    @property
    def has_changes(self) -> bool:
        return bool(self._changed or self._obsolete)

    def topics(self) -> Iterable[str]:
        """Return the topics with entries."""
        return self._entries

    def put(self, topic: str, number: int, text: str) -> None:
        self._entries.setdefault(topic, {})[number] = text
        self.change(topic, [number])

    def remove(self, topic: str, number: int) -> None:
        entries = self._entries[topic]
        del entries[number]
        if not entries:
            del self._entries[topic]
        self.change(topic, [number])

    def change(self, topic: str, numbers: Iterable[int]) -> None:
        """Have entries told."""
        self._changed.setdefault(topic, set()).update(numbers)

    def change_all(self) -> None:
        """Have all entries told."""
        for topic, entries in self._entries.items():
            self.change(topic, entries)

    def differs(self, topic: str, count: int) -> bool:
        """Return True, and have the entries of `topic` told, if the storage should not have
        `count` of them."""
        entries = self._entries.get(topic, {})
        if topic in self._changed or count == len(entries):
            return False
        self.change(topic, entries)
        return True

    def rename(self, before: str) -> None:
        """Have all entries told under a new name of the worker, and those under `before` removed.

        Its name was `before` so far.
        """
        for numbers_of in (self._entries, self._changed):
            for topic, numbers in numbers_of.items():
                ids = (id_of(before, each) for each in numbers)
                self._obsolete.setdefault(topic, set()).update(ids)
        self.change_all()

    def forget_changes(self) -> None:
        self._changed, self._obsolete = {}, {}

    # Those who wait

    async def until_told(self, number: int, seconds: float) -> None:
        """Wait until the storage was told of an entry, or `release()` is called."""
        future = self._waiting.get(number)
        if future is None:
            future = self._waiting[number] = asyncio.get_running_loop().create_future()
        await asyncio.wait([future], timeout=seconds)

    def release(self) -> None:
        """Let everybody go on who waits."""
        settle(self._waiting.values())
        self._waiting.clear()

    # Telling

    async def tell(self, storage: PresenceStorage, worker: str) -> None:
        """Tell the storage what has changed; the worker is called `worker`.

        Raises `BrokerError`. What the storage was not told then is told the next time.
        """
        parts = list(self._take(worker))
        for at in range(0, len(parts), LANES):
            telling = [_tell(storage, each) for each in parts[at : at + LANES]]
            results = await asyncio.gather(*telling, return_exceptions=True)
            errors = [each for each in results if each is not None]
            if errors:
                for part in parts[at:]:
                    self._put_back(part, worker)
                raise errors[0]

    def _take(self, worker: str) -> Iterator[_Part]:
        changed, self._changed = self._changed, {}
        obsolete, self._obsolete = self._obsolete, {}
        for topic in {**changed, **obsolete}:
            entries = self._entries.get(topic, {})
            part = _Part(topic)
            for number in sorted(changed.get(topic, ())):
                text = entries.get(number)
                if text is None:
                    part.left.append(id_of(worker, number))
                else:
                    part.join(id_of(worker, number), text)
                if (future := self._waiting.pop(number, None)) is not None:
                    part.waiting.append(future)
                if part.is_full:
                    yield part
                    part = _Part(topic)
            for entry in obsolete.get(topic, ()):
                part.left.append(entry)
                if part.is_full:
                    yield part
                    part = _Part(topic)
            if part.joined or part.left:
                yield part

    def _put_back(self, part: _Part, worker: str) -> None:
        """Note that the storage may not have what is in `part`."""
        settle(part.waiting)
        for entry in (*part.joined, *part.left):
            if worker_of(entry) == worker:
                self.change(part.topic, [int(entry.rpartition(":")[2])])
            else:
                self._obsolete.setdefault(part.topic, set()).add(entry)


async def _tell(storage: PresenceStorage, part: _Part) -> None:
    try:
        await storage.change(part.topic, part.joined, part.left)
    finally:
        settle(part.waiting)


def settle(futures: Iterable[_Future]) -> None:
    """Let those go on who wait for `futures`."""
    for future in futures:
        if not future.done():
            future.set_result(None)
