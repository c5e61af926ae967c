"""Connections that come and go: connect, wait for the 101, close, and again."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks import handshake
from benchmarks.handshake import HOST
from benchmarks.load import LoadFailed
from benchmarks.load.connections import wait
from benchmarks.usage import Usage

_TIMEOUT = 30.0
"""Seconds in which the last connections have to end."""


async def handshakes(
    port: int, processes: list[int], *, concurrency: int, warm_up: float, seconds: float
) -> dict[str, float]:
    """Measure for `seconds`, after `warm_up` seconds of the same, `concurrency` at a time.

    Raises `LoadFailed` when a handshake is refused, or a close is not answered with its code.
    """
    coming_and_going = _ComingAndGoing(port, concurrency)
    await wait(coming_and_going.failed, warm_up)
    before, count = Usage.now(processes), coming_and_going.count
    await wait(coming_and_going.failed, seconds)
    used, count = Usage.now(processes) - before, coming_and_going.count - count
    await coming_and_going.end()
    return {
        "handshakes_per_second": count / used.seconds,
        "cpu_us_per_handshake": used.server / 1e3 / count,
        "server_share": used.server_share,
        "client_share": used.client_share,
    }


class _ComingAndGoing:
    def __init__(self, port: int, concurrency: int) -> None:
        self.port = port
        self.request = handshake.request(port)
        self.count = 0
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._going_on = True
        self._visitors = [asyncio.ensure_future(self._come_and_go()) for _ in range(concurrency)]
        for visitor in self._visitors:
            visitor.add_done_callback(self._left)

    async def _come_and_go(self) -> None:
        loop = asyncio.get_running_loop()
        while self._going_on:
            ended: asyncio.Future[None] = loop.create_future()
            await loop.create_connection(lambda: _Visit(self.request, ended), HOST, self.port)  # noqa: B023
            await ended
            self.count += 1

    def _left(self, visitor: asyncio.Future[None]) -> None:
        if not visitor.cancelled() and (error := visitor.exception()) and not self.failed.done():
            self.failed.set_exception(error)

    async def end(self) -> None:
        self._going_on = False
        _, pending = await asyncio.wait(self._visitors, timeout=_TIMEOUT)
        if pending:
            raise LoadFailed(f"{len(pending)} connections did not end in {_TIMEOUT:g} s.")


class _Visit(asyncio.Protocol):
    """One connection, not with picows: there is nothing to do but the two handshakes."""

    def __init__(self, request: bytes, ended: asyncio.Future[None]) -> None:
        self._request = request
        self._ended = ended
        self._received = b""
        self._is_open = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._is_open:
            return
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        if not handshake.is_accepted(head):
            self._end(LoadFailed(f"Not accepted: {head[:200]!r}"))
            self._transport.abort()
            return
        self._is_open = True
        self._received = rest
        self._transport.write(handshake.CLOSE)

    def connection_lost(self, error: Exception | None) -> None:
        # The server is the one that ends the TCP connection (RFC 6455, section 7.1.1): it is done.
        answer = self._received.removeprefix(handshake.PING)
        if answer == handshake.CLOSED and error is None:
            self._end(None)
        else:
            self._end(LoadFailed(f"Not the answer to a close: {self._received[:200]!r}, {error!r}"))

    def _end(self, failure: LoadFailed | None) -> None:
        if self._ended.done():
            return
        if failure is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(failure)
