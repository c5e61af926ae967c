"""What was read and is not handled yet."""

from __future__ import annotations

import asyncio
from typing import Any, Final

MAX_MESSAGES: Final = 64
MAX_SIZE: Final = 2**20
"""With so many messages, or characters and bytes of them, it is full."""


class Inbox:
    """The messages of several sources, in the order in which they came, for one reader.

    It never refuses a message: sources that find it full wait for `room()`.
    """

    __slots__ = ("_messages", "_room", "_size", "_wanted")

    def __init__(self) -> None:
        # No deque: that takes 600 bytes to begin with, and there is one for each connection.
        self._messages: list[tuple[dict[str, Any], int]] = []
        self._size = 0
        self._wanted: asyncio.Future[None] | None = None
        self._room: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        return len(self._messages) >= MAX_MESSAGES or self._size >= MAX_SIZE

    def put(self, message: dict[str, Any], size: int = 0) -> None:
        self._messages.append((message, size))
        self._size += size
        if self._wanted is not None:
            self._wanted.set_result(None)
            self._wanted = None

    async def room(self) -> None:
        """Wait until it is not full any more."""
        if self._room is None:
            self._room = asyncio.Event()
        await self._room.wait()

    async def get(self) -> dict[str, Any]:
        """The oldest message, when there is one."""
        if not self._messages:
            self._wanted = asyncio.get_running_loop().create_future()
            try:
                await self._wanted
            finally:
                self._wanted = None
        message, size = self._messages.pop(0)
        self._size -= size
        if self._room is not None and not self.is_full:
            self._room.set()
            self._room = None
        return message
