"""pysignalr, a client in Python by others, with a hub on a real server.

It negotiates in version 0, and speaks WebSockets only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from pysignalr.client import SignalRClient
from pysignalr.protocol.abstract import Protocol
from pysignalr.protocol.json import JSONProtocol
from pysignalr.protocol.messagepack import MessagepackProtocol

from tests.harness import BOUND, Server

REFUSED = "An unexpected error occurred invoking 'Refuse' on the server. HubException: Not now"


@asynccontextmanager
async def pysignalr(server: Server, protocol: Protocol) -> AsyncIterator[SignalRClient]:
    """A connected client."""
    headers = {"Authorization": "Bearer ada", "X-Tenant": "blue"}
    client = SignalRClient(f"{server.origin}/hub", protocol, headers)
    opened = asyncio.Event()

    async def on_open() -> None:
        opened.set()

    client.on_open(on_open)
    running = asyncio.create_task(client.run())
    try:
        await asyncio.wait_for(opened.wait(), BOUND)
        yield client
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        # It has no end of its own, and leaves its socket open.
        await client._transport._ws.close()


class Heard:
    """What callbacks of pysignalr are given, one after the other."""

    def __init__(self) -> None:
        self._values: asyncio.Queue[Any] = asyncio.Queue()

    async def __call__(self, value: Any) -> None:
        await self._values.put(value)

    async def next(self) -> Any:
        return await asyncio.wait_for(self._values.get(), BOUND)


@pytest.mark.parametrize("protocol", [JSONProtocol, MessagepackProtocol])
async def test_pysignalr_invokes_and_streams_and_is_told_and_asked(
    hub_server: Server, protocol: type[Protocol]
) -> None:
    async with pysignalr(hub_server, protocol()) as client:
        heard, told, errors = Heard(), Heard(), Heard()
        client.on("Told", told)
        client.on_error(errors)

        await client.send("Add", [1, 2], heard)
        assert (await heard.next()).result == 3
        await client.send("Header", ["X-Tenant"], heard)
        assert (await heard.next()).result == "blue"
        await client.send("Who", [], heard)
        assert (await heard.next()).result["user"] == "ada"

        await client.send("Refuse", [], heard)
        assert (await errors.next()).error == REFUSED
        await heard.next()

        await client.stream("Counter", [3], heard, heard, heard)
        assert [await heard.next() for _ in range(3)] == [0, 1, 2]
        assert (await heard.next()).error is None

        await client.send("Tell", ["caller", [], "hello"])
        assert await told.next() == ["hello"]

        async with client.client_stream("JoinAndTell") as stream:
            for part in ("a", "b", "c"):
                await stream.send(part)
        assert await told.next() == ["abc"]

        async def answer(_: Any) -> int:
            return 42

        client.on("AskForNumber", answer)
        await client.send("Ask", ["AskForNumber"], heard)
        assert (await heard.next()).result == 42
    ended = hub_server.wait_for_event
    assert (await asyncio.to_thread(ended, "on_disconnected()", "/hub"))["error"] is None
