"""The timer of the heartbeat: how long a client may be silent."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final, Protocol

_GRACE: Final = 0.1
"""Seconds from the end of the silence to the verdict. When something blocked the event loop, the
messages that came meanwhile are read in that time."""


class Client(Protocol):
    """The client of a connection, as its server hears it."""

    heard_at: float
    """When its last message came, on the clock `time.monotonic()`."""

    @property
    def is_reading(self) -> bool:
        """Whether messages are received now. If not, unread ones may be waiting."""

    def expire(self, silence: float) -> None:
        """End the connection: the client was silent for `silence` seconds."""


class SilenceTimer:
    """Ends the connection of a client that was silent for `silence` seconds.

    The timer is set for the end of the silence that is allowed. When it fires and there was a
    message meanwhile, it is set again, counting from that message: messages do not touch it.
    """

    __slots__ = ("_client", "_handle", "_in_grace", "_silence")

    def __init__(self, client: Client, silence: float) -> None:
        self._client = client
        self._silence = silence
        self._in_grace = False
        self._set(silence)

    def cancel(self) -> None:
        self._handle.cancel()

    def _set(self, delay: float) -> None:
        self._handle = asyncio.get_running_loop().call_later(delay, self._check)

    def _check(self) -> None:
        now = monotonic()
        if not self._client.is_reading:
            # The application is busy. What came meanwhile is unread, so the count starts again.
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
