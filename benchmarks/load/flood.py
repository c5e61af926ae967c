"""A client that sends as fast as it can and never reads, and another one that suffers from it."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from statistics import median
from time import perf_counter_ns
from typing import Final

from picows import WSMsgType

from benchmarks.load import LoadFailed
from benchmarks.load.connections import Connection, connect, wait, wait_for_all
from benchmarks.load.kinds import KINDS, Kind
from benchmarks.load.sockets import open_socket, receive
from benchmarks.usage import forget_peak, peak_memory, resident_memory

_WARM_UP: Final = (*[100] * 50, *[2**20] * 20)
"""Bytes of the messages that are echoed before: whoever has had the largest ones is as large as it
has to be."""

_SETTLE: Final = 0.2
"""Seconds between the last of them and the flood."""

_AT_ONCE: Final = 2**18
"""Bytes that are written at a time, so that the second client has its turns."""

_GLANCE: Final = 0.01
"""Seconds to see whether there is anything to read."""

_PING: Final = 0x89
"""The first byte of a ping, which a server may send at any time."""

_PATIENCE: Final = 10.0
"""Seconds for what has not been answered when the flood is over."""


async def flood(
    port: int,
    processes: list[int],
    *,
    kind: str,
    seconds: float,
    interval: float,
    limit: float,
) -> dict[str, float]:
    """Flood the server for `seconds`, or until it has grown by `limit` bytes, while a second client
    sends a message every `interval` seconds, whether the last one has come back or not.

    Growth is that of the resident memory, at its peak, over what it was after the warm-up. What is
    not answered within the patience that is left at the end counts with the time until then.

    Raises `LoadFailed` when the second client gets something else back, when either connection is
    lost, and when what the flood should have caused is not there to be read after it.
    """
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    at_first = resident_memory(processes)
    (second,) = await connect(port, lambda _: _Second(failed), 1, 0)
    for size in _WARM_UP:
        second.send_text(b"x" * size)
        await wait_for_all([second.answered()], failed)
    await wait(failed, _SETTLE)
    second.latencies.clear()
    before = resident_memory(processes)
    forget_peak(processes)
    flooder = await _Flooder.connect(port, KINDS[kind])
    begun_at = perf_counter_ns()
    flooder.start()
    late = 0
    while (now := perf_counter_ns()) < begun_at + seconds * 1e9:
        if resident_memory(processes) - before > limit:
            break
        flooder.check()
        due = now + int(interval * 1e9)
        second.send_text(b"%08d" % second.count)
        await wait(failed, interval)
        late = max(late, perf_counter_ns() - due)
    flooder.stop()
    elapsed = (perf_counter_ns() - begun_at) / 1e9
    grown = peak_memory(processes) - before
    either = {second.answered(), failed}
    await asyncio.wait(either, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        failed.result()
    await flooder.prove()
    flooder.close()
    latencies = sorted(second.latencies + second.waiting_times())
    second.leaving = True
    second.transport.disconnect()
    return {
        "bytes_grown": grown,
        "bytes_grown_per_second": grown / elapsed,
        "bytes_sent": flooder.sent,
        "seconds": elapsed,
        "second_latency_p50_us": median(latencies) / 1e3,
        "second_latency_p99_us": latencies[len(latencies) * 99 // 100] / 1e3,
        "second_latency_worst_us": latencies[-1] / 1e3,
        "second_unanswered": len(second.waiting_times()),
        "client_late_worst_us": late / 1e3,
        "bytes_before": before,
        "bytes_of_warm_up": before - at_first,
    }


class _Second(Connection):
    """Sends without waiting, and expects the echoes in order."""

    def __init__(self, failed: asyncio.Future[None]) -> None:
        super().__init__(b"", failed)
        self.count = 0
        self.latencies: list[int] = []
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._answered: asyncio.Future[None] | None = None

    def send_text(self, message: bytes) -> None:
        self.count += 1
        self._waiting.append((message, perf_counter_ns()))
        self.message = self._waiting[0][0]
        self.transport.send(WSMsgType.TEXT, message)

    def echoed(self) -> None:
        if not self._waiting:
            self.fail("The server sent an echo twice.")
            return
        _, sent_at = self._waiting.popleft()
        self.latencies.append(perf_counter_ns() - sent_at)
        if self._waiting:
            self.message = self._waiting[0][0]
        elif self._answered is not None:
            self._answered.set_result(None)
            self._answered = None

    def answered(self) -> asyncio.Future[None]:
        """Done when all is answered."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiting:
            self._answered = future
        else:
            future.set_result(None)
        return future

    def waiting_times(self) -> list[int]:
        """Nanoseconds for which each message that is not answered has been waiting."""
        now = perf_counter_ns()
        return [now - sent_at for _, sent_at in self._waiting]


