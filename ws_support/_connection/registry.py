"""The open connections of a process, and their drain before it ends."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from ws_support.close_codes import CloseCode

CODE: Final = CloseCode.SERVICE_RESTART
"""The close code that tells clients to come back. HTMX does so after 1012, and not after 1001, with
which a browser leaves a page."""

REASON: Final = "The server is stopping"


class OpenConnection(Protocol):
    """A connection, from its handshake to its end."""

    async def drain(self, code: int, reason: str) -> None:
        """Close an accepted connection; its application hears of it as of a client that has left.

        Does nothing during the handshake: the registry asks again when it is accepted.
        """

    def cancel(self) -> None:
        """Cancel the application of the connection."""


class ConnectionRegistry:
    """The connections of one process, in one event loop.

    A connection is added before its application runs, and removed after. From `drain()` on,
    connections are closed as soon as they are accepted: their handshakes were on their way when the
    server stopped listening.
    """

    def __init__(self) -> None:
        self._connections: set[OpenConnection] = set()
        self._is_draining = False
        self._empty: asyncio.Future[None] | None = None
        # asyncio itself refers to its tasks only weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: OpenConnection) -> None:
        self._connections.add(connection)

    def accepted(self, connection: OpenConnection) -> None:
        """Note that the handshake of a connection is done."""
        if self._is_draining:
            self._start_drain(connection)

    def remove(self, connection: OpenConnection) -> None:
        self._connections.discard(connection)
        if self._empty is not None and not self._connections:
            self._empty.set_result(None)
            self._empty = None

    def drain(self) -> None:
        """Close all connections with 1012, and those that are accepted from now on."""
        self._is_draining = True
        for connection in self._connections:
            self._start_drain(connection)

    def cancel(self) -> None:
        """Cancel the applications of all connections that are left."""
        for connection in self._connections:
            connection.cancel()

    async def wait_until_empty(self, timeout: float) -> bool:
        """Wait for at most `timeout` seconds. Return True if no connection is left."""
        if self._connections:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=timeout)
            self._empty = None
        return not self._connections

    def _start_drain(self, connection: OpenConnection) -> None:
        task = asyncio.create_task(connection.drain(CODE, REASON))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


open_connections: Final = ConnectionRegistry()
"""The connections of this process."""
