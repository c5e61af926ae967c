"""`python -m benchmarks.path`: our own part of a plain fan-out, without servers and clients.

500 subscribers whose frames go nowhere, in memory and over Redis. It says the least CPU time of a
delivery in many short runs, which differs by a hundredth where whole servers differ by a third: to
compare two versions, run it from one working copy and the other in turn (`PYTHONPATH`).
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from types import SimpleNamespace

import django
import uvloop

from benchmarks.processes import choose_cores, prepare, running_redis
from benchmarks.servers import RUNASGI, Competitor

_SUBSCRIBERS, _MESSAGES, _RUNS = 500, 200, 60


async def measure() -> float:
    """Return the least microseconds of CPU time of a delivery."""
    from ws_support._topics.registry import TopicRegistry
    from ws_support._topics.subscriber import Subscriber
    from ws_support.broadcast import broadcast

    written = 0

    def write_frame(frame: bytes) -> bool:
        nonlocal written
        written += 1
        return True

    connection = SimpleNamespace(direct=SimpleNamespace(write_frame=write_frame), is_open=True)
    registry = TopicRegistry.of_this_loop()
    there = [Subscriber(connection, 32) for _ in range(_SUBSCRIBERS)]  # type: ignore[arg-type]
    for each in there:
        each.begin()
        await registry.subscribe("prices", each)
    taken = []
    for _ in range(_RUNS):
        gc.collect()
        start, expected = time.process_time(), written + _MESSAGES * _SUBSCRIBERS
        for _ in range(_MESSAGES // 4):
            await asyncio.gather(*(broadcast("prices", 100 * "x") for _ in range(4)))
        while written < expected:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        taken.append(time.process_time() - start)
    for each in there:
        await registry.leave_all(each)
    return min(taken) * 1e6 / _MESSAGES / _SUBSCRIBERS


def main() -> None:
    from ws_support._topics.brokers.redis.address import _addresses

    core, other = choose_cores()
    prepare(core)
    environment = Competitor(f"uvicorn-picows{RUNASGI}", "ours").environment({})
    os.environ.update(environment)
    django.setup()
    in_memory = uvloop.run(measure())
    with running_redis(other) as layer:
        from django.test import override_settings

        with override_settings(CHANNEL_LAYERS={"default": layer}):
            _addresses.cache_clear()
            over_redis = uvloop.run(measure())
    print(f"us a delivery: in memory {in_memory:.4f}, over Redis {over_redis:.4f}")


if __name__ == "__main__":
    main()
