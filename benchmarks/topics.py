"""`python -m benchmarks.topics PART`: what histories and presence cost, beyond a delivery.

memory    10,000 topics with 100 messages each, in memory and in Redis, and when they expire
resuming  1,000 clients that come back at once after a cut, to two workers over Redis
presence  2,000 who join over two workers, as consumers and in the hub of topics; members()
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import django
import psutil
import uvloop
from redis import Redis

from benchmarks import Failed
from benchmarks.applications import PRESENT, ROOM
from benchmarks.load.topics import Client
from benchmarks.processes import ServerProcess, choose_cores, prepare, running, running_redis
from benchmarks.servers import RUNASGI, TOPICS_HUB, Competitor
from benchmarks.usage import private_memory

_TOPICS, _MESSAGES, _SIZE = 10_000, 100, 100
_CLIENTS, _MEMBERS, _ROUNDS = 1_000, 2_000, 3
_EXPIRES_AFTER: Final = 40
"""Seconds for which histories are kept after their last message, and the positions after that."""


def show(what: str, **figures: float) -> None:
    print(f"{what:42}", *(f"{name} {value:,.4g}" for name, value in figures.items()), flush=True)


# Memory


async def memory(redis: Redis | None) -> None:
    """Fill histories by `broadcast()`, the oldest message of each topic first, and let them expire.

    Positions expire later, in an hour; here after as long as the messages.
    """
    from ws_support._topics.brokers import memory as in_memory
    from ws_support._topics.brokers.redis import history as in_redis
    from ws_support.broadcast import broadcast

    in_memory.KEEP_POSITION = in_redis.KEEP_POSITION = _EXPIRES_AFTER  # type: ignore[misc]
    name = "in memory" if redis is None else "in Redis"

    def used() -> float:
        gc.collect()
        used = redis.info("memory")["used_memory"] if redis else private_memory([os.getpid()])
        return float(used) / 2**20

    async def fill(numbers: range) -> None:
        for _ in range(_MESSAGES):
            for number in numbers:
                await broadcast(f"room/{number}", _SIZE * "x")

    await broadcast("room/0", "x")
    before, start = used(), time.perf_counter()
    await asyncio.gather(*(fill(range(lane, _TOPICS, 64)) for lane in range(64)))
    taken, full = time.perf_counter() - start, used()
    us = taken * 1e6 / _TOPICS / _MESSAGES
    show(f"{name}, {_TOPICS} x {_MESSAGES}", MiB=full - before, us_each=us)
    each = (full - before) * 2**20 / _TOPICS / _MESSAGES
    show(f"{name}, a message of {_SIZE} bytes", bytes=each)
    await asyncio.sleep(_EXPIRES_AFTER + 5)
    show(f"{name}, messages expired", MiB=used() - before)
    await asyncio.sleep(_EXPIRES_AFTER + 5)
    show(f"{name}, positions expired", MiB=used() - before)


# Two workers over Redis


class Spent:
    """What two servers and their Redis have spent, from now on."""

    def __init__(self, servers: list[ServerProcess], redis: Redis) -> None:
        self._servers, self._redis = servers, redis
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        cpu, commands = self._redis.info("cpu"), self._redis.info("commandstats")
        processes = [psutil.Process(each) for server in self._servers for each in server.processes]
        return {
            "seconds": time.perf_counter(),
            "server_cpu": sum(sum(each.cpu_times()[:2]) for each in processes),
            "redis_cpu": cpu["used_cpu_user"] + cpu["used_cpu_sys"],
            "scripts": commands.get("cmdstat_evalsha", {}).get("calls", 0),
            "published": commands.get("cmdstat_publish", {}).get("calls", 0),
            "redis_out_MB": self._redis.info("stats")["total_net_output_bytes"] / 1e6,
        }

    def figures(self) -> dict[str, float]:
        return {name: value - self._before[name] for name, value in self._now().items()}


@contextmanager
def _two_workers() -> Iterator[tuple[list[ServerProcess], Redis]]:
    core, load_core = choose_cores()
    team = [Competitor(f"uvicorn-picows{RUNASGI}", TOPICS_HUB)] * 2
    with running_redis(load_core) as layer, running(team, core, layer) as servers:
        prepare(load_core)
        yield servers, Redis.from_url(layer["CONFIG"]["hosts"][0])


async def _subscribed(port: int, room: int, since: str | None) -> tuple[Client, Any]:
    client = await Client.connected(port)
    return client, await client.call("Subscribe", f"room/{room}", {"since": since})


async def resuming(servers: list[ServerProcess], redis: Redis) -> None:
    """Cut all off, publish, and have all come back at once: with `since`, and without."""
    ports = [server.port for server in servers]
    publisher = await Client.connected(ports[0])
    for rooms, missed in ((1, 100), (1, 1), (_CLIENTS, 1)) * _ROUNDS:
        places = [(ports[number % 2], number % rooms) for number in range(_CLIENTS)]
        for is_resuming in (False, True):
            there = await asyncio.gather(*(_subscribed(*place, None) for place in places))
            for client, _ in there:
                client.cut()
            await asyncio.sleep(2)  # Until the servers have seen all of them go.
            for number in range(rooms * missed):
                await publisher.call("Publish", f"room/{number % rooms}", _SIZE * "x", None)
            since = [answer["position"] if is_resuming else None for _, answer in there]
            spent = Spent(servers, redis)
            coming = zip(places, since, strict=True)
            back = await asyncio.gather(*(_subscribed(*place, each) for place, each in coming))
            figures = spent.figures()
            for client, answer in back:
                if (answer["recovered"], client.messages) != (is_resuming, missed * is_resuming):
                    raise Failed(f"Not everything came: {client.messages} messages, {answer}")
                client.cut()
            figures["scripts"] /= _CLIENTS
            how = "resume" if is_resuming else "begin anew"
            show(f"{_CLIENTS} {how}, {rooms} rooms, {missed} missed", **figures)
            await asyncio.sleep(2)


async def presence(servers: list[ServerProcess], redis: Redis) -> None:
    """Have many join one topic, first those that are told nothing; one more client watches."""
    ports = [server.port for server in servers]
    watcher = await Client.connected(ports[0])
    await watcher.call("Subscribe", ROOM, {"presence": "watch"})

    for name, join in (("consumers", _consumer), ("the hub", _present)):
        heard, spent = watcher.presences, Spent(servers, redis)
        there = await asyncio.gather(*(join(ports[number % 2]) for number in range(_MEMBERS)))
        await _until(watcher, _MEMBERS)
        figures = spent.figures()
        told = sum(client.bytes for client in there) / 1e6
        show(
            f"{_MEMBERS} join, {name}",
            **figures,
            differences=watcher.presences - heard,
            MB_to_clients=told,
        )
        taken, spent = [], Spent(servers, redis)
        for _ in range(10):
            start = time.perf_counter()
            await watcher.call("Members", ROOM)
            taken.append(time.perf_counter() - start)
        cpu = spent.figures()
        show(
            f"members() of {_MEMBERS}",
            ms=statistics.median(taken) * 1e3,
            server_ms=cpu["server_cpu"] * 100,
            redis_ms=cpu["redis_cpu"] * 100,
        )
        spent = Spent(servers, redis)
        for client in there:
            client.cut()
        await _until(watcher, 0)
        show(f"{_MEMBERS} leave, {name}", **spent.figures())


async def _consumer(port: int) -> Client:
    return await Client.connected(port, PRESENT)


async def _present(port: int) -> Client:
    client = await Client.connected(port)
    await client.call("Subscribe", ROOM, {"presence": {"page": "chat"}})
    return client


async def _until(watcher: Client, present: int) -> None:
    async with asyncio.timeout(120):
        while watcher.present != present:  # noqa: ASYNC110 - it is told now and then
            await asyncio.sleep(0.02)


def main(part: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if part == "memory":
        _, load_core = choose_cores()
        _in_a_process({})
        with running_redis(load_core) as layer:
            _in_a_process(layer)
    else:
        with _two_workers() as (servers, redis):
            uvloop.run({"resuming": resuming, "presence": presence}[part](servers, redis))


def _in_a_process(layer: dict[str, Any]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_measure_memory, args=(layer,))
    process.start()
    process.join()


def _measure_memory(layer: dict[str, Any]) -> None:
    environment = Competitor(f"uvicorn-picows{RUNASGI}", TOPICS_HUB).environment(layer)
    os.environ.update(environment)
    django.setup()
    url = layer["CONFIG"]["hosts"][0] if layer else None
    uvloop.run(memory(Redis.from_url(url) if url else None))


if __name__ == "__main__":
    main(*sys.argv[1:])
