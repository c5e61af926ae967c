"""The results as text: one table a part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.results import Results
from benchmarks.servers import Competitor

_SATURATED: Final = 0.9
"""The part of its core from which on the client may be what was measured, and below which the
server was not what limited its throughput."""

_LEAST: Final = 0.95
"""The least that an application can cost of what the bare one does, and some noise."""


@dataclass(frozen=True)
class Column:
    heading: str
    figure: str
    places: int = 0
    unit: float = 1
    """Of the heading, in that of the figure."""


@dataclass(frozen=True)
class Ratio:
    """A figure, divided by that of another competitor in the same round and case."""

    heading: str
    figure: str
    other: Callable[[Competitor], Competitor]
    """Given a competitor, whom it is compared with; itself: nobody."""


def _channels(ours: Competitor) -> Competitor:
    return Competitor(ours.beside_it, ours.application.replace("ours", "channels"))


def _bare(other: Competitor) -> Competitor:
    return Competitor(other.beside_it, "bare")


def _own_command(ours: Competitor) -> Competitor:
    return Competitor(ours.beside_it, ours.application)


def _own_protocol(ours: Competitor) -> Competitor:
    """Return the same with Uvicorn's own protocol, for what runs on the fast lane."""
    is_fast = ours.server.startswith("uvicorn-picows")
    return Competitor("uvicorn", ours.application) if is_fast else ours


_NODE: Final = Competitor("node", "node")
_WEBSOCKETS: Final = Competitor("websockets", "websockets")
_SHARES: Final = (
    Column("server's core %", "server_share", 0, 0.01),
    Column("client's core %", "client_share", 0, 0.01),
)
_MESSAGES: Final = (
    Column("messages/s", "per_second"),
    Column("CPU us/message", "cpu_us", 1),
    Column("p50 ms", "latency_p50_us", 2, 1e3),
    Column("p99 ms", "latency_p99_us", 2, 1e3),
    *_SHARES,
)
_RATIOS: Final = (
    Ratio("to Channels", "per_second", _channels),
    Ratio("CPU to bare", "cpu_us", _bare),
    Ratio("CPU to own command", "cpu_us", _own_command),
)

TABLES: Final[dict[str, tuple[Column | Ratio, ...]]] = {
    "echo": (*_MESSAGES, *_RATIOS),
    "lanes": (
        *_MESSAGES,
        Ratio("CPU to Uvicorn's own", "cpu_us", _own_protocol),
        Ratio("CPU to Node's ws", "cpu_us", lambda _: _NODE),
    ),
    "handshakes": (
        Column("handshakes/s", "per_second"),
        Column("CPU us/handshake", "cpu_us", 1),
        *_SHARES,
        *_RATIOS,
    ),
    "memory": (
        Column("KiB/connection", "bytes_per_connection", 1, 1024),
        Column("MiB before", "bytes_before", 1, 2**20),
        Ratio("to Channels", "bytes_per_connection", _channels),
        Ratio("to bare", "bytes_per_connection", _bare),
    ),
    "fanout": (
        Column("deliveries/s", "per_second"),
        Column("CPU us/delivery", "cpu_us", 1),
        Column("Redis us/delivery", "layer_cpu_us", 2),
        Column("the last has it, ms", "last_p50_us", 2, 1e3),
        *_SHARES,
        Ratio("to Channels", "per_second", _channels),
        Ratio("CPU to websockets", "cpu_us", lambda _: _WEBSOCKETS),
        Ratio("CPU to Node's ws", "cpu_us", lambda _: _NODE),
    ),
}


def report(results: Results) -> str:
    """Return every part that was measured as a table, with what is to be known of it."""
    where = results.environment
    parts = [name for name in TABLES if results.rows(name)]
    return "\n\n".join(
        [f"{where['python']}, {where['machine']}", *("\n".join(_part(results, p)) for p in parts)]
    )


def _part(results: Results, part: str) -> Iterator[str]:
    arguments = ", ".join(f"{name} {value:g}" for name, value in results.arguments[part].items())
    yield f"{part} ({arguments}); median (least-greatest)"
    columns = TABLES[part]
    rows = [["competitor", "case", *(column.heading for column in columns)]]
    for competitor, case in results.rows(part):
        cells = (_cell(results, part, competitor, case, column) for column in columns)
        rows.append([str(competitor), case, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width)
        yield "  ".join(cells).rstrip()
    yield from _notes(results, part)


def _cell(
    results: Results, part: str, competitor: Competitor, case: str, column: Column | Ratio
) -> str:
    if isinstance(column, Ratio):
        return _spread(ratios(results, part, competitor, case, column), 2)
    values = results.series(part, competitor, column.figure, case).values()
    return _spread([value / column.unit for value in values], column.places)


def ratios(
    results: Results, part: str, competitor: Competitor, case: str, ratio: Ratio
) -> list[float]:
    """Return a ratio by round: what disturbed one of the two in a round disturbed the other too."""
    other = ratio.other(competitor)
    if other == competitor:
        return []
    ours = results.series(part, competitor, ratio.figure, case)
    theirs = results.series(part, other, ratio.figure, case)
    # Too little CPU time for the clock is no ratio.
    return [ours[number] / theirs[number] for number in ours.keys() & theirs if theirs[number]]


def _spread(values: Iterable[float], places: int) -> str:
    if not (values := list(values)):
        return ""
    shown = [f"{value:,.{places}f}" for value in (median(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else "{} ({}-{})".format(*shown)


def _notes(results: Results, part: str) -> Iterator[str]:
    """Say which figures are not to be trusted, and why."""
    notes: dict[str, list[str]] = {}
    for competitor, case in results.rows(part) if part != "memory" else ():
        client, server = (
            results.series(part, competitor, figure, case).values()
            for figure in ("client_share", "server_share")
        )
        to_bare = ratios(results, part, competitor, case, Ratio("", "cpu_us", _bare))
        if max(client) > _SATURATED:
            why = "The client's core is saturated, it was the client that was measured"
        elif part == "echo" and to_bare and max(to_bare) < _LEAST:
            why = "Costs less than the server alone, which cannot be"
        elif min(server) < _SATURATED and case != "half load":
            why = "The server had not all of its core, so trust CPU time and not throughput"
        else:
            continue
        notes.setdefault(why, []).append(f"{competitor} {case}".rstrip())
    for why, rows in notes.items():
        yield f"! {why}: {'all' if len(rows) == len(results.rows(part)) else ', '.join(rows)}."
