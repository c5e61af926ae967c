"""The pings of a hub: one timer for all connections, since each would take half a KiB."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final, Protocol

_GRAIN: Final = 1 / 20
"""The part of an interval by which a ping may be late, so that many go together."""

_MOST_AT_ONCE: Final = 500
"""Connections that are pinged in a row, before others have their turn."""


class Pinged(Protocol):
    """A connection that wants pings."""

    def ping(self) -> None:
        """Send a ping, if it needs one."""


class Pings:
    """Calls `ping()` of connections in an interval, in seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._due: dict[Pinged, float] = {}
        """When each is pinged next: the first one is the earliest."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Pinged) -> None:
        """Ping a connection from now on; the first time after the interval."""
        self._due[connection] = self._loop.time() + self._interval
        if self._timer is None:
            self._wait(0)

    def discard(self, connection: Pinged) -> None:
        """Ping a connection no more."""
        if self._due.pop(connection, None) and not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, at_least: float) -> None:
        first = next(iter(self._due.values()))
        self._timer = self._loop.call_at(max(first, at_least), self._ping)

    def _ping(self) -> None:
        self._timer = None
        now = self._loop.time()
        connections = []
        for connection, at in islice(self._due.items(), _MOST_AT_ONCE):
            if at > now:
                break
            connections.append(connection)
        for connection in connections:
            if self._due.pop(connection, None) is not None:  # Unless another ping has ended it.
                self._due[connection] = now + self._interval
                connection.ping()
        if self._due and self._timer is None:
            is_full = len(connections) == _MOST_AT_ONCE
            self._wait(now if is_full else now + _GRAIN * self._interval)
