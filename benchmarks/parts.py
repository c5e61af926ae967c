"""The parts of the benchmark, and how they are measured: in rounds, one competitor at a time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final, TypeAlias

from benchmarks.client import measure, running_client
from benchmarks.load.dialects import DIALECTS
from benchmarks.processes import Cores, ServerProcess, running, running_redis
from benchmarks.results import Sample
from benchmarks.servers import (
    ECHOES,
    HUBS,
    OURS_HISTORY,
    RUNASGI,
    SERVERS,
    TOPICS_HUB,
    Competitor,
)


@dataclass(frozen=True)
class Case:
    """What is done to a server, in parts that do more than one thing to it."""

    name: str = ""

    load: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the load, besides those of the part."""

    servers: Sequence[str] = tuple(SERVERS)
    """Those that it can be done to."""

    applications: Sequence[str] = ()
    """The same; empty: those of the part."""

    load_name: str = ""
    """The load, if it is not that of the part."""

    is_over_redis: bool = False
    """Whether there are two servers, between which clients are divided, and a Redis."""


Turn: TypeAlias = tuple[Competitor, Case]


@dataclass(frozen=True)
class Part:
    load: str
    rounds: int
    arguments: Mapping[str, float]
    """Keyword arguments of the load; their units stand there."""

    applications: Sequence[str] = ECHOES
    cases: Sequence[Case] = (Case(),)
    layer: Mapping[str, Any] = field(default_factory=dict)
    """The channel layer `default`, unless a case is over Redis; empty: there is none."""

    is_shared: bool = True
    """Whether its rounds share one process for each competitor. Otherwise each starts anew."""

    def turns(self, competitors: Iterable[Competitor], number: int = 0) -> list[Turn]:
        """Return what is measured in a round. The competitors of a case stand in a row.

        Every other round goes backwards: when the machine becomes slower, it does for both of a
        pair.
        """
        turns = [
            (competitor, case)
            for case in self.cases
            for competitor in competitors
            if competitor.application in (case.applications or self.applications)
            and competitor.server in case.servers
        ]
        return turns[::-1] if number % 2 else turns


_LANES: Final = {
    "1 of 100 B": {},
    "16 of 100 B": {"in_flight": 16},
    "512 connections": {"connections": 512},
    "10 KB": {"message_size": 10_000},
    # The most that is admitted by default.
    "1 MB": {"message_size": 2**20, "connections": 8},
    "half load": {"rate": 25_000},
}
"""How much is on its way."""

_UVICORNS: Final = ("uvicorn", "uvicorn-picows")
_LANE_SERVERS: Final = (*_UVICORNS, f"uvicorn-picows{RUNASGI}", "node")
_OTHERS: Final = ("uvicorn+runasgi", "hypercorn", "granian", "daphne")

_FANOUTS: Final = (
    *(
        Case(
            f"{count} in memory",
            {"subscribers": count},
            (*_UVICORNS, *(_OTHERS if count == 500 else ()), "websockets", "node"),
        )
        for count in (100, 500, 2000)
    ),
    *(
        Case(f"{count} over Redis", {"subscribers": count}, _UVICORNS, is_over_redis=True)
        for count in (100, 500, 2000)
    ),
)
"""To how many subscribers, and through which layer."""

_FAST_LANE: Final = (f"uvicorn-picows{RUNASGI}",)
_SHORT: Final = {"warm_up": 0.5, "seconds": 2.0}
_HUBS: Final = (
    Case("one call at a time", {"in_flight": 1, **_SHORT}, _FAST_LANE),
    Case("50 calls under way", {"in_flight": 50, **_SHORT}, _FAST_LANE),
    Case(
        "to 500 clients",
        {"subscribers": 500, "at_once": 4, "least": 40, **_SHORT},
        _FAST_LANE,
        ("json-consumer", "hub", TOPICS_HUB),
        "fanout",
    ),
    Case("idle connections", {"idle": 2000}, _FAST_LANE, load_name="memory"),
)
"""What is done to a hub and to a consumer that does the same."""

_ECHO: Final = {"connections": 50, "message_size": 100, "warm_up": 0.5, "seconds": 2.0}

