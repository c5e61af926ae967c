"""Histories in the memory of this process."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from heapq import heappop, heappush
from itertools import islice
from time import monotonic
from typing import Any, Final

from ws_support._asyncio import after_fork
from ws_support._topics.brokers.base import Entry, Keeping, Log
from ws_support._topics.positions import Position, offset_of, position

KEEP_POSITION: Final = 3600.0
"""Seconds for which the position of the last message is known after its history has expired: who
comes back until then, and has missed nothing, hears so."""

_SWEEP_EVERY: Final = (1.0, 30.0)
"""The least and the most seconds between two looks for what has expired."""


class _History:
    __slots__ = ("before", "entries", "expires_at", "look_at", "position")

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.position = position(0)
        """That of the last message."""
        self.before: Position = self.position
        """That before the first entry."""
        self.expires_at = monotonic()
        self.look_at = self.next_look

    @property
    def next_look(self) -> float:
        """When something of it expires."""
        return self.expires_at if self.entries else self.expires_at + KEEP_POSITION

    def append(self, message: Any, keeping: Keeping) -> None:
        self.position = position(offset_of(self.position) + 1)
        self.entries.append(Entry(self.position, message))
        while len(self.entries) > keeping.most:
            self.before = self.entries.popleft().position
        self.expires_at = monotonic() + keeping.seconds

    def read(self, since: Position, limit: int) -> Log:
        if since == self.position:
            return Log([], since, is_complete=True, has_more=False)
        at = offset_of(since) - offset_of(self.before)
        if not 0 <= at < len(self.entries) or since != self._position_before(at):
            return Log([], self.position, is_complete=False, has_more=False)
        found = list(islice(self.entries, at, at + limit))
        end = found[-1].position
        return Log(found, end, is_complete=True, has_more=end != self.position)

    def read_last(self, limit: int) -> Log:
        last = list(islice(self.entries, max(len(self.entries) - limit, 0), None))
        return Log(last, self.position, is_complete=True, has_more=False)

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
        # When something expires. Of several entries for a topic, that with its `look_at` counts.
        self._looks: list[tuple[float, str]] = []
        self._sweeper: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    def append(self, topic: str, message: Any, keeping: Keeping) -> tuple[Position, Position]:
        """Append a message, and return its position and that before it."""
        history = self._get(topic)
        previous = history.position
        history.append(message, keeping)
        if history.next_look < history.look_at:
            self._look_later(topic, history)
        return history.position, previous

    def read(self, topic: str, since: Position | None, limit: int) -> Log:
        """Return up to `limit` entries that follow `since`, or the last ones."""
        history = self._get(topic)
        return history.read_last(limit) if since is None else history.read(since, limit)

    def _get(self, topic: str) -> _History:
        history = self._histories.get(topic)
        if history is None:
            history = self._histories[topic] = _History()
            self._look_later(topic, history)
        elif history.entries and history.expires_at <= monotonic():
            history.expire()
        return history

    def _look_later(self, topic: str, history: _History) -> None:
        history.look_at = history.next_look
        heappush(self._looks, (history.look_at, topic))
        if self._sweeper is None or self._sweeper[0].is_closed():
            self._sweep_later()

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        least, most = _SWEEP_EVERY
        pause = min(max(self._looks[0][0] - monotonic(), least), most)
        self._sweeper = (loop, loop.call_later(pause, self._sweep))

    def _sweep(self) -> None:
        with self.lock:
            now = monotonic()
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
            self._sweeper = None
            if self._looks:
                self._sweep_later()

    def __len__(self) -> int:
        return len(self._histories)


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
