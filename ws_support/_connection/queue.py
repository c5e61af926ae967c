"""The queue of messages that were received and are not handled yet."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from ws_support._queued_text import as_utf_8

MAX_MESSAGES: Final = 64
"""Messages with which the queue is full."""

MAX_SIZE: Final = 2**20
"""Bytes of memory, for all messages together, with which the queue is full."""

_SLACK: Final = 2**12
"""Bytes of memory that UTF-8 has to save. Otherwise a text is kept as it is."""


class MessageQueue:
    """A queue of messages from several sources, in the order in which they came, for one reader.

    `put()` never refuses a message. A source that finds the queue full waits for `room()`.
    """

    __slots__ = ("_messages", "_room", "_size", "_wanted")

    def __init__(self) -> None:
        # A list, since an empty deque takes 600 bytes and each connection may have a queue. Each
        # entry: the message, the bytes that it takes, and its text if that is kept as UTF-8.
        self._messages: list[tuple[dict[str, Any], int, bytes | None]] = []
        self._size = 0
        self._wanted: asyncio.Future[None] | None = None
        self._room: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        """True if sources have to wait."""
        return len(self._messages) >= MAX_MESSAGES or self._size >= MAX_SIZE

    def put(self, message: dict[str, Any]) -> None:
        """Add a message, also if the queue is full."""
        text, encoded = message.get("text"), None
        # A message from a channel layer may have values of any type under these names.
        if not isinstance(text, str):
            data = message.get("bytes")
            size = len(data) if isinstance(data, bytes) else 0
        elif text.isascii():
            size = len(text)
        else:
            encoded = as_utf_8(text, _SLACK)
            if encoded is None:
                size = sys.getsizeof(text)
            else:
                message, size = {**message, "text": None}, len(encoded)
        self._messages.append((message, size, encoded))
        self._size += size
        # The task that waits may be cancelled already, and just not have run since.
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    async def room(self) -> None:
        """Wait until the queue is no longer full."""
        if self._room is None:
            self._room = asyncio.Event()
        await self._room.wait()

    async def filled(self) -> None:
        """Wait for a message, but do not take it, so that a cancellation loses none."""
        while not self._messages:
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted

    def take(self) -> dict[str, Any]:
        """Remove and return the oldest message. Raises `IndexError` if there is none."""
        message, size, encoded = self._messages.pop(0)
        self._size -= size
        if encoded is not None:
            message["text"] = encoded.decode("utf-8", "surrogatepass")
        if self._room is not None and not self.is_full:
            self._room.set()
            self._room = None
        return message

    async def get(self) -> dict[str, Any]:
        """Wait for a message, and remove and return the oldest one."""
        if not self._messages:
            await self.filled()
        return self.take()
