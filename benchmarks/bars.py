"""Who is compared with whom, and which ratios we mean to keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Final

from benchmarks.results import Results
from benchmarks.servers import SERVERS, Competitor


@dataclass(frozen=True)
class Comparison:
    """One figure of an application, divided by that of another on the same server."""

    title: str
    part: str
    figure: str
    application: str
    against: str
    at_least: dict[str, float] = field(default_factory=dict)
    """The ratio we mean to reach, by server."""

    at_most: dict[str, float] = field(default_factory=dict)
    """The ratio we mean not to pass, by server."""


def _everywhere(limit: float) -> dict[str, float]:
    return dict.fromkeys(SERVERS, limit)


_LEAST: Final = 0.95
"""The least that an application can cost of what the bare one does, and some noise."""

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
)


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
        if (by_round := _by_round(results, comparison, server))
    ]


def _by_round(results: Results, comparison: Comparison, server: str) -> list[float]:
    ours, theirs = (
        results.series(comparison.part, Competitor(server, application), comparison.figure)
        for application in (comparison.application, comparison.against)
    )
    return [ours[number] / theirs[number] for number in ours.keys() & theirs.keys()]
