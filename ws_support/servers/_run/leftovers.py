"""Messages that an application sends after its client has gone."""

from __future__ import annotations

import asyncio
from typing import Final

from ws_support.exceptions import ClientGone

MAX_DROPPED: Final = 1000
"""Messages that an application may send after its client has gone."""


class Leftovers:
    """Drops what an application sends after its client has gone.

    Daphne drops such messages, too. Each drop also gives other tasks a turn of the event loop. An
    application that goes on after `MAX_DROPPED` messages gets an `OSError` (ASGI 2.4).
    """

    def __init__(self) -> None:
        self._count = 0

    async def drop(self) -> None:
        self._count += 1
        if self._count > MAX_DROPPED:
            raise ClientGone("The client has gone.")
        # Without this, an application that only sends in a loop would block the event loop.
        await asyncio.sleep(0)
