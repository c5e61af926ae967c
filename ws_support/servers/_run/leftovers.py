"""What an application sends when its client has gone."""

from __future__ import annotations

import asyncio
from typing import Final

from ws_support.exceptions import ClientGone

MAX_DROPPED: Final = 1000
"""Messages that an application may send when its client has gone."""


class Leftovers:
    """What an application sends when its client has gone.

    It is dropped, as by Daphne, and others have their turn. Who goes on for long does nothing else,
    and gets an `OSError` (ASGI 2.4).
    """

    def __init__(self) -> None:
        self._count = 0

    async def drop(self) -> None:
        self._count += 1
        if self._count > MAX_DROPPED:
            raise ClientGone("The client has gone.")
        # Otherwise a loop that only sends would have the event loop for itself.
        await asyncio.sleep(0)
