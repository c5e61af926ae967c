"""Messages back and forth: each connection sends the next when the last one has come back."""

from __future__ import annotations

import asyncio
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
) -> dict[str, float]:
    """Measure for `seconds`, after `warm_up` seconds of the same, with messages of `message_size`
    bytes.

    Raises `LoadFailed` when something else comes back, or a connection is lost.
    """
    latencies: list[int] = []
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    opened = await connect(
        port, lambda message: _Repeating(message, failed, latencies), connections, message_size
    )
    for connection in opened:
        connection.send()
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
    def __init__(self, message: bytes, failed: asyncio.Future[None], latencies: list[int]) -> None:
        super().__init__(message, failed)
        self._latencies = latencies
        self._sent_at = perf_counter_ns()
        self._stopped: asyncio.Future[None] | None = None

    def echoed(self) -> None:
        # One reading of the clock for each message: the end of one is the start of the next.
        now = perf_counter_ns()
        self._latencies.append(now - self._sent_at)
        self._sent_at = now
        if self._stopped is None:
            self.send()
        else:
            self._stopped.set_result(None)

    def stop(self) -> asyncio.Future[None]:
        """Send nothing more; done when the last echo has come."""
        self._stopped = asyncio.get_running_loop().create_future()
        return self._stopped
