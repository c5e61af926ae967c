"""Who is compared with whom, and which ratios and limits we mean to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from benchmarks.cases import FANOUTS, LANES, SLOW
from benchmarks.results import Results
from benchmarks.servers import RUNASGI, SERVERS, Competitor


@dataclass(frozen=True)
class Comparison:
    """One figure of an application, divided by that of another, mostly on the same server."""

    title: str
    part: str
    figure: str
    application: str
    against: str
    at_least: dict[str, float] = field(default_factory=dict)
    """The ratio we mean to reach, by server."""

    at_most: dict[str, float] = field(default_factory=dict)
    """The ratio we mean not to pass, by server."""

    started_by: str = ""
    """What the name of the first one's server ends with, when it is not started as the second's."""

    against_server: str = ""
    """The second one's server, when it is another."""

    case: str = ""
    """In parts that have several."""

    against_case: str = ""
    """The second one's case, when it is another."""


def _everywhere(limit: float) -> dict[str, float]:
    return dict.fromkeys(SERVERS, limit)


_LEAST: Final = 0.95
"""The least that an application can cost of what the bare one does, and some noise."""

_CASES: Final = tuple(case.name for case in LANES if case.name != "half load")

_FANOUT_BARS: Final = {"500 in memory": {"uvicorn": 15.0}, "500 over Redis": {"uvicorn": 10.0}}

COMPARISONS: Final = (
    Comparison(
        "echo throughput",
        *("echo", "messages_per_second", "ours", "channels"),
        at_least={"uvicorn": 3.5, "granian": 2.5, "hypercorn": 1.8, "daphne": 1.7},
    ),
    Comparison("CPU per message", "echo", "cpu_us_per_message", "ours", "channels"),
    Comparison(
        "CPU per message",
        *("echo", "cpu_us_per_message", "ours", "bare"),
        at_most=_everywhere(1.25),
    ),
    Comparison(
        "echo throughput",
        *("echo", "messages_per_second", "ours", "starlette"),
        at_least={"uvicorn": 1.0},
    ),
    Comparison("echo throughput", "echo", "messages_per_second", "ours-layer", "channels-layer"),
    Comparison("CPU per message", "echo", "cpu_us_per_message", "ours-layer", "channels-layer"),
    Comparison(
        "handshakes/s",
        *("handshakes", "handshakes_per_second", "ours", "channels"),
        at_least={"uvicorn": 1.7},
    ),
    Comparison(
        "handshakes/s", "handshakes", "handshakes_per_second", "ours-layer", "channels-layer"
    ),
    Comparison(
        "memory per connection",
        *("memory", "bytes_per_connection", "ours", "channels"),
        at_most=_everywhere(0.85),
    ),
    Comparison(
        "memory per connection", "memory", "bytes_per_connection", "ours-layer", "channels-layer"
    ),
    Comparison(
        "CPU per message",
        *("echo", "cpu_us_per_message", "ours", "ours"),
        # What each does besides: Granian looks at sizes, and Daphne has flow control.
        at_most={"uvicorn": 1.05, "hypercorn": 1.05, "granian": 1.08, "daphne": 1.10},
        started_by=RUNASGI,
    ),
    Comparison(
        "echo throughput",
        *("echo", "messages_per_second", "ours", "ours"),
        started_by=RUNASGI,
    ),
    Comparison(
        "CPU per handshake",
        *("handshakes", "cpu_us_per_handshake", "ours", "ours"),
        started_by=RUNASGI,
    ),
    Comparison(
        "memory per connection",
        *("memory", "bytes_per_connection", "ours", "ours"),
        started_by=RUNASGI,
    ),
    *(
        Comparison(
            f"CPU per message, {case}",
            *("lanes", "cpu_us_per_message", "bare", "node"),
            at_most={"uvicorn-picows": 1.0},
            against_server="node",
            case=case,
        )
        for case in _CASES
    ),
    *(
        Comparison(
            f"CPU per message, {case}",
            *("lanes", "cpu_us_per_message", "ours", "node"),
            at_most={"uvicorn-picows": 1 / 0.85},
            started_by=RUNASGI,
            against_server="node",
            case=case,
        )
        for case in _CASES
    ),
    *(
        Comparison(
            f"CPU per message, {case}",
            *("lanes", "cpu_us_per_message", application, application),
            at_most={"uvicorn-picows": 1 / 1.6 if case == "1 of 100 B" else 1.0},
            started_by=RUNASGI if application == "ours" else "",
            against_server="uvicorn",
            case=case,
        )
        for application in ("bare", "ours")
        for case in _CASES
    ),
    Comparison(
        "latency p99, half load",
        *("lanes", "latency_p99_us", "ours", "ours"),
        at_most={"uvicorn-picows": 1.0},
        started_by=RUNASGI,
        against_server="uvicorn",
        case="half load",
    ),
    Comparison(
        "CPU per message, 1 of 100 B",
        *("lanes", "cpu_us_per_message", "ours", "channels"),
        at_most={"uvicorn-picows": 1 / 8},
        started_by=RUNASGI,
        against_server="uvicorn",
        case="1 of 100 B",
    ),
    *(
        Comparison(
            title,
            *(part, figure, application, application),
            at_most={"uvicorn-picows": 1.0},
            against_server="uvicorn",
        )
        for title, part, figure in (
            ("CPU per handshake", "handshakes", "cpu_us_per_handshake"),
            ("memory per connection", "memory", "bytes_per_connection"),
        )
        for application in ("bare", "ours")
    ),
    *(
        Comparison(
            f"deliveries/s, {case.name}",
            *("fanout", "deliveries_per_second", "ours-fanout", "channels-fanout"),
            at_least=_FANOUT_BARS.get(case.name, {}),
            case=case.name,
        )
        for case in FANOUTS
    ),
    *(
        Comparison(
            f"CPU per delivery, {case.name}",
            *("fanout", "cpu_us_per_delivery", "ours-fanout", "channels-fanout"),
            case=case.name,
        )
        for case in FANOUTS
    ),
    *(
        Comparison(
            f"CPU per delivery, {case.name}",
            *("fanout", "cpu_us_per_delivery", "ours-fanout", f"{against}-fanout"),
            at_most=at_most if case.name == "500 in memory" else {},
            against_server=against,
            case=case.name,
        )
        for against, at_most in (
            # By its own command, Uvicorn frames a message for each connection.
            ("websockets", dict.fromkeys(("uvicorn+runasgi", "uvicorn-picows"), 1 / 0.8)),
            ("node", {}),
        )
        for case in FANOUTS
        if against in case.servers
    ),
    *(
        Comparison(
            f"delivery p99, {one_does_not.name}",
            *("slow", "delivery_p99_us", "ours-fanout", "ours-fanout"),
            at_most=dict.fromkeys(one_does_not.servers, 2.0),
            case=one_does_not.name,
            against_case=all_read.name,
        )
        for all_read, one_does_not in SLOW
    ),
)


