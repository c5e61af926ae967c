"""Messages back and forth: each connection sends the next when the last one has come back."""

from __future__ import annotations

import asyncio
from collections import deque
from statistics import median
from time import perf_counter_ns

from benchmarks.load.connections import Connection, connect, goodbye, wait, wait_for_all
from benchmarks.usage import Usage


async def echo(
    port: int,
    processes: list[int],
    *,
    connections: int,
    message_size: int,
    warm_up: float,
    seconds: float,
    in_flight: int = 1,
    rate: float | None = None,
) -> dict[str, float]:
    """Measure for `seconds`, after `warm_up` seconds of the same, with messages of `message_size`
    bytes, of which `in_flight` are on their way in each connection; or with `rate` messages a
    second in all, whoever has answered.

    Raises `LoadFailed` when something else comes back, or a connection is lost.
    """
    latencies: list[int] = []
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    opened = await connect(
        port,
        lambda message: _Repeating(message, failed, latencies, is_paced=rate is not None),
        connections,
        message_size,
    )
    if rate is None:
        for connection in opened:
            for _ in range(in_flight):
                connection.send()
    else:
        for number, connection in enumerate(opened):
            connection.send_each(connections / rate, number / rate)
    await wait(failed, warm_up)
    before = Usage.now(processes)
    latencies.clear()
    await wait(failed, seconds)
    used = Usage.now(processes) - before
    count = len(latencies)
    # No goodbye while a message is on its way: that is another kind of end, which some log.
    await wait_for_all([connection.stop() for connection in opened], failed)
    await goodbye(opened)
    latencies = sorted(latencies[:count])
    return {
        "messages_per_second": count / used.seconds,
        "latency_p50_us": median(latencies) / 1e3,
        "latency_p99_us": latencies[count * 99 // 100] / 1e3,
        "cpu_us_per_message": used.server / 1e3 / count,
        "page_faults_per_message": used.faults / count,
        "server_share": used.server_share,
        "client_share": used.client_share,
    }


class _Repeating(Connection):
    def __init__(
        self,
        message: bytes,
        failed: asyncio.Future[None],
        latencies: list[int],
        *,
        is_paced: bool,
    ) -> None:
        super().__init__(message, failed)
        self._latencies = latencies
        self._is_paced = is_paced
        self._sent_at: deque[int] = deque()
        self._stopped: asyncio.Future[None] | None = None

    def send(self) -> None:
        self._sent_at.append(perf_counter_ns())
        super().send()

    def send_each(self, interval: float, delay: float) -> None:
        """Every `interval` seconds, from `delay` seconds on."""
        loop = asyncio.get_running_loop()
        self._send_at(loop, loop.time() + delay, interval)

    def _send_at(self, loop: asyncio.AbstractEventLoop, when: float, interval: float) -> None:
        if self._stopped is None:
            if loop.time() >= when:
                self.send()
                when += interval
            loop.call_at(when, self._send_at, loop, when, interval)

    def echoed(self) -> None:
        now = perf_counter_ns()
        self._latencies.append(now - self._sent_at.popleft())
        if self._stopped is None:
            if not self._is_paced:
                self._sent_at.append(now)
                super().send()
        elif not self._sent_at:
            self._stopped.set_result(None)

    def stop(self) -> asyncio.Future[None]:
        """Send nothing more; done when the last echo has come."""
        self._stopped = asyncio.get_running_loop().create_future()
        if not self._sent_at:
            self._stopped.set_result(None)
        return self._stopped
