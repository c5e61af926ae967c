"""Histories in the memory of this process."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from heapq import heappop, heappush
from itertools import islice
from math import inf
from time import monotonic
from typing import Any, Final

from ws_support._asyncio import after_fork
from ws_support._topics.brokers.base import Entry, Keeping, Log
from ws_support._topics.positions import Position, offset_of, position

KEEP_POSITION: Final = 3600.0
"""Seconds for which the position of the last message is known after its history has expired or was
last read: who comes back until then, and has missed nothing, hears so."""

KEEP_BEGINNING: Final = 600.0
"""The same for a topic without any message so far, after it was last read. It is less, since
clients may name any number of such topics."""

_MOST_BEGINNINGS: Final = 100_000
"""Topics without any message whose position is known. With one more, that which was read longest
ago is forgotten: who comes back there is told that something may be missing."""

SIZE: Final = 2**20
"""Characters or bytes of messages, after which a reading ends: clients may ask for all."""

_SWEEP_EVERY: Final = (1.0, 30.0)
"""The least and the most seconds between two looks for what has expired."""


class _History:
    __slots__ = ("before", "entries", "expires_at", "known_until", "look_at", "position")

    def __init__(self, beginning: Position) -> None:
        self.entries: deque[Entry] = deque()
        self.position = beginning
        """That of the last message."""
        self.before = beginning
        """That before the first entry."""
        self.expires_at = 0.0
        self.known_until = 0.0
        self.look_at = inf

    @property
    def next_look(self) -> float:
        """When something of it expires."""
        return self.expires_at if self.entries else self.known_until

    def append(self, message: Any, keeping: Keeping) -> None:
        self.position = position(offset_of(self.position) + 1)
        self.entries.append(Entry(self.position, message))
        while len(self.entries) > keeping.most:
            self.before = self.entries.popleft().position
        self.expires_at = monotonic() + keeping.seconds
        self.known_until = self.expires_at + KEEP_POSITION

    def keep(self) -> None:
        self.known_until = max(self.known_until, monotonic() + KEEP_POSITION)

    def read(self, since: Position, limit: int) -> Log:
        if since == self.position:
            return Log([], since, is_complete=True, has_more=False)
        at = offset_of(since) - offset_of(self.before)
        if not 0 <= at < len(self.entries) or since != self._position_before(at):
            return Log([], self.position, is_complete=False, has_more=False)
        return self._read_from(at, limit)

    def read_last(self, limit: int) -> Log:
        if not self.entries or not limit:
            return Log([], self.position, is_complete=True, has_more=False)
        return self._read_from(max(len(self.entries) - limit, 0), limit)

    def _read_from(self, at: int, limit: int) -> Log:
        found: list[Entry] = []
        size = 0
        for entry in islice(self.entries, at, at + limit):
            size += len(entry.message.get("text") or entry.message.get("bytes") or "")
            if found and size > SIZE:
                break
            found.append(entry)
        end = found[-1].position
        return Log(found, end, is_complete=True, has_more=end != self.position)

    def expire(self) -> None:
        self.entries.clear()
        self.before = self.position

    def _position_before(self, at: int) -> Position:
        return self.entries[at - 1].position if at else self.before


class Histories:
    """The histories of all topics of this process; event loops of several threads may use them.

    Who uses them holds the `lock`.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._histories: dict[str, _History] = {}
        # Topics without any message: their positions, and until when these are known. That which
        # was read last is last.
        self._beginnings: dict[str, tuple[Position, float]] = {}
        # When something expires. Of several entries for a topic, that with its `look_at` counts.
        self._looks: list[tuple[float, str]] = []
        self._sweeper: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    def append(self, topic: str, message: Any, keeping: Keeping) -> tuple[Position, Position]:
        """Append a message, and return its position and that before it."""
        history = self._get(topic)
        if history is None:
            history = self._histories[topic] = _History(self._take_beginning(topic))
        previous = history.position
        history.append(message, keeping)
        if history.next_look < history.look_at:
            self._look_later(topic, history)
            self._begin_to_sweep()
        return history.position, previous

    def read(self, topic: str, since: Position | None, limit: int) -> Log:
        """Return up to `limit` entries that follow `since`, or the last ones."""
        history = self._get(topic)
        if history is None:
            beginning = self._beginning(topic)
            return Log([], beginning, is_complete=since in (None, beginning), has_more=False)
        history.keep()
        return history.read_last(limit) if since is None else history.read(since, limit)

    def _get(self, topic: str) -> _History | None:
        history = self._histories.get(topic)
        if history is not None and history.entries and history.expires_at <= monotonic():
            history.expire()
        return history

    def _beginning(self, topic: str) -> Position:
        """Return the position of a topic without any message."""
        beginning = self._take_beginning(topic)
        self._beginnings[topic] = (beginning, monotonic() + KEEP_BEGINNING)
        if len(self._beginnings) > _MOST_BEGINNINGS:
            del self._beginnings[next(iter(self._beginnings))]
        self._begin_to_sweep()
        return beginning

    def _take_beginning(self, topic: str) -> Position:
        known = self._beginnings.pop(topic, None)
        return position(0) if known is None else known[0]

    # What has expired

    def _look_later(self, topic: str, history: _History) -> None:
        history.look_at = history.next_look
        heappush(self._looks, (history.look_at, topic))

    def _begin_to_sweep(self) -> None:
        if self._sweeper is None:
            self._sweep_later()
        elif self._sweeper[0].is_closed():
            # Each call of `broadcast_sync()` may have an event loop of its own, which ends with it.
            self._sweep()

    def _sweep_later(self) -> None:
        times = [self._looks[0][0]] if self._looks else []
        times += [until for _, until in islice(self._beginnings.values(), 1)]
        if not times:
            return
        loop = asyncio.get_running_loop()
        least, most = _SWEEP_EVERY
        pause = min(max(min(times) - monotonic(), least), most)
        self._sweeper = (loop, loop.call_later(pause, self._sweep))

    def _sweep(self) -> None:
        with self.lock:
            now = monotonic()
            self._sweep_histories(now)
            self._sweep_beginnings(now)
            self._sweeper = None
            self._sweep_later()

    def _sweep_histories(self, now: float) -> None:
        while self._looks and self._looks[0][0] <= now:
            look_at, topic = heappop(self._looks)
            history = self._histories.get(topic)
            if history is None or history.look_at != look_at:
                continue
            if history.entries and history.expires_at <= now:
                history.expire()
            if history.next_look <= now:
                del self._histories[topic]
            else:
                self._look_later(topic, history)

    def _sweep_beginnings(self, now: float) -> None:
        while self._beginnings:
            topic, (_, until) = next(iter(self._beginnings.items()))
            if until > now:
                return
            del self._beginnings[topic]

    def clear(self) -> None:
        """Forget everything."""
        with self.lock:
            self._histories.clear()
            self._beginnings.clear()
            self._looks.clear()

    def __len__(self) -> int:
        return len(self._histories) + len(self._beginnings)


class _Current:
    """The histories of this process."""

    histories = Histories()

    @classmethod
    def renew(cls) -> None:
        """Begin anew, in a process that was forked: its messages are not those of its parent."""
        cls.histories = Histories()


def histories() -> Histories:
    """Return the histories of this process."""
    return _Current.histories


after_fork(_Current.renew)
