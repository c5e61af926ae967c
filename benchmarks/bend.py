"""`python -m benchmarks.bend PART`: where one Redis bends, with the brokers of up to 100 processes.

    brokers   real brokers, each with its two connections, at steady rates: CPU, bytes, delays
    drains    connections that only read, and a publisher without a pause: the most there is

Every broker subscribes to everything, so each message crosses the network once for each of them.
Redis has one core. The brokers share the other one, in four processes, and each of them publishes
its part. Over the loopback, Redis does the work of both ends of a connection in the kernel.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import selectors
import socket
import sys
import time
from itertools import chain
from multiprocessing.connection import Connection
from statistics import quantiles
from typing import Any, Final

import django
import psutil
import uvloop
from redis import Redis

from benchmarks.applications import HOST
from benchmarks.processes import choose_cores, prepare, running_redis
from benchmarks.servers import RUNASGI, TOPICS_HUB, Competitor

_PROCESSES: Final = 4
_SECONDS: Final = 4.0
_SIZE: Final = 100
_BROKERS: Final = ((4, 500), (4, 2000), (20, 500), (100, 50), (100, 100), (100, 200), (100, 400))
"""How many brokers, and how many messages a second all of them publish."""
_DRAINS: Final = ((1, 1), (10, 1), (100, 1), (300, 1), (100, 8), (10, 64), (100, 64), (300, 64))
"""How many connections, and how many messages are published together."""

_spawn = multiprocessing.get_context("spawn")


class Counting:
    """Takes what a broker delivers, and notes how late it is."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.lost = 0

    def deliver(self, topic: str, message: Any) -> bool:
        self.delays.append(time.perf_counter() - float(message["text"][:20]))
        return False

    def deliver_kept(self, topic: str, message: Any, position: str, previous: str) -> bool:
        return self.deliver(topic, message)

    def miss(self, topic: str, count: int, cause: str) -> None:
        self.lost += count

    def catch_up(self) -> None:
        pass


async def _simulate(parent: Connection, brokers: range, all_: int, rate: float, kept: bool) -> None:
    """Run some of the brokers: each publishes under a topic of its own."""
    from ws_support._topics.brokers.base import Keeping
    from ws_support._topics.brokers.redis import RedisBroker

    receiver = Counting()
    here = [RedisBroker(receiver) for _ in brokers]
    for broker in here:
        await asyncio.gather(*(broker.subscribe(f"room/{number}") for number in range(all_)))
    parent.send("ready")
    await asyncio.to_thread(parent.recv)
    start, cpu = time.perf_counter(), time.process_time()

    async def publish(broker: RedisBroker, number: int) -> int:
        pause, count = all_ / rate, 0
        while (at := start + (count + number / all_) * pause) < start + _SECONDS:
            await asyncio.sleep(at - time.perf_counter())
            text = f"{time.perf_counter():<20.9f}".ljust(_SIZE, ".")
            message = {"type": "websocket.send", "text": text}
            if kept:
                await broker.append(f"room/{number}", message, Keeping(100, 60))
            else:
                await broker.publish(f"room/{number}", message)
            count += 1
        return count

    published = sum(await asyncio.gather(*map(publish, here, brokers)))
    await asyncio.sleep(1)
    used = time.process_time() - cpu
    parent.send((published, receiver.delays, receiver.lost, used))
    await asyncio.to_thread(parent.recv)
    for broker in here:
        for number in range(all_):
            await broker.unsubscribe(f"room/{number}")


def _run(parent: Connection, layer: dict[str, Any], core: int, *arguments: Any) -> None:
    prepare(core)
    os.environ.update(Competitor(f"uvicorn-picows{RUNASGI}", TOPICS_HUB).environment(layer))
    django.setup()
    uvloop.run(_simulate(parent, *arguments))