class _Flooder:
    def __init__(self, kind: Kind, connection: socket.socket) -> None:
        self.sent = 0
        """Bytes of the flood."""
        self._kind = kind
        self._socket = connection
        self._error: OSError | None = None
        # Whole messages, so that it can begin again at the end.
        times = -(-_AT_ONCE // len(kind.message)) if kind.message else 0
        self._chunk = memoryview(kind.message * times)
        self._position = 0

    @classmethod
    async def connect(cls, port: int, kind: Kind) -> _Flooder:
        connection = await open_socket(port, kind.path)
        flooder = cls(kind, connection)
        if kind.opening:
            await asyncio.get_running_loop().sock_sendall(connection, kind.opening)
            await flooder._expect(kind.opened)
        return flooder

    def start(self) -> None:
        if self._chunk:
            asyncio.get_running_loop().add_writer(self._socket, self._write)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_writer(self._socket)

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._chunk[self._position : self._position + _AT_ONCE])
        except BlockingIOError:
            return
        except OSError as error:
            self._error = error
            self.stop()
            return
        self.sent += sent
        self._position = (self._position + sent) % len(self._chunk)

    def check(self) -> None:
        if self._error is not None:
            raise LoadFailed(f"The server cut off the flood after {self.sent} bytes: {self._error}")

    async def prove(self) -> None:
        """Read what the flood has caused."""
        self.check()
        kind = self._kind
        if kind.message and self.sent < len(kind.message):
            raise LoadFailed(f"A flood of {self.sent} bytes is none.")
        if kind.ending:
            # The rest of the message that is on its way, first.
            rest = -self.sent % len(kind.message)
            end = kind.message[len(kind.message) - rest :] + kind.ending
            await asyncio.wait_for(
                asyncio.get_running_loop().sock_sendall(self._socket, end), _PATIENCE
            )
            self.sent += rest
        expected = kind.unread(self.sent // len(kind.message) if kind.message else 0)
        if expected:
            await self._expect(expected)
        elif (frame := await self._frame(_GLANCE)) is not None:
            raise LoadFailed(f"The server sent {frame[:50]!r} to a client that expected nothing.")

    async def _expect(self, expected: bytes) -> None:
        frame = await self._frame(_PATIENCE)
        if frame != expected:
            raise LoadFailed(
                f"The flood was answered with {frame and frame[:50]!r} instead of"
                f" {expected[:50]!r}, in {_PATIENCE:g} s."
            )

    async def _frame(self, patience: float) -> bytes | None:
        """The next frame that is no ping; `None` when none begins within `patience` seconds."""
        while True:
            try:
                frame = await asyncio.wait_for(receive(self._socket, 2), patience)
            except asyncio.TimeoutError:
                return None
            frame += await self._rest({126: 2, 127: 8}.get(frame[1], 0))
            size = int.from_bytes(frame[2:], "big") if len(frame) > 2 else frame[1]
            frame += await self._rest(size)
            if frame[0] != _PING:
                return frame

    async def _rest(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            data += await asyncio.wait_for(receive(self._socket, size - len(data)), _PATIENCE)
        return bytes(data)

    def close(self) -> None:
        self._socket.close()
