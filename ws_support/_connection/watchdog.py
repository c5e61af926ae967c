"""The watchdog: finds handlers that take long, without a timer or a task for each message."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from ws_support._asyncio import PerLoop

LOOK_EVERY: Final = 0.3
"""Seconds between two looks at the busy connections. One that is found busy twice takes long."""


class Busy(Protocol):
    """A connection whose handler runs."""

    def takes_long(self) -> None:
        """React to a handler that takes long. Called with each look from the second one on."""


class Watchdog:
    """Finds the connections of one event loop whose handlers take long.

    Each message costs one entry in a dictionary. All connections share one timer, which runs only
    while handlers run.
    """

    def __init__(self) -> None:
        self.busy: dict[Busy, bool] = {}
        """The busy connections; the value is True for those that were seen in an earlier look.
        Connections write this dictionary themselves for each message: a method would cost more than
        the entry."""
        self.is_armed = False

    @classmethod
    def of_this_loop(cls) -> Watchdog:
        """Return the watchdog of the running event loop."""
        return _watchdogs.get()

    def arm(self) -> None:
        """Start the timer. Has to be called with a new entry if `is_armed` is false."""
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


_watchdogs: Final = PerLoop(Watchdog)
