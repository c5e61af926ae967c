"""Messages back and forth: each connection sends the next when the last one has come back."""

from __future__ import annotations

import asyncio
from collections import deque
from statistics import quantiles
from time import perf_counter_ns

from benchmarks.load.connections import Connection, connect, goodbye, wait, wait_until
from benchmarks.usage import Meter


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

    Raises `Failed` when something else comes back, or a connection is lost.
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
        now = asyncio.get_running_loop().time()
        for number, connection in enumerate(opened):
            connection.send_each(connections / rate, now + number / rate)
    await wait(failed, warm_up)
    meter = Meter(processes)
    latencies.clear()
    await wait(failed, seconds)
    measured = latencies.copy()
    figures = meter.figures(len(measured))
    # No goodbye while a message is on its way: that is another kind of end, which some log.
    await wait_until(asyncio.gather(*(connection.stop() for connection in opened)), failed)
    await goodbye(opened)
    return {**figures, "latency_p99_us": quantiles(measured, n=100)[-1] / 1e3}


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

    def send_each(self, interval: float, when: float) -> None:
        """Send every `interval` seconds, from `when` on by the clock of the event loop."""
        loop = asyncio.get_running_loop()
        if self._goes_on:
            if loop.time() >= when:
                self.send()
                when += interval
            loop.call_at(when, self.send_each, interval, when)

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
