"""Messages back and forth: each connection sends the next when the last one has come back."""

from __future__ import annotations

import asyncio
from collections import deque
from statistics import median, quantiles
from time import perf_counter_ns

from benchmarks.load.connections import Connection, connect, goodbye, wait, wait_until
from benchmarks.usage import Usage


async def echo(
    port: int,
    processes: list[int],
    *,
    path: str,
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
        path,
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
    await wait_until(asyncio.gather(*(connection.stop() for connection in opened)), failed)
    await goodbye(opened)
    latencies = latencies[:count]
    return {
        **used.figures(count),
        "latency_p50_us": median(latencies) / 1e3,
        "latency_p99_us": quantiles(latencies, n=100)[-1] / 1e3,
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
        self._goes_on = True

    def send(self) -> None:
        self._sent_at.append(perf_counter_ns())
        super().send()

    def send_each(self, interval: float, delay: float) -> None:
        """Every `interval` seconds, from `delay` seconds on."""
        loop = asyncio.get_running_loop()
        self._send_at(loop, loop.time() + delay, interval)

    def _send_at(self, loop: asyncio.AbstractEventLoop, when: float, interval: float) -> None:
        if self._goes_on:
            if loop.time() >= when:
                self.send()
                when += interval
            loop.call_at(when, self._send_at, loop, when, interval)

    def echoed(self) -> None:
        now = perf_counter_ns()
        self._latencies.append(now - self._sent_at.popleft())
        if self._goes_on:
            if not self._is_paced:
                self._sent_at.append(now)
                super().send()
        elif not self._sent_at:
            self.last_echo.set_result(None)

    def stop(self) -> asyncio.Future[None]:
        """Send nothing more; done when the last echo has come."""
        self._goes_on = False
        if not self._sent_at:
            self.last_echo.set_result(None)
        return self.last_echo