@dataclass(frozen=True)
class Limit:
    """A figure that is a promise, and so has to be kept in every round."""

    title: str
    part: str
    figure: str
    at_least: float | str | None = None
    at_most: float | str | None = None
    """A number in the unit of the figure, or the name of an argument that the part was measured
    with."""

    known: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Why a server, in a case, does not keep it."""

    def is_missed(self, value: float, arguments: Mapping[str, float]) -> bool:
        least, most = (
            arguments[bound] if isinstance(bound, str) else bound
            for bound in (self.at_least, self.at_most)
        )
        return (least is not None and value < least) or (most is not None and value > most)


_FLOODED: Final = {
    (f"granian{RUNASGI}", "pings"): (
        "Granian 2.8 answers pings without a look at how much its client has not read"
    ),
}

LIMITS: Final = (
    Limit("growth", "flood", "bytes_grown", at_most=10e6, known=_FLOODED),
    Limit("the second client", "flood", "second_latency_p50_us", at_most=100e3, known=_FLOODED),
    Limit("unanswered", "flood", "second_unanswered", at_most=0),
    Limit("told", "stop", "told", at_least="connections"),
    Limit("disconnect()", "stop", "disconnected", at_least="connections"),
    Limit("last close", "stop", "last_close_seconds", at_most="shutdown_timeout"),
    Limit("exit", "stop", "exit_seconds", at_most="shutdown_timeout"),
    Limit("exit code", "stop", "exit_code", at_least=0, at_most=0),
    Limit("processes left", "stop", "processes_left", at_most=0),
    Limit("growth", "slow", "bytes_grown", at_most=10e6),
    Limit("closed", "slow", "left_open", at_most=0),
)
"""Of the servers that `manage.py runasgi` starts."""


@dataclass(frozen=True)
class Outcome:
    """A limit, and what a server came to in a case."""

    limit: Limit
    is_missed: bool
    reason: str | None
    """Why it is missed, when that is known."""


def outcomes(results: Results, part: str, competitor: Competitor, case: str) -> list[Outcome]:
    """One for each limit that applies."""
    if not competitor.server.endswith(RUNASGI):
        return []
    return [
        Outcome(
            limit,
            any(
                limit.is_missed(value, results.arguments[part])
                for value in results.series(part, competitor, limit.figure, case).values()
            ),
            limit.known.get((competitor.server, case)),
        )
        for limit in LIMITS
        if limit.part == part
    ]


@dataclass(frozen=True)
class Ratio:
    """A comparison on one server."""

    comparison: Comparison
    server: str
    by_round: list[float]
    """Each of the two in the same round: what disturbed one disturbed the other, too."""

    @property
    def median(self) -> float:
        return median(self.by_round)

    @property
    def limit(self) -> str | None:
        """What we mean to keep, in words; `None` when there is nothing."""
        if self.server in self.comparison.at_least:
            return f"at least {self.comparison.at_least[self.server]:.2f}"
        if self.server in self.comparison.at_most:
            return f"at most {self.comparison.at_most[self.server]:.2f}"
        return None

    @property
    def is_implausible(self) -> bool:
        """Whether an application costs less than nothing but the server, beyond any noise.

        None can: something else than the two applications makes the difference.
        """
        return (
            self.comparison.against == "bare"
            and not self.comparison.against_server
            and self.comparison.figure == "cpu_us_per_message"
            and max(self.by_round) < _LEAST
        )

    @property
    def is_missed(self) -> bool:
        return (
            self.median < self.comparison.at_least.get(self.server, self.median)
            or self.median > self.comparison.at_most.get(self.server, self.median)
        )  # fmt: skip


def ratios(results: Results) -> list[Ratio]:
    """All that can be had from what was measured."""
    return [
        Ratio(comparison, server, by_round)
        for comparison in COMPARISONS
        for server in SERVERS
        if server != comparison.against_server
        and (
            not comparison.against_server
            or server.startswith("uvicorn-picows")
            or server in comparison.at_most
        )
        and (by_round := _by_round(results, comparison, server))
    ]


def _by_round(results: Results, comparison: Comparison, server: str) -> list[float]:
    ours, theirs = (
        results.series(comparison.part, competitor, comparison.figure, case)
        for competitor, case in (
            (
                Competitor(f"{server}{comparison.started_by}", comparison.application),
                comparison.case,
            ),
            (
                Competitor(comparison.against_server or server, comparison.against),
                comparison.against_case or comparison.case,
            ),
        )
    )
    return [ours[number] / theirs[number] for number in ours.keys() & theirs.keys()]
