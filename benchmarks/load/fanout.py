"""One message to every subscriber, and the next when they have it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median

from benchmarks.load.audience import Audience
from benchmarks.load.connections import wait, wait_for_all
from benchmarks.usage import Usage


async def fanout(
    port: int,
    processes: list[int],
    *,
    other_ports: Sequence[int] = (),
    layer_processes: Sequence[int] = (),
    subscribers: int,
    message_size: int,
    at_once: int,
    warm_up: float,
    seconds: float,
    least: int,
    seconds_one_by_one: float,
) -> dict[str, float]:
    """Measure deliveries for `seconds`, after `warm_up` seconds of the same, with `at_once`
    messages that not everybody has; then, for `seconds_one_by_one`, how long it takes until the
    last subscriber has one that is alone. `layer_processes` are those of the channel layer.

    Some deliver in bursts: it is measured from the end of one message to that of another, and for
    so long that there are `least` of them.

    At no time more is on its way than any of them has room for: nothing may be lost. Raises
    `LoadFailed` when a subscriber does not get every message, once and in order.
    """
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    audience = Audience(message_size, failed)
    await audience.connect([port, *other_ports], subscribers)
    audience.keep_publishing(at_once)
    await wait(failed, warm_up)
    await audience.next_everywhere()
    before, layer_before = Usage.now(processes), Usage.now(list(layer_processes))
    count, messages = audience.deliveries, len(audience.times) + least
    await wait(failed, seconds)
    await audience.next_everywhere()
    while len(audience.times) < messages:
        await audience.next_everywhere()
    count = audience.deliveries - count
    used = Usage.now(processes) - before
    used_by_layer = Usage.now(list(layer_processes)) - layer_before
    await wait_for_all([audience.stop()], failed)
    audience.times.clear()
    audience.keep_publishing(1)
    await wait(failed, seconds_one_by_one)
    await wait_for_all([audience.stop()], failed)
    await audience.leave()
    times = sorted(audience.times)
    return {
        "deliveries_per_second": count / used.seconds,
        "cpu_us_per_delivery": used.server / 1e3 / count,
        "layer_cpu_us_per_delivery": used_by_layer.server / 1e3 / count,
        "last_p50_us": median(times) / 1e3,
        "last_p99_us": times[len(times) * 99 // 100] / 1e3,
        "server_share": used.server_share,
        "client_share": used.client_share,
    }
