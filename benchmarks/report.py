"""The results as tables of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.bars import Ratio, ratios
from benchmarks.results import Results

SATURATED: Final = 0.9
"""The part of its core from which on the client may be what was measured."""

BUSY: Final = 0.9
"""The part of its core below which the server was not what limited its throughput."""


FAULTS: Final = 0.5
"""Page faults for each message from which on it is the allocator that is measured."""

_KEPT: Final = "kept"


@dataclass(frozen=True)
class Column:
    heading: str
    figure: str
    show: Callable[[float], str]


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _tenths(value: float) -> str:
    return f"{value:,.1f}"


def _two_places(value: float) -> str:
    return f"{value:.2f}"


def _milliseconds(microseconds: float) -> str:
    return f"{microseconds / 1e3:.2f}"


def _kibibytes(value: float) -> str:
    return f"{value / 1024:,.1f}"


def _mebibytes(value: float) -> str:
    return f"{value / 1024**2:,.1f}"


def _percent(value: float) -> str:
    return f"{value:.0%}"


_SHARES: Final = [
    Column("server's core", "server_share", _percent),
    Column("client's core", "client_share", _percent),
]
_COLUMNS: Final = {
    "echo": [
        Column("messages/s", "messages_per_second", _whole),
        Column("p50 ms", "latency_p50_us", _milliseconds),
        Column("p99 ms", "latency_p99_us", _milliseconds),
        Column("CPU us/message", "cpu_us_per_message", _tenths),
        Column("faults/message", "page_faults_per_message", _two_places),
        *_SHARES,
    ],
    "handshakes": [
        Column("handshakes/s", "handshakes_per_second", _whole),
        Column("CPU us/handshake", "cpu_us_per_handshake", _tenths),
        *_SHARES,
    ],
    "memory": [
        Column("KiB/connection", "bytes_per_connection", _kibibytes),
        Column("MiB before", "bytes_before", _mebibytes),
    ],
}


def report(results: Results) -> str:
    """Every part, every ratio, and what of it we meant to keep."""
    where = results.environment
    found = ratios(results)
    sections = [
        f"{where['python']} on {where['cpu']}, {where['machine']}, Linux {where['kernel']}",
        *(_part(results, name) for name in _COLUMNS if results.competitors(name)),
    ]
    if found:
        sections.append(_ratios(found))
    if any(ratio.limit for ratio in found):
        sections.append(_bars([ratio for ratio in found if ratio.limit]))
    return "\n\n".join(sections)


def missed(results: Results) -> list[Ratio]:
    """The ratios that we meant to keep, and did not, or cannot tell."""
    return [ratio for ratio in ratios(results) if _verdict(ratio) != _KEPT]


def _part(results: Results, part: str) -> str:
    columns = _COLUMNS[part]
    rows = []
    notes: dict[str, None] = {}
    for competitor in results.competitors(part):
        row = [competitor.server, competitor.application]
        for column in columns:
            values = list(results.series(part, competitor, column.figure).values())
            row.append(_spread(values, column.show))
            if column.figure == "client_share" and max(values) > SATURATED:
                notes[f"! {competitor}: the client's core is saturated: it was the client that was"
                      " measured."] = None  # fmt: skip
            if column.figure == "page_faults_per_message" and median(values) > FAULTS:
                notes[f"! {competitor}: memory is mapped anew for each message: see ENVIRONMENT in"
                      " servers.py."] = None  # fmt: skip
            if column.figure == "server_share" and min(values) < BUSY:
                notes[
                    f"! {competitor}: in a round the server had less than {BUSY:.0%} of its core."
                    " Either somebody else used it, or the load was not enough: trust the CPU"
                    " time, not the throughput."
                ] = None
        rows.append(row)
    arguments = ", ".join(f"{name} {value:g}" for name, value in results.arguments[part].items())
    headings = ["server", "application", *(column.heading for column in columns)]
    return "\n".join([f"{part} ({arguments})", *_table(headings, rows), *notes])


def _spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    if len(values) == 1:
        return show(values[0])
    return f"{show(median(values))} ({show(min(values))}-{show(max(values))})"


def _ratios(found: list[Ratio]) -> str:
    rows = [[*_names(ratio), _spread(ratio.by_round, _two_places)] for ratio in found]
    return "\n".join(["ratios", *_table(["figure", "of", "server", "ratio"], rows)])


def _bars(found: list[Ratio]) -> str:
    rows = [
        [
            *_names(ratio),
            str(ratio.limit),
            _two_places(ratio.median),
            _verdict(ratio),
        ]
        for ratio in found
    ]
    count = sum(_verdict(ratio) != _KEPT for ratio in found)
    verdict = f"{count} of {len(found)} bars NOT kept." if count else f"All {len(found)} bars kept."
    headings = ["figure", "of", "server", "bar", "ratio", ""]
    return "\n".join(["bars", *_table(headings, rows), verdict])


def _verdict(ratio: Ratio) -> str:
    if ratio.is_implausible:
        return "IMPLAUSIBLE: less than the server alone"
    return "MISSED" if ratio.is_missed else _KEPT


def _names(ratio: Ratio) -> list[str]:
    comparison = ratio.comparison
    return [comparison.title, f"{comparison.application} / {comparison.against}", ratio.server]


def _table(headings: list[str], rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in [headings, ["-" * width for width in widths], *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
