"""Connections that come and go: connect, wait for the 101, close, and again."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any, Final

from benchmarks import Failed
from benchmarks.applications import HOST, ORIGIN
from benchmarks.load.connections import wait, wait_until
from benchmarks.usage import Meter

_KEY: Final = base64.b64encode(b"0123456789abcdef")
_ACCEPT: Final = base64.b64encode(
    hashlib.sha1(_KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
)
_CLOSE: Final = b"\x88\x82" + bytes(4) + b"\x03\xe8"
"""A close frame of a client, with 1000. A mask of zeros is a mask."""
_CLOSED: Final = b"\x88\x02\x03\xe8"
"""How a server answers it."""
_PING: Final = b"\x89\x00"
"""Hypercorn's, which it sends at once when it is told to send some."""


async def handshakes(
    port: int, processes: list[int], *, path: str, concurrency: int, warm_up: float, seconds: float
) -> dict[str, float]:
    """Measure for `seconds`, after `warm_up` seconds of the same, `concurrency` at a time.

    Raises `Failed` when a handshake is refused, or a close is not answered with its code.
    """
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    request = _request(port, path)
    count = 0
    goes_on = True

    async def come_and_go() -> None:
        nonlocal count
        while goes_on:
            ended: asyncio.Future[None] = loop.create_future()
            try:
                await loop.create_connection(lambda: _Visit(request, ended), HOST, port)  # noqa: B023
                await ended
            except (Failed, OSError) as error:
                if not failed.done():
                    failed.set_exception(Failed(str(error)))
                return
            count += 1

    visitors = [asyncio.ensure_future(come_and_go()) for _ in range(concurrency)]
    await wait(failed, warm_up)
    meter, count = Meter(processes), 0
    await wait(failed, seconds)
    figures = meter.figures(count)
    goes_on = False
    await wait_until(asyncio.gather(*visitors), failed)
    return figures


def _request(port: int, path: str) -> bytes:
    """Return an opening handshake (RFC 6455, section 4.1), which is the same each time."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {HOST}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {_KEY.decode()}",
        f"Origin: {ORIGIN}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


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
        # Without compression, which nobody asked for.
        self._is_open = (
            head.startswith(b"HTTP/1.1 101 ")
            and _ACCEPT in head
            and b"sec-websocket-extensions" not in head.lower()
        )
        if self._is_open:
            self._received = rest
            self._transport.write(_CLOSE)
        else:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        # The server is the one that ends the TCP connection (RFC 6455, section 7.1.1): it is done.
        if self._received.removeprefix(_PING) == _CLOSED and error is None:
            self._ended.set_result(None)
        else:
            what = f"Not accepted, or not closed in order: {self._received[:200]!r}, {error!r}"
            self._ended.set_exception(Failed(what))
