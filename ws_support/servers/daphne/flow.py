"""Flow control for Daphne, in both directions: a receive queue and an outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from ws_support._queued_text import packed, size, unpacked

MAX_MESSAGES: Final = 32
MAX_SIZE: Final = 64 * 1024
"""Limits of what may wait for the application: messages, and their characters or bytes."""


class ReceiveQueue(asyncio.Queue[dict[str, Any]]):
    """Queue of the client's messages for the application.

    The queue takes every message, and `is_full` is true when there are too many. When the
    application has received all of them, `on_empty` is called in the next turn of the event loop,
    so that a client that floods its application does not hold up other connections.
    """

    def __init__(self, on_empty: Callable[[], None]) -> None:
        super().__init__()
        self._on_empty = on_empty
        self._unread = 0
        self._was_full = False

    @property
    def is_full(self) -> bool:
        return self.qsize() >= MAX_MESSAGES or self._unread >= MAX_SIZE

    # The methods that asyncio's own kinds of queues override.

    def _put(self, message: dict[str, Any]) -> None:
        message = packed(message)
        super()._put(message)
        self._unread += size(message)
        if self.is_full:
            self._was_full = True

    def _get(self) -> dict[str, Any]:
        message = super()._get()
        self._unread -= size(message)
        if self._was_full and self.empty():
            self._was_full = False
            asyncio.get_running_loop().call_soon(self._on_empty)
        return unpacked(message)


class Outbox:
    """Flow control of what is sent to the client.

    The outbox is the producer that a Twisted transport pauses while its buffer holds more than 64
    KiB.
    """

    def __init__(self, on_writable: Callable[[], None]) -> None:
        self._on_writable = on_writable
        self._room: asyncio.Future[None] | None = None

    @property
    def is_full(self) -> bool:
        return self._room is not None

    async def room(self) -> None:
        """Wait until the client has read enough, or has gone."""
        while self._room is not None:
            await asyncio.shield(self._room)

    def pauseProducing(self) -> None:
        if self._room is None:
            self._room = asyncio.get_running_loop().create_future()

    def resumeProducing(self) -> None:
        self.stopProducing()
        self._on_writable()

    def stopProducing(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set_result(None)
