"""The transport over long polling: one request after the other, each answered with what waits."""

from __future__ import annotations

import asyncio
from typing import Any

from ws_support._hubs.connection import HubConnection
from ws_support._hubs.ends import End
from ws_support._hubs.protocols.base import HubProtocol
from ws_support._hubs.published import Published


class LongPollingTransport:
    """Carries a connection over polls, of which one at a time waits.

    Between two polls nothing is attached to the connection, and it lives on for a while.
    """

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection
        self._news: asyncio.Future[None] | None = None
        """What the newest poll waits for."""
        self._is_finishing = False
        self._fetched: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._generation = 0
        """Counts polls. An older one gets nothing any more."""
        self._is_dropped = False
        connection.attach(self)

    async def poll(self, ended: asyncio.Future[bool]) -> bytes | None:
        """Return what waits for the client, as soon as there is something.

        Return b"" when the time of a poll is over, and None if the connection has ended or a newer
        poll has come. `ended` is done when there is nobody to wait for: its result is True if the
        client of this poll can still be answered.
        """
        connection = self._connection
        self._generation += 1
        generation = self._generation
        self.notify()  # For the poll before.
        connection.is_back()
        until = asyncio.get_running_loop().time() + connection.options.poll_timeout
        try:
            while True:
                if generation != self._generation or (ended.done() and not ended.result()):
                    return None
                if connection.has_output:
                    if self._is_finishing:
                        self._note_fetched()
                    return connection.take()
                if self._is_finishing:
                    self._note_fetched()
                    return None
                if ended.done():
                    # Before the handshake, see below.
                    return None if connection.is_before_handshake else b""
                left = until - asyncio.get_running_loop().time()
                if left <= 0:
                    if connection.is_before_handshake:
                        # An empty answer here would kill a client that speaks MessagePack.
                        until += connection.options.poll_timeout
                        continue
                    return b""
                self._news = asyncio.get_running_loop().create_future()
                events: list[asyncio.Future[Any]] = [self._news, ended]
                await asyncio.wait(events, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if generation == self._generation:
                connection.is_left()

    def notify(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def write_shared(self, published: Published, protocol: HubProtocol) -> bool:
        return False

    def _note_fetched(self) -> None:
        if not self._fetched.done():
            self._fetched.set_result(None)

    async def finish(self, end: End) -> None:
        self._is_finishing = True
        self.notify()
        if self._connection.has_output and not self._is_dropped:
            await asyncio.wait([self._fetched])

    def drop(self) -> None:
        """End the connection as its client asks for. The poll that waits gets nothing more."""
        self._is_dropped = True
        self._connection.end(End(is_told=False))
        self._generation += 1
        self.notify()
        self._note_fetched()  # Nobody fetches the answer to a Close message that came before.
