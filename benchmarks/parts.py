"""The parts of the benchmark, and how they are measured: in rounds, one competitor at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from benchmarks.cases import (
    DEFLATES,
    FANOUTS,
    FLOODS,
    LANES,
    SHUTDOWN_TIMEOUT,
    SLOW,
    STOPS,
    Case,
)
from benchmarks.client import Client, running_client
from benchmarks.cores import Cores
from benchmarks.processes import ServerProcess, running
from benchmarks.progress import Progress
from benchmarks.redis_server import PROGRAM, running_redis
from benchmarks.results import Sample
from benchmarks.servers import APPLICATIONS, Competitor

_FANOUTS: Final = ("ours-fanout", "channels-fanout", "websockets-fanout", "node-fanout")

_ECHOES: Final = tuple(name for name in APPLICATIONS if name not in {"flood", "stop", *_FANOUTS})


@dataclass(frozen=True)
class Part:
    rounds: int
    arguments: dict[str, float]
    """Keyword arguments of the load of the same name; their units stand there."""

    applications: tuple[str, ...] = _ECHOES
    """Those that are measured."""

    cases: Sequence[Case] = (Case(),)

    def of(self, competitors: Iterable[Competitor]) -> list[Competitor]:
        """Those that take part."""
        return [each for each in competitors if each.application in self.applications]

    def turns(self, competitors: Iterable[Competitor]) -> list[tuple[Competitor, Case]]:
        """What is measured in a round. The competitors of a case stand in a row."""
        return [
            (competitor, case)
            for case in self.cases
            for competitor in self.of(competitors)
            if competitor.server in case.servers
        ]


PARTS: Final = {
    "echo": Part(7, {"connections": 50, "message_size": 100, "warm_up": 0.5, "seconds": 2.0}),
    "lanes": Part(
        5,
        {"connections": 50, "message_size": 100, "warm_up": 0.5, "seconds": 2.0},
        ("bare", "ours", "channels", "node"),
        LANES,
    ),
    "handshakes": Part(5, {"concurrency": 20, "warm_up": 0.3, "seconds": 1.0}),
    "memory": Part(3, {"connections": 2000, "message_size": 100}),
    "flood": Part(
        1,
        {"seconds": 10.0, "interval": 0.02, "limit": 500e6},
        ("flood",),
        FLOODS,
    ),
    "stop": Part(
        3,
        {"connections": 2000, "shutdown_timeout": SHUTDOWN_TIMEOUT},
        ("stop",),
        STOPS,
    ),
    "deflate": Part(
        3,
        {
            "connections": 500,
            # 70 KiB and more: no page of a window is left that was never written to.
            "exchanged": 70,
            "concurrency": 20,
            "message_size": 1024,
            "warm_up": 0.5,
            "seconds": 2.0,
        },
        ("ours",),
        DEFLATES,
    ),
    "fanout": Part(
        3,
        {
            "message_size": 100,
            # Far less than the 100 for which a channel layer has room.
            "at_once": 4,
            "warm_up": 0.5,
            "seconds": 2.0,
            "least": 40,
            "seconds_one_by_one": 1.0,
        },
        _FANOUTS,
        FANOUTS,
    ),
    "slow": Part(
        3,
        {
            "subscribers": 499,
            "message_size": 10_000,
            "rate": 50.0,
            "warm_up": 2.0,
            "seconds": 10.0,
        },
        ("ours-fanout",),
        [case for pair in SLOW for case in pair],
    ),
}

_SHARED: Final = ("echo", "handshakes", "lanes")
"""Those that take turns on the same servers."""

_QUICK: Final[Mapping[str, tuple[int, dict[str, float]]]] = {
    "echo": (2, {"warm_up": 0.2, "seconds": 0.4}),
    "handshakes": (2, {"warm_up": 0.1, "seconds": 0.3}),
    "lanes": (2, {"warm_up": 0.2, "seconds": 0.4}),
    "memory": (1, {"connections": 500}),
    "flood": (1, {"seconds": 1.0}),
    "stop": (1, {"connections": 300}),
    "deflate": (1, {"connections": 100, "warm_up": 0.2, "seconds": 0.5}),
    "fanout": (1, {"warm_up": 0.2, "seconds": 0.5, "least": 4, "seconds_one_by_one": 0.3}),
    # As many messages: the one that does not read has to fall behind.
    "slow": (1, {"subscribers": 99, "rate": 200.0, "warm_up": 0.5, "seconds": 2.5}),
}

QUICK: Final = {
    name: replace(PARTS[name], rounds=rounds, arguments={**PARTS[name].arguments, **arguments})
    for name, (rounds, arguments) in _QUICK.items()
}
"""For a look: too short to be quoted."""


def measurable(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Without the cases that need a program which is not installed."""
    if PROGRAM is not None:
        return dict(parts)
    left = {
        name: replace(part, cases=[case for case in part.cases if not case.is_over_redis])
        for name, part in parts.items()
    }
    return {name: part for name, part in left.items() if part.cases}


