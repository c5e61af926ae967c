"""The transport over server-sent events: a response that does not end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from ws_support._hubs.connection import HubConnection
from ws_support._hubs.ends import End
from ws_support._hubs.protocols.base import HubProtocol
from ws_support._hubs.published import Published

HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache,no-store"),
    (b"pragma", b"no-cache"),
    (b"content-encoding", b"identity"),  # No middleware may compress it: that would hold it back.
    (b"x-accel-buffering", b"no"),  # Nor may nginx keep it.
)

_LAST_TIMEOUT: Final = 0.5
"""Seconds that sending the end of the response may take."""

_SHORTEST: Final = 0.2
"""Seconds that a response lasts at least. A client of Microsoft's whose event stream ends while it
starts waits for ever: it neither fails nor connects again."""

_HELLO: Final = b":\r\n"
"""A comment: clients wait for the first byte."""


class EventStreamTransport:
    """Carries what goes to the client. What comes from the client are requests of their own."""

    def __init__(
        self,
        connection: HubConnection,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._receive = receive
        self._send = send
        loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._is_finishing = False
        self._finished: asyncio.Future[None] = loop.create_future()

    async def run(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer the request, until the connection ends or the client has gone."""
        connection = self._connection
        loop = asyncio.get_running_loop()
        gone = asyncio.ensure_future(self._wait_until_gone())
        connection.attach(self)
        try:
            start = {"type": "http.response.start", "status": 200, "headers": [*HEADERS, *headers]}
            timeout = connection.options.transport_send_timeout
            await asyncio.wait_for(self._send(start), timeout)
            began_at = loop.time()
            await asyncio.wait_for(self._write(_HELLO), timeout)
            # A server that stops says that the client has gone, which still gets the Close message.
            while not gone.done() or connection.is_ending:
                self._news.clear()
                if connection.has_output:
                    await asyncio.wait_for(self._write(as_events(connection.take())), timeout)
                elif self._is_finishing or gone.done():
                    break
                else:
                    await self._wait_for_news(gone)
            if self._is_finishing:
                await asyncio.sleep(began_at + _SHORTEST - loop.time())
        except asyncio.CancelledError:
            connection.end(End(allow_reconnect=True, is_restart=True, is_told=False))
            raise
        except Exception as error:
            connection.lost(error)
        finally:
            gone.cancel()
            await asyncio.wait([gone], timeout=1)
            connection.lost()
            self._finished.set_result(None)
        if self._is_finishing:
            last = {"type": "http.response.body", "body": b"", "more_body": False}
            # Full buffers of a client that has been given up would block it for ever.
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._send(last), _LAST_TIMEOUT)
        await connection.wait_closed()

    async def _wait_for_news(self, gone: asyncio.Future[None]) -> None:
        """Wait until there is something to write, or the end."""
        news: asyncio.Future[Any] = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait([news, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    async def _wait_until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _write(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def notify(self) -> None:
        self._news.set()

    def write_shared(self, published: Published, protocol: HubProtocol) -> bool:
        return False

    async def finish(self, end: End) -> None:
        self._is_finishing = True
        self._news.set()
        await asyncio.wait([self._finished])

    def drop(self) -> None:
        """Do nothing: no other request takes the place of an event stream."""


def as_events(data: bytes) -> bytes:
    """Return whole messages as one event. Line ends within would end the event."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join([b"data: %b\r\n" % line for line in lines]) + b"\r\n"
