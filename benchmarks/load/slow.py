"""One message to every subscriber at a steady pace, while one of them does not read."""

from __future__ import annotations

import asyncio
import socket
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Final

from benchmarks.handshake import PATH
from benchmarks.load.audience import Audience, Message, Subscriber
from benchmarks.load.connections import wait, wait_for_all
from benchmarks.load.sockets import open_socket
from benchmarks.usage import Usage, forget_peak, peak_memory, resident_memory

_ROOM: Final = 4096
"""Bytes for which there is room at the one that does not read; the kernel doubles it."""

_SETTLE: Final = 0.2
"""Seconds between the warm-up and the rest."""

_SILENCE: Final = 1.0
"""Seconds without a byte after which nothing more is expected."""

_AT_ONCE: Final = 2**20
"""Bytes that are read at a time."""

_DROPPED: Final = 1006
"""The code of a connection that ended without a close frame (RFC 6455, section 7.1.5)."""


async def slow(
    port: int,
    processes: list[int],
    *,
    slow_ones: int,
    pace: float,
    subscribers: int,
    message_size: int,
    rate: float,
    warm_up: float,
    seconds: float,
) -> dict[str, float]:
    """Publish `rate` messages a second for `seconds`, after `warm_up` seconds of the same, to
    `subscribers` that read, and from then on to `slow_ones`, at most one, that never do. With a
    `pace` other than 1, as many messages at so much of the rate.

    Times are those of all deliveries to those that read. Growth is that of the resident memory, at
    its peak, over what it was after the warm-up. How it ended for the one that does not read, it
    reads afterwards: 1006 stands for no close frame, and 0 for no end.

    Raises `LoadFailed` when one that reads does not get every message, once and in order.
    """
    rate *= pace
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    times: list[int] = []
    audience = Audience(message_size, failed)
    await audience.connect([port], subscribers, lambda audience: _Timed(audience, times))
    await _publish(audience, rate, warm_up)
    await wait(failed, _SETTLE)
    times.clear()
    before = resident_memory(processes)
    forget_peak(processes)
    stalled = [await open_socket(port, PATH, _ROOM) for _ in range(slow_ones)]
    used_before = Usage.now(processes)
    late = await _publish(audience, rate, seconds / pace)
    used = Usage.now(processes) - used_before
    grown = peak_memory(processes) - before
    codes = [await _ending(connection) for connection in stalled]
    await audience.leave()
    times.sort()
    return {
        "delivery_p50_us": median(times) / 1e3,
        "delivery_p99_us": times[len(times) * 99 // 100] / 1e3,
        "delivery_worst_us": times[-1] / 1e3,
        "bytes_grown": grown,
        "bytes_before": before,
        "close_code": sum(codes),
        "left_open": codes.count(0),
        "server_share": used.server_share,
        "client_share": used.client_share,
        "client_late_worst_us": late * 1e6,
    }


class _Timed(Subscriber):
    def __init__(self, audience: Audience, times: list[int]) -> None:
        super().__init__(audience)
        self._times = times

    def received(self, message: Message) -> None:
        self._times.append(perf_counter_ns() - message.sent_at)


async def _publish(audience: Audience, rate: float, seconds: float) -> float:
    """At this pace, whoever has them; returns when everybody has all, with the seconds by which
    the latest one was sent too late."""
    begun_at = perf_counter()
    late = 0.0
    for number in range(round(rate * seconds)):
        due = begun_at + number / rate
        await wait(audience.failed, max(due - perf_counter(), 0))
        late = max(late, perf_counter() - due)
        audience.publish()
    await wait_for_all([audience.stop()], audience.failed)
    return late


async def _ending(connection: socket.socket) -> int:
    """The code with which the connection ended; 0 when it is open."""
    with connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _AT_ONCE)
        received = bytearray()
        code = _DROPPED
        loop = asyncio.get_running_loop()
        try:
            while data := await asyncio.wait_for(loop.sock_recv(connection, _AT_ONCE), _SILENCE):
                received += data
        except asyncio.TimeoutError:
            code = 0
        except ConnectionError:
            pass
        return _close_code(received) or code


def _close_code(received: bytearray) -> int | None:
    """That of the close frame among these frames of a server, if there is one."""
    position = 0
    while len(received) >= position + 4:
        size = received[position + 1]
        start = position + 2
        if size == 126:
            start += 2
            size = int.from_bytes(received[position + 2 : start], "big")
        if received[position] == 0x88:
            return int.from_bytes(received[start : start + 2], "big")
        position = start + size
    return None