PARTS: Final = {
    "echo": Part("echo", 7, _ECHO),
    "lanes": Part(
        "echo",
        5,
        _ECHO,
        ("bare", "ours", "channels", "node"),
        [Case(name, load, _LANE_SERVERS) for name, load in _LANES.items()],
    ),
    "handshakes": Part("handshakes", 5, {"concurrency": 20, "warm_up": 0.3, "seconds": 1.0}),
    # In fresh processes: a heap that has been used has room left.
    "memory": Part("memory", 3, {"idle": 2000, "message_size": 100}, is_shared=False),
    "fanout": Part(
        "fanout",
        3,
        # At once, far less than the 100 for which a channel layer has room.
        {"message_size": 100, "at_once": 4, "warm_up": 0.5, "seconds": 2.0, "least": 40},
        ("ours", OURS_HISTORY, "channels", "websockets", "node"),
        _FANOUTS,
        {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        is_shared=False,
    ),
    "hubs": Part("invoke", 7, {"message_size": 80}, HUBS, _HUBS, is_shared=False),
}

_QUICK: Final = {"warm_up": 0.2, "seconds": 0.4, "least": 4, "idle": 500}
_QUICK_CASES: Final = (
    *("", "16 of 100 B", "10 KB", "half load", "500 in memory", "500 over Redis"),
    *(case.name for case in _HUBS),
)

QUICK: Final = {
    name: replace(
        part,
        rounds=1,
        arguments={key: _QUICK.get(key, value) for key, value in part.arguments.items()},
        cases=[
            replace(case, load={key: _QUICK.get(key, value) for key, value in case.load.items()})
            for case in part.cases
            if case.name in _QUICK_CASES
        ],
        applications=[each for each in part.applications if not each.endswith("-layer")],
    )
    for name, part in PARTS.items()
}
"""For a look: too short to be quoted."""


def measure_all(
    parts: Mapping[str, Part], competitors: Sequence[Competitor], cores: Cores
) -> Iterator[Sample]:
    """Measure these parts, and yield what was measured, one by one.

    Raises `Failed` as soon as something is not as it should be; no server is left running.
    """
    core, load_core = cores
    with running_client(load_core) as client:
        shared = {name: part for name, part in parts.items() if part.is_shared}
        taking_part = {each for part in shared.values() for each, _ in part.turns(competitors)}
        with running([each for each in competitors if each in taking_part], core, {}) as servers:
            by_competitor = {server.competitor: server for server in servers}
            for name, part in shared.items():
                for number in range(part.rounds):
                    for competitor, case in part.turns(competitors, number):
                        server = by_competitor[competitor]
                        yield _sample(client, name, part, case, number, [server])
        for name, part in parts.items():
            if not part.is_shared:
                yield from _afresh(name, part, competitors, cores, client)


def _afresh(
    name: str, part: Part, competitors: Sequence[Competitor], cores: Cores, client: Executor
) -> Iterator[Sample]:
    """Measure with fresh processes: what one leaves behind is none of the next one's business."""
    for number in range(part.rounds):
        turns = part.turns(competitors, number)
        # The applications of a server start together, which saves time.
        for (_, case), group in groupby(turns, lambda turn: (turn[0].server, turn[1])):
            chosen = [competitor for competitor, _ in group]
            with _fresh(chosen, case, part.layer, cores) as teams:
                for team in teams:
                    yield _sample(client, name, part, case, number, team)


@contextmanager
def _fresh(
    competitors: Sequence[Competitor], case: Case, layer: Mapping[str, Any], cores: Cores
) -> Iterator[list[list[ServerProcess]]]:
    """Run as many servers of each as the case asks for, with what is between them."""
    core, load_core = cores
    with ExitStack() as stack:
        size = 1
        if case.is_over_redis:
            # On the core of the client, so that it takes nothing from the server.
            layer, size = stack.enter_context(running_redis(load_core)), 2
        everybody = [each for each in competitors for _ in range(size)]
        servers = stack.enter_context(running(everybody, core, layer))
        yield [servers[start : start + size] for start in range(0, len(servers), size)]


def _sample(
    client: Executor, name: str, part: Part, case: Case, number: int, servers: list[ServerProcess]
) -> Sample:
    competitor = servers[0].competitor
    progress = f"{name}, round {number + 1} of {part.rounds}: {competitor} {case.name}"
    print(time.strftime("%X"), progress, file=sys.stderr)
    arguments = {**part.arguments, **case.load}
    load = case.load_name or part.load
    if load != "fanout":
        arguments["path"] = competitor.path
    if competitor.application in DIALECTS:
        arguments["dialect"] = competitor.application
    measured = measure(client, load, servers, **arguments)
    return Sample(name, case.name, competitor.server, competitor.application, number, measured)
