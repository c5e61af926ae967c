"""What was read and is not handled yet."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

MAX_MESSAGES: Final = 64
MAX_SIZE: Final = 2**20
"""With so many messages, or bytes that they take in memory, it is full."""

_WIDE: Final = 2**12
"""Bytes that a text may take more than it has characters, and is kept as it is."""


class MessageQueue:
    """The messages of several sources, in the order in which they came, for one reader.

    It never refuses a message: sources that find it full wait for `room()`.
    """

    __slots__ = ("_messages", "_room", "_size", "_wanted")

    def __init__(self) -> None:
        # No deque: that takes 600 bytes to begin with, and there is one for each connection.
        # With each, the bytes that it takes, and its text where that is kept as UTF-8.
        self._messages: list[tuple[dict[str, Any], int, bytes | None]] = []
        self._size = 0
        self._wanted: asyncio.Future[None] | None = None
        self._room: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        return len(self._messages) >= MAX_MESSAGES or self._size >= MAX_SIZE

    def put(self, message: dict[str, Any]) -> None:
        text, encoded = message.get("text"), None
        # What comes from a channel layer may have anything under these names.
        if not isinstance(text, str):
            data = message.get("bytes")
            size = len(data) if isinstance(data, bytes) else 0
        elif text.isascii():
            size = len(text)
        else:
            size = sys.getsizeof(text)
            # One character takes as much as each of the others does.
            if size > len(text) + _WIDE:
                encoded = text.encode("utf-8", "surrogatepass")
                message, size = {**message, "text": None}, len(encoded)
        self._messages.append((message, size, encoded))
        self._size += size
        # Whoever has waited may have been cancelled, and not have run since.
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    async def room(self) -> None:
        """Wait until it is not full any more."""
        if self._room is None:
            self._room = asyncio.Event()
        await self._room.wait()

    async def filled(self) -> None:
        """Wait until there is a message. Takes none, so that none is lost by a cancellation."""
        while not self._messages:
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted

    def take(self) -> dict[str, Any]:
        """The oldest message. Raises `IndexError` when there is none."""
        message, size, encoded = self._messages.pop(0)
        self._size -= size
        if encoded is not None:
            message["text"] = encoded.decode("utf-8", "surrogatepass")
        if self._room is not None and not self.is_full:
            self._room.set()
            self._room = None
        return message

    async def get(self) -> dict[str, Any]:
        """The oldest message, when there is one."""
        if not self._messages:
            await self.filled()
        return self.take()
