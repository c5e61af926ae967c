"""Connections that come and go: connect, wait for the 101, close, and again."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks import handshake
from benchmarks.handshake import HOST
from benchmarks.load import LoadFailed
from benchmarks.load.connections import wait, wait_until
from benchmarks.usage import Usage


async def handshakes(
    port: int, processes: list[int], *, path: str, concurrency: int, warm_up: float, seconds: float
) -> dict[str, float]:
    """Measure for `seconds`, after `warm_up` seconds of the same, `concurrency` at a time.

    Raises `LoadFailed` when a handshake is refused, or a close is not answered with its code.
    """
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    request = handshake.request(port, path)
    count = 0
    goes_on = True

    async def come_and_go() -> None:
        nonlocal count
        while goes_on:
            ended: asyncio.Future[None] = loop.create_future()
            try:
                await loop.create_connection(lambda: _Visit(request, ended), HOST, port)  # noqa: B023
                await ended
            except (LoadFailed, OSError) as error:
                if not failed.done():
                    failed.set_exception(LoadFailed(str(error)))
                return
            count += 1

    visitors = [asyncio.ensure_future(come_and_go()) for _ in range(concurrency)]
    await wait(failed, warm_up)
    before, count = Usage.now(processes), 0
    await wait(failed, seconds)
    figures = (Usage.now(processes) - before).figures(count)
    goes_on = False
    await wait_until(asyncio.gather(*visitors), failed)
    return figures


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
        if self._is_open or b"\r\n\r\n" not in self._received:
            return
        head, _, rest = self._received.partition(b"\r\n\r\n")
        if handshake.is_accepted(head):
            self._is_open = True
            self._received = rest
            self._transport.write(handshake.CLOSE)
        else:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        # The server is the one that ends the TCP connection (RFC 6455, section 7.1.1): it is done.
        if self._received.removeprefix(handshake.PING) == handshake.CLOSED and error is None:
            self._ended.set_result(None)
        else:
            what = (
                f"Not accepted, or not closed as it should be: {self._received[:200]!r}, {error!r}"
            )
            self._ended.set_exception(LoadFailed(what))
