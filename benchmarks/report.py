"""The results as text: one table a part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Final

from pandas import DataFrame, Series

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


def _without_history(ours: Competitor) -> Competitor:
    return Competitor(ours.server, ours.application.removesuffix("-history"))


def _consumer(hub: Competitor) -> Competitor:
    return Competitor(hub.server, "json-consumer")


_NODE: Final = Competitor("node", "node")
_WEBSOCKETS: Final = Competitor("websockets", "websockets")
_SHARES: Final = (
    Column("server's core %", "server_share", 0, 0.01),
    Column("client's core %", "client_share", 0, 0.01),
)
_MESSAGES: Final = (
    Column("messages/s", "per_second"),
    Column("CPU us/message", "cpu_us", 1),
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
        Ratio("to Channels", "bytes_per_connection", _channels),
        Ratio("to bare", "bytes_per_connection", _bare),
    ),
    "fanout": (
        Column("deliveries/s", "per_second"),
        Column("CPU us/delivery", "cpu_us", 1),
        *_SHARES,
        Ratio("to Channels", "per_second", _channels),
        Ratio("CPU to no history", "cpu_us", _without_history),
        Ratio("CPU to websockets", "cpu_us", lambda _: _WEBSOCKETS),
        Ratio("CPU to Node's ws", "cpu_us", lambda _: _NODE),
    ),
    "hubs": (
        Column("calls or deliveries/s", "per_second"),
        Column("CPU us", "cpu_us", 1),
        *_SHARES,
        Ratio("CPU to consumer", "cpu_us", _consumer),
        Column("KiB/connection", "bytes_per_connection", 1, 1024),
        Ratio("memory to consumer", "bytes_per_connection", _consumer),
    ),
}


def report(results: Results) -> str:
    """Return every part that was measured as a table, with what is to be known of it."""
    where = results.environment
    parts = [f"{where['python']}, {where['machine']}"]
    for name in TABLES:
        if name in results.arguments and not (part := results.part(name)).empty:
            arguments = results.arguments[name].items()
            given = ", ".join(f"{argument} {value:g}" for argument, value in arguments)
            title = f"{name} ({given}); median (least-greatest)"
            parts.append("\n".join([title, _table(part, TABLES[name]), *_notes(name, part)]))
    return "\n\n".join(parts)


def _table(part: DataFrame, columns: Iterable[Column | Ratio]) -> str:
    cells = {column.heading: _cells(part, column) for column in columns}
    rows = part.index.droplevel("round").unique()
    table = DataFrame(cells, rows).fillna("").reset_index()
    # A column in which nothing stands says nothing.
    return table.loc[:, (table != "").any()].to_string(index=False)


def _cells(part: DataFrame, column: Column | Ratio) -> Series:
    """Return a cell for each competitor and case, in the order of measuring."""
    if column.figure not in part:
        return Series(dtype=str)  # No case that was measured has it.
    if isinstance(column, Ratio):
        values, places = ratios(part, column).dropna(), 2
    else:
        # Not every case has every figure.
        values, places = part[column.figure].dropna() / column.unit, column.places
    rounds = values.groupby(["server", "application", "case"], sort=False)
    return rounds.agg(lambda values: _spread(values, places))


def _spread(values: Series, places: int) -> str:
    shown = [f"{value:,.{places}f}" for value in (values.median(), values.min(), values.max())]
    return shown[0] if len(values) == 1 else "{} ({}-{})".format(*shown)


def ratios(part: DataFrame, ratio: Ratio) -> Series:
    """Return a ratio by round: what disturbed one of the two in a round disturbed the other too.

    The values of whom nobody is compared with are missing.
    """
    figures = part[ratio.figure]
    others = [
        (*astuple(ratio.other(Competitor(server, application))), case, number)
        for server, application, case, number in part.index
    ]
    theirs = figures.reindex(others).set_axis(part.index)
    # Too little CPU time for the clock is no ratio.
    return figures / theirs.where(theirs > 0).mask(part.index == others)


def _notes(name: str, part: DataFrame) -> Iterator[str]:
    """Say which figures are not to be trusted, and why."""
    if name == "memory":
        return
    notes: dict[str, list[str]] = {}
    part = part.assign(to_bare=ratios(part, Ratio("", "cpu_us", _bare)))
    rows = part.groupby(["server", "application", "case"], sort=False)
    for (server, application, case), rounds in rows:
        if rounds.client_share.max() > _SATURATED:
            why = "The client's core is saturated, it was the client that was measured"
        elif name == "echo" and rounds.to_bare.max() < _LEAST:
            why = "Costs less than the server alone, which cannot be"
        elif rounds.server_share.min() < _SATURATED and case != "half load":
            why = "The server had not all of its core, so trust CPU time and not throughput"
        else:
            continue
        notes.setdefault(why, []).append(f"{server}/{application} {case}".rstrip())
    for why, noted in notes.items():
        yield f"! {why}: {'all' if len(noted) == len(rows) else ', '.join(noted)}."
