"""The process that makes the load, as the others see it."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import uvloop

from benchmarks import Failed
from benchmarks.load.echo import echo
from benchmarks.load.fanout import fanout
from benchmarks.load.handshakes import handshakes
from benchmarks.load.invoke import invoke
from benchmarks.load.memory import memory
from benchmarks.processes import ServerProcess, prepare

_LOADS = {
    "echo": echo,
    "handshakes": handshakes,
    "memory": memory,
    "fanout": fanout,
    "invoke": invoke,
}


@contextmanager
def running_client(core: int) -> Iterator[Executor]:
    """Run the load's process on this core."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=_begin, initargs=(core,)) as client:
        yield client


def measure(
    client: Executor, load: str, servers: Sequence[ServerProcess], **arguments: Any
) -> dict[str, float]:
    """Put a load on a server, or on several at a time.

    The keyword arguments and results are those of `benchmarks.load`. Raises `Failed` with the
    servers' logs when that does not work, or when one of their processes has ended.
    """
    for server in servers:
        server.check()
    arguments["port"], *other_ports = [server.port for server in servers]
    if other_ports:
        arguments["other_ports"] = other_ports
    arguments["processes"] = [process for server in servers for process in server.processes]
    try:
        measured = client.submit(_run, load, arguments).result()
    except (Failed, OSError, BrokenProcessPool) as error:
        logs = "\n".join(server.log() for server in servers)
        raise Failed(f"{servers[0].name} failed in {load}: {error}\n{logs}") from error
    for server in servers:
        server.check()
    return measured


def _begin(core: int) -> None:
    """Prepare the load's process."""
    prepare(core)
    # The Ctrl-C of the terminal is for the parent, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The load makes hardly any cycles, and a collection would be somebody's latency.
    gc.disable()


def _run(load: str, arguments: dict[str, Any]) -> dict[str, float]:
    """Run a load in its process."""
    try:
        return uvloop.run(_LOADS[load](**arguments))
    finally:
        gc.collect()
