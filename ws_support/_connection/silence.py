"""The timer of the heartbeat, for silent clients."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final, Protocol

_GRACE: Final = 0.1
"""Seconds from the end of the allowed silence to the close. If the event loop was blocked, messages
that came meanwhile are read in this time."""


_INTERVALS: Final = 2
"""Intervals of the heartbeat in which a client may be silent: one heartbeat may be late."""


class Client(Protocol):
    """The client of a connection, as the server sees it."""

    heard_at: float
    """The time of its last message, on the clock of `time.monotonic()`."""

    @property
    def is_reading(self) -> bool:
        """True while messages are received. If not, unread messages may be waiting."""

    def expire(self, silence: float) -> None:
        """End the connection of the client, which was silent for `silence` seconds."""


class SilenceTimer:
    """Ends the connection of a client that was silent for two intervals of the heartbeat.

    Messages do not touch the timer, which keeps them cheap. When the timer fires and a message came
    meanwhile, the timer is set again, to the time of that message and two intervals.
    """

    __slots__ = ("_client", "_handle", "_in_grace", "_silence")

    def __init__(self, client: Client, interval: float) -> None:
        self._client = client
        self._silence = _INTERVALS * interval
        self._in_grace = False
        self._set(self._silence)

    def cancel(self) -> None:
        self._handle.cancel()

    def _set(self, delay: float) -> None:
        self._handle = asyncio.get_running_loop().call_later(delay, self._check)

    def _check(self) -> None:
        now = monotonic()
        if not self._client.is_reading:
            # The application is busy, so messages may be unread: the count starts again.
            self._client.heard_at = now
        left = self._client.heard_at + self._silence - now
        if left > 0:
            self._in_grace = False
            self._set(left)
        elif not self._in_grace:
            self._in_grace = True
            self._set(_GRACE)
        else:
            self._client.expire(self._silence)
