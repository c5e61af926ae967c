"""Who is connected to this process, and closing all of them before it ends."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from ws_support.closing import CloseCode

CODE: Final = CloseCode.SERVICE_RESTART
"""What tells clients to come back. HTMX does so after 1012, and not after 1001, which is what a
browser says when it leaves a page."""

REASON: Final = "The server is stopping"


class Guest(Protocol):
    """A connection, from its handshake on."""

    async def dismiss(self, code: int, reason: str) -> None:
        """Close it, if it is accepted; its application hears of it as of a client that has left."""

    def cancel(self) -> None:
        """Cancel its application."""


class ConnectionRegistry:
    """The connections of one process, in one event loop.

    They come and go with `enter()` and `leave()`. From `dismiss_all()` on, whoever is `accepted()`
    is dismissed as well: its handshake was on its way when the server stopped listening.
    """

    def __init__(self) -> None:
        self._guests: set[Guest] = set()
        self._is_over = False
        self._empty: asyncio.Future[None] | None = None
        # asyncio itself refers to its tasks only weakly.
        self._dismissals: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._guests)

    def enter(self, guest: Guest) -> None:
        self._guests.add(guest)

    def accepted(self, guest: Guest) -> None:
        if self._is_over:
            self._dismiss(guest)

    def leave(self, guest: Guest) -> None:
        self._guests.discard(guest)
        if self._empty is not None and not self._guests:
            self._empty.set_result(None)
            self._empty = None

    def dismiss_all(self) -> None:
        """Close all with 1012. They are done when it `is_empty()`."""
        self._is_over = True
        for guest in self._guests:
            self._dismiss(guest)

    def cancel_all(self) -> None:
        for guest in self._guests:
            guest.cancel()

    async def is_empty(self, timeout: float) -> bool:
        """Wait until nobody is left, for at most `timeout` seconds; whether that is so."""
        if self._guests:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=timeout)
            self._empty = None
        return not self._guests

    def _dismiss(self, guest: Guest) -> None:
        task = asyncio.create_task(guest.dismiss(CODE, REASON))
        self._dismissals.add(task)
        task.add_done_callback(self._dismissals.discard)


here: Final = ConnectionRegistry()
"""Those of this process."""
