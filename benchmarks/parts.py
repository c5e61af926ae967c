"""The parts of the benchmark, and how they are measured: in rounds, one competitor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from benchmarks.client import Client, running_client
from benchmarks.cores import Cores
from benchmarks.processes import ServerProcess, running
from benchmarks.progress import Progress
from benchmarks.results import Sample
from benchmarks.servers import Competitor


@dataclass(frozen=True)
class Part:
    rounds: int
    arguments: dict[str, float]
    """Keyword arguments of the load of the same name; their units stand there."""


PARTS: Final = {
    "echo": Part(7, {"connections": 50, "message_size": 100, "warm_up": 0.5, "seconds": 2.0}),
    "handshakes": Part(5, {"concurrency": 20, "warm_up": 0.3, "seconds": 1.0}),
    "memory": Part(3, {"connections": 2000, "message_size": 100}),
}

QUICK: Final = {
    "echo": Part(2, {**PARTS["echo"].arguments, "warm_up": 0.2, "seconds": 0.4}),
    "handshakes": Part(2, {**PARTS["handshakes"].arguments, "warm_up": 0.1, "seconds": 0.3}),
    "memory": Part(1, {**PARTS["memory"].arguments, "connections": 500}),
}
"""For a look: too short to be quoted."""


def measure(
    parts: dict[str, Part], competitors: Sequence[Competitor], cores: Cores, progress: Progress
) -> Iterator[Sample]:
    """Measure these parts, and yield what was measured, one by one.

    Raises `ServerFailed` and `LoadFailed` as soon as there is something that is not as it should
    be; no server is left running.
    """
    with running_client(cores.load) as client:
        shared = {name: part for name, part in parts.items() if name != "memory"}
        if shared:
            progress.say(f"Starting {len(competitors)} servers")
            with running(competitors, cores.server) as servers:
                for name, part in shared.items():
                    yield from _side_by_side(name, part, servers, client, progress)
        if "memory" in parts:
            yield from _memory(parts["memory"], competitors, cores, client, progress)


def _side_by_side(
    name: str, part: Part, servers: list[ServerProcess], client: Client, progress: Progress
) -> Iterator[Sample]:
    for number in range(part.rounds):
        # There and back, so that a machine that becomes slower does so for both of a pair.
        for server in servers if number % 2 == 0 else reversed(servers):
            yield _sample(name, part, number, server, client, progress)


def _memory(
    part: Part,
    competitors: Sequence[Competitor],
    cores: Cores,
    client: Client,
    progress: Progress,
) -> Iterator[Sample]:
    for number in range(part.rounds):
        # In fresh processes: a heap that has been used has room left.
        for _, group in groupby(competitors, lambda competitor: competitor.server):
            with running(list(group), cores.server) as servers:
                for server in servers:
                    yield _sample("memory", part, number, server, client, progress)


def _sample(
    name: str, part: Part, number: int, server: ServerProcess, client: Client, progress: Progress
) -> Sample:
    competitor = server.competitor
    progress.step(f"{name}, round {number + 1} of {part.rounds}: {competitor}")
    measured = client.measure(name, server, **part.arguments)
    return Sample(name, competitor.server, competitor.application, number, measured)
