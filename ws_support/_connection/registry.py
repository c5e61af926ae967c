"""The open connections of a process, and their drain before it ends."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from ws_support.close_codes import CloseCode

CODE: Final = CloseCode.SERVICE_RESTART
"""The close code of the drain, which tells clients to reconnect. HTMX reconnects after 1012, but
not after 1001, which browsers send when they leave a page."""

REASON: Final = "The server is stopping"


class OpenConnection(Protocol):
    """An entry of the registry: a connection, from its handshake to its end."""

    async def drain(self, code: int, reason: str) -> None:
        """Close an accepted connection. For its application, the client has left.

        Do nothing during the handshake: the registry calls this again after the accept.
        """

    def cancel(self) -> None:
        """Cancel the application of the connection."""


class ConnectionRegistry:
    """The open connections of one process, which has one event loop.

    A connection is added before its application runs, and removed after that. After `drain()`, new
    connections are closed as soon as they are accepted: their handshakes had begun before the
    server stopped listening.
    """

    def __init__(self) -> None:
        self._connections: set[OpenConnection] = set()
        self._is_draining = False
        self._empty: asyncio.Future[None] | None = None
        # asyncio itself keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def is_draining(self) -> bool:
        """True from `drain()` on: who can come later should not come."""
        return self._is_draining

    def add(self, connection: OpenConnection) -> None:
        """Add a connection, before its application runs."""
        self._connections.add(connection)

    def accepted(self, connection: OpenConnection) -> None:
        """Note that the handshake of a connection is done."""
        if self._is_draining:
            self._start_drain(connection)

    def remove(self, connection: OpenConnection) -> None:
        """Remove a connection, after its application has run."""
        self._connections.discard(connection)
        if self._empty is not None and not self._connections:
            self._empty.set_result(None)
            self._empty = None

    def drain(self) -> None:
        """Close all connections with 1012, also those that are accepted later."""
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
"""The registry of this process."""
