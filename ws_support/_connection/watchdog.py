"""Who has been busy for a while, without a timer or a task for each message."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol
from weakref import WeakKeyDictionary

LOOK_EVERY: Final = 0.3
"""Seconds between two looks at those who are busy. Who is seen twice takes long."""


class Busy(Protocol):
    def takes_long(self) -> None:
        """Called from the second look on, with each look."""


class Watchdog:
    """Looks at the connections of one event loop whose handlers run.

    A message costs an entry in a dictionary, and all connections together have one timer, which
    runs only while there are messages.
    """

    def __init__(self) -> None:
        self.busy: dict[Busy, bool] = {}
        """Who is busy now, and whether that was seen already. Entries come and go with messages,
        and are written here instead of by a method, which would cost more than the entry."""
        self.is_armed = False

    @classmethod
    def of_this_loop(cls) -> Watchdog:
        loop = asyncio.get_running_loop()
        try:
            return _watchdogs[loop]
        except KeyError:
            return _watchdogs.setdefault(loop, cls())

    def arm(self) -> None:
        """Look soon. Needed with an entry when `is_armed` is false."""
        self.is_armed = True
        asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def _look(self) -> None:
        self.is_armed = False
        for each, was_seen in list(self.busy.items()):
            if was_seen:
                each.takes_long()
            else:
                self.busy[each] = True
        if self.busy:
            self.arm()


_watchdogs: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Watchdog]] = WeakKeyDictionary()