def steps(parts: Mapping[str, Part], competitors: Sequence[Competitor]) -> int:
    """How many samples `measure` yields."""
    return sum(part.rounds * len(part.turns(competitors)) for part in parts.values())


def measure(
    parts: dict[str, Part], competitors: Sequence[Competitor], cores: Cores, progress: Progress
) -> Iterator[Sample]:
    """Measure these parts, and yield what was measured, one by one.

    Raises `ServerFailed` and `LoadFailed` as soon as there is something that is not as it should
    be; no server is left running.
    """
    with running_client(cores.load) as client:
        shared = {name: part for name, part in parts.items() if name in _SHARED}
        if shared:
            echoing = [each for each in competitors if each.application in _ECHOES]
            progress.say(f"Starting {len(echoing)} servers")
            with running(echoing, cores.server) as servers:
                for name, part in shared.items():
                    yield from _side_by_side(name, part, servers, client, progress)
        if "memory" in parts:
            yield from _memory(parts["memory"], competitors, cores, client, progress)
        for name, part in parts.items():
            if name not in {*_SHARED, "memory"}:
                yield from _one_by_one(name, part, competitors, cores, client, progress)


def _side_by_side(
    name: str, part: Part, servers: list[ServerProcess], client: Client, progress: Progress
) -> Iterator[Sample]:
    running = {server.competitor: server for server in servers}
    for number in range(part.rounds):
        for competitor, case in _turns(part, number, running):
            yield _sample(name, part, number, running[competitor], client, progress, case)


def _memory(
    part: Part,
    competitors: Sequence[Competitor],
    cores: Cores,
    client: Client,
    progress: Progress,
) -> Iterator[Sample]:
    for number in range(part.rounds):
        # In fresh processes: a heap that has been used has room left.
        for _, group in groupby(part.of(competitors), lambda competitor: competitor.server):
            with running(list(group), cores.server) as servers:
                for server in servers:
                    yield _sample("memory", part, number, server, client, progress)


def _one_by_one(
    name: str,
    part: Part,
    competitors: Sequence[Competitor],
    cores: Cores,
    client: Client,
    progress: Progress,
) -> Iterator[Sample]:
    """A fresh server for each case: what one leaves behind is none of the next one's business."""
    for number in range(part.rounds):
        for competitor, case in _turns(part, number, competitors):
            with _fresh(competitor, case, cores) as (server, *others):
                if name == "stop":
                    yield _stopped(part, number, server, client, progress)
                else:
                    yield _sample(name, part, number, server, client, progress, others=others)


def _turns(
    part: Part, number: int, competitors: Iterable[Competitor]
) -> list[tuple[Competitor, Case]]:
    """There and back, so that a machine that becomes slower does so for both of a pair."""
    turns = part.turns(competitors)
    return turns if number % 2 == 0 else turns[::-1]


@contextmanager
def _fresh(competitor: Competitor, case: Case, cores: Cores) -> Iterator[list[ServerProcess]]:
    """As many servers as the case asks for, with what is between them."""
    with ExitStack() as stack:
        if case.is_over_redis:
            # On the core of the client, so that it takes nothing from the server.
            redis = stack.enter_context(running_redis(cores.load))
            load = {**case.load, "layer_processes": [redis.process]}
            case = replace(case, layer=redis.layer, load=load)
        yield stack.enter_context(running([competitor] * case.processes, cores.server, case))


def _sample(
    name: str,
    part: Part,
    number: int,
    server: ServerProcess,
    client: Client,
    progress: Progress,
    case: Case | None = None,
    others: Sequence[ServerProcess] = (),
) -> Sample:
    case = case or server.case
    what = f"{server.competitor} ({case.name})" if case.name else str(server.competitor)
    progress.step(f"{name}, round {number + 1} of {part.rounds}: {what}")
    load = "echo" if name == "lanes" else name
    measured = client.measure(load, server, *others, **{**part.arguments, **case.load})
    for each in (server, *others):
        each.check()
    return _result(name, number, server, measured, case)


def _stopped(
    part: Part, number: int, server: ServerProcess, client: Client, progress: Progress
) -> Sample:
    """What the client sees of a server that stops, and what the one who started it does."""
    progress.step(f"stop, round {number + 1} of {part.rounds}: {server}")
    measured = client.measure(
        "stop", server, main=server.main_process, **part.arguments, **server.case.load
    )
    exit_code, left_over = server.exit_code(), server.left_over()
    # Once for each, and as the end that it was: what else is written counts for nobody.
    written = [line for line in server.lines() if line.startswith("disconnect(1012) of ")]
    return _result(
        "stop",
        number,
        server,
        {
            **measured,
            "exit_code": exit_code,
            "disconnected": sum(count == 1 for count in Counter(written).values()),
            "processes_left": left_over,
        },
    )


def _result(
    name: str,
    number: int,
    server: ServerProcess,
    measured: dict[str, float],
    case: Case | None = None,
) -> Sample:
    competitor = server.competitor
    return Sample(
        name,
        competitor.server,
        competitor.application,
        number,
        measured,
        (case or server.case).name,
    )