def brokers(redis: Redis, layer: dict[str, Any], core: int) -> None:
    for kept in (False, True):
        for count, rate in _BROKERS:
            pipes, processes = [], []
            for at in range(_PROCESSES):
                pipe, end = _spawn.Pipe()
                arguments = (end, layer, core, range(at, count, _PROCESSES), count, rate, kept)
                processes.append(_spawn.Process(target=_run, args=arguments, daemon=True))
                processes[-1].start()
                pipes.append(pipe)
            for pipe in pipes:
                pipe.recv()
            before, start = _spent(redis), time.perf_counter()
            for pipe in pipes:
                pipe.send("go")
            published, delays, lost, used = zip(*(pipe.recv() for pipe in pipes), strict=True)
            cpu, sent = (now - then for now, then in zip(_spent(redis), before, strict=True))
            number, late = sum(published), sorted(chain.from_iterable(delays))
            show(
                f"{count} brokers, {rate}/s{', history' if kept else ''}",
                published=number,
                delivered=len(late) / number / count,
                lost=sum(lost),
                p50_ms=late[len(late) // 2] * 1e3,
                p99_ms=quantiles(late, n=100)[-1] * 1e3,
                redis_us=cpu * 1e6 / number,
                redis_share=cpu / (time.perf_counter() - start - 1),
                bytes_each=sent / len(late),
                broker_us=sum(used) * 1e6 / len(late),
            )
            for pipe in pipes:
                pipe.send("end")
            for process in processes:
                process.join()


def _drain(parent: Connection, port: int, count: int, core: int) -> None:
    prepare(core)
    selector = selectors.DefaultSelector()
    for _ in range(count):
        each = socket.create_connection((HOST, port))
        each.sendall(b"SUBSCRIBE asgi:0:{room/1}\r\n")
        each.recv(1024)
        selector.register(each, selectors.EVENT_READ)
    parent.send("ready")
    room = bytearray(2**20)
    while True:
        for key, _ in selector.select():
            key.fileobj.recv_into(room)  # type: ignore[union-attr]


def drains(redis: Redis, layer: dict[str, Any], core: int) -> None:
    port = redis.connection_pool.connection_kwargs["port"]
    message = b"x" * (_SIZE + 37)
    command = b"*3\r\n$7\r\nPUBLISH\r\n$15\r\nasgi:0:{room/1}\r\n$%d\r\n%b\r\n" % (
        len(message),
        message,
    )
    for count, at_once in _DRAINS:
        pipe, end = _spawn.Pipe()
        process = _spawn.Process(target=_drain, args=(end, port, count, core), daemon=True)
        process.start()
        pipe.recv()
        connection = socket.create_connection((HOST, port))
        before, start, number = _spent(redis), time.perf_counter(), 0
        while time.perf_counter() - start < _SECONDS:
            connection.sendall(command * at_once)
            answers = 0
            while answers < at_once:
                answers += connection.recv(65536).count(b"\n")
            number += at_once
        cpu, sent = (now - then for now, then in zip(_spent(redis), before, strict=True))
        taken = time.perf_counter() - start
        show(
            f"{count} that drain, {at_once} at once",
            messages_a_second=number / taken,
            deliveries_a_second=number * count / taken,
            redis_us=cpu * 1e6 / number,
            redis_share=cpu / taken,
            MB_a_second=sent / taken / 1e6,
        )
        connection.close()
        process.kill()
        process.join()


def _spent(redis: Redis) -> tuple[float, int]:
    """Return the CPU time of Redis, and the bytes that it has sent."""
    cpu = redis.info("cpu")
    used = cpu["used_cpu_user"] + cpu["used_cpu_sys"]
    return used, redis.info("stats")["total_net_output_bytes"]


def show(what: str, **figures: float) -> None:
    print(f"{what:34}", *(f"{name} {value:,.4g}" for name, value in figures.items()), flush=True)


def main(part: str) -> None:
    core, other = choose_cores()
    with running_redis(core) as layer:
        psutil.Process().cpu_affinity([other])
        redis = Redis.from_url(layer["CONFIG"]["hosts"][0])
        {"brokers": brokers, "drains": drains}[part](redis, layer, other)


if __name__ == "__main__":
    main(*sys.argv[1:])
