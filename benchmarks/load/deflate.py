"""Connections that compress, or do not: what they cost, and what they save."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final

from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Origin
from websockets.uri import parse_uri

from benchmarks.handshake import HOST, ORIGIN, PATH
from benchmarks.load import LoadFailed
from benchmarks.load.connections import wait, wait_for_all
from benchmarks.load.documents import documents
from benchmarks.usage import Usage, private_memory

_DOCUMENTS: Final = 500
"""Different messages. A server that has seen one has forgotten it when it comes again: the largest
window is that of 32 messages of 1 KiB."""

_AT_ONCE: Final = 50
"""Handshakes under way at a time."""


async def deflate(
    port: int,
    processes: list[int],
    *,
    is_offered: bool,
    is_expected: bool,
    connections: int,
    exchanged: int,
    concurrency: int,
    message_size: int,
    warm_up: float,
    seconds: float,
) -> dict[str, float]:
    """Measure what `connections` add to the server, which have echoed `exchanged` documents of
    `message_size` characters each and then are idle; and for `seconds` what a message costs over
    `concurrency` of them, after `warm_up` seconds of the same.

    The client offers permessage-deflate as browsers do, if `is_offered`. A quarter as many
    connections are there before, as in `memory`.

    Bytes are those of frames with their heads, as TCP carries them.

    Raises `LoadFailed` when the server agrees to compression otherwise than `is_expected`, does not
    compress what it said it would, sends something else back, or loses a connection.
    """
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    texts = [document.encode() for document in documents(_DOCUMENTS, message_size)]

    async def used_connections(count: int) -> list[_Client]:
        room = asyncio.Semaphore(_AT_ONCE)

        async def connect(number: int) -> _Client:
            async with room:
                # Each begins with another one.
                turns = cycle(texts[number % _DOCUMENTS :] + texts[: number % _DOCUMENTS])
                return await _Client.connect(port, is_offered, turns, failed)

        opened = await asyncio.gather(*map(connect, range(count)))
        await wait_for_all([client.exchange(exchanged) for client in opened], failed)
        return opened

    first = await used_connections(connections // 4)
    before = private_memory(processes)
    others = await used_connections(connections)
    added = private_memory(processes) - before
    for client in others:
        if client.is_compressed != is_expected:
            raise LoadFailed(f"Compression is {client.is_compressed} instead of {is_expected}.")
    busy = others[:concurrency]
    done = [client.exchange(None) for client in busy]
    await wait(failed, warm_up)
    start, used_before = _Totals.of(busy), Usage.now(processes)
    await wait(failed, seconds)
    used, totals = Usage.now(processes) - used_before, _Totals.of(busy) - start
    for client in busy:
        client.stop()
    await wait_for_all(done, failed)
    for client in (*first, *others):
        client.leave()
    await wait_for_all([client.lost for client in (*first, *others)], failed)
    sent, received = totals.sent / totals.count, totals.received / totals.count
    for name, size in {"sent": sent, "received": received}.items():
        if (size < message_size) != is_expected:
            raise LoadFailed(f"{size:.0f} bytes were {name} for a message of {message_size}.")
    return {
        "bytes_per_connection": added / connections,
        "bytes_before": before,
        "cpu_us_per_message": used.server / 1e3 / totals.count,
        "bytes_sent_per_message": sent,
        "bytes_received_per_message": received,
        "messages_per_second": totals.count / used.seconds,
    }


class _Totals:
    def __init__(self, count: int, sent: int, received: int) -> None:
        self.count = count
        self.sent = sent
        self.received = received

    @classmethod
    def of(cls, clients: Sequence[_Client]) -> _Totals:
        return cls(
            sum(client.count for client in clients),
            sum(client.bytes_sent for client in clients),
            sum(client.bytes_received for client in clients),
        )

    def __sub__(self, earlier: _Totals) -> _Totals:
        return _Totals(
            self.count - earlier.count,
            self.sent - earlier.sent,
            self.received - earlier.received,
        )


class _Client(asyncio.Protocol):
    """The protocol is that of `websockets`, which compresses; the bytes are counted here."""

    def __init__(
        self, port: int, is_offered: bool, texts: cycle[bytes], failed: asyncio.Future[None]
    ) -> None:
        self.count = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._texts = texts
        self._failed = failed
        self._expected = b""
        self._left: int | None = 0
        self._done: asyncio.Future[None] | None = None
        self._leaving = False
        self._protocol = ClientProtocol(
            parse_uri(f"ws://{HOST}:{port}{PATH}"),
            origin=Origin(ORIGIN),
            # An empty list would become an empty header, which is none.
            extensions=[ClientPerMessageDeflateFactory()] if is_offered else None,
        )

    @classmethod
    async def connect(
        cls, port: int, is_offered: bool, texts: cycle[bytes], failed: asyncio.Future[None]
    ) -> _Client:
        client = cls(port, is_offered, texts, failed)
        await asyncio.get_running_loop().create_connection(lambda: client, HOST, port)
        await wait_for_all([client.open], failed)
        return client

    @property
    def is_compressed(self) -> bool:
        return bool(self._protocol.extensions)

    def exchange(self, count: int | None) -> asyncio.Future[None]:
        """Echo `count` texts one after the other, or, when it is `None`, until `stop()`; done when
        the last has come back."""
        self._left = count
        self._done = asyncio.get_running_loop().create_future()
        self._send_next()
        return self._done

    def stop(self) -> None:
        self._left = 1

    def leave(self) -> None:
        self._leaving = True
        self._protocol.send_close(1000)
        self._flush()

    # What asyncio calls.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if not isinstance(event, Frame):
                self._answered()
            elif event.opcode is Opcode.TEXT:
                self._echoed(event)
            elif event.opcode is Opcode.CLOSE and not self._leaving:
                self._fail(f"The server closed: {event}")
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._leaving:
            self._fail(f"The server cut off a connection: {error!r}")
        self.lost.set_result(None)

    def _answered(self) -> None:
        if self._protocol.state is State.OPEN:
            self.open.set_result(None)
        else:
            self._fail(f"No connection: {self._protocol.handshake_exc!r}")

    def _echoed(self, frame: Frame) -> None:
        if frame.data != self._expected:
            self._fail(f"Not an echo of {self._expected!r}: {frame}")
            return
        self.count += 1
        if self._left is not None:
            self._left -= 1
        if self._left == 0:
            if self._done is not None:
                self._done.set_result(None)
        else:
            self._send_next()

    def _send_next(self) -> None:
        self._expected = next(self._texts)
        self._protocol.send_text(self._expected)
        self._flush()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.bytes_sent += len(data)
                self._transport.write(data)
            else:
                self._transport.write_eof()

    def _fail(self, reason: str) -> None:
        if not self._failed.done():
            self._failed.set_exception(LoadFailed(reason))
