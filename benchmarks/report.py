"""The results as tables of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.bars import LIMITS, Outcome, Ratio, outcomes, ratios
from benchmarks.results import Results
from benchmarks.servers import RUNASGI, Competitor

SATURATED: Final = 0.9
"""The part of its core from which on the client may be what was measured; or, at a steady pace, a
queue in front of the server."""

BUSY: Final = 0.9
"""The part of its core below which the server was not what limited its throughput."""


FAULTS: Final = 0.5
"""Page faults for each message from which on it is the allocator that is measured."""

LATE: Final = 20e3
"""Microseconds by which the client may have been late itself, before a latency means nothing."""

_MIXED: Final = ("lanes", "fanout")
"""Parts with cases and with several applications."""

_PACED: Final = ("flood", "slow")
"""Parts in which a client sends at a steady pace."""

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


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.1f}"


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
    "lanes": [
        Column("messages/s", "messages_per_second", _whole),
        Column("p50 ms", "latency_p50_us", _milliseconds),
        Column("p99 ms", "latency_p99_us", _milliseconds),
        Column("CPU us/message", "cpu_us_per_message", _tenths),
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
    "flood": [
        Column("MB grown", "bytes_grown", _megabytes),
        Column("MB/s", "bytes_grown_per_second", _megabytes),
        Column("MB sent", "bytes_sent", _megabytes),
        Column("seconds", "seconds", _tenths),
        Column("second client: p50 ms", "second_latency_p50_us", _milliseconds),
        Column("p99 ms", "second_latency_p99_us", _milliseconds),
        Column("worst ms", "second_latency_worst_us", _milliseconds),
        Column("unanswered", "second_unanswered", _whole),
        Column("MB before", "bytes_before", _megabytes),
        Column("of the warm-up", "bytes_of_warm_up", _megabytes),
    ],
    "stop": [
        Column("1012 with a reason", "told", _whole),
        Column("disconnect(1012)", "disconnected", _whole),
        Column("last close s", "last_close_seconds", _two_places),
        Column("exit s", "exit_seconds", _two_places),
        Column("exit code", "exit_code", _whole),
        Column("processes left", "processes_left", _whole),
    ],
    "deflate": [
        Column("KiB/connection", "bytes_per_connection", _kibibytes),
        Column("MiB before", "bytes_before", _mebibytes),
        Column("CPU us/message", "cpu_us_per_message", _tenths),
        Column("bytes sent", "bytes_sent_per_message", _whole),
        Column("bytes received", "bytes_received_per_message", _whole),
    ],
    "fanout": [
        Column("deliveries/s", "deliveries_per_second", _whole),
        Column("CPU us/delivery", "cpu_us_per_delivery", _tenths),
        Column("Redis us/delivery", "layer_cpu_us_per_delivery", _two_places),
        Column("the last has it: p50 ms", "last_p50_us", _milliseconds),
        Column("p99 ms", "last_p99_us", _milliseconds),
        *_SHARES,
    ],
    "slow": [
        Column("p50 ms", "delivery_p50_us", _milliseconds),
        Column("p99 ms", "delivery_p99_us", _milliseconds),
        Column("worst ms", "delivery_worst_us", _milliseconds),
        Column("MB grown", "bytes_grown", _megabytes),
        Column("MB before", "bytes_before", _megabytes),
        Column("closed with", "close_code", _whole),
        Column("left open", "left_open", _whole),
        *_SHARES,
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
    if limited := list(_outcomes(results)):
        sections.append(_count(sum(each.is_missed for each in limited), len(limited), "limits"))
    return "\n\n".join(sections)


def missed(results: Results) -> list[Ratio | Outcome]:
    """The ratios and limits that we meant to keep, and did not, or cannot tell."""
    return [
        *(ratio for ratio in ratios(results) if _verdict(ratio) != _KEPT),
        *(outcome for outcome in _outcomes(results) if outcome.is_missed),
    ]


def _outcomes(results: Results) -> Iterator[Outcome]:
    for part in _COLUMNS:
        for competitor, case in results.cases(part):
            yield from outcomes(results, part, competitor, case)


def _part(results: Results, part: str) -> str:
    columns = _COLUMNS[part]
    rows = []
    notes: dict[str, None] = {}
    has_cases = any(case for _, case in results.cases(part))
    has_limits = any(limit.part == part for limit in LIMITS)
    for competitor, case in results.cases(part):
        row = [competitor.server, case if has_cases else competitor.application]
        if part in _MIXED:
            row[0] = str(competitor)
        for column in columns:
            values = list(results.series(part, competitor, column.figure, case).values())
            row.append(_spread(values, column.show))
            if column.figure == "client_share" and max(values) > SATURATED:
                notes[f"! {competitor}: the client's core is saturated: it was the client that was"
                      " measured."] = None  # fmt: skip
            if column.figure == "page_faults_per_message" and median(values) > FAULTS:
                notes[f"! {competitor}: memory is mapped anew for each message: see ENVIRONMENT in"
                      " servers.py."] = None  # fmt: skip
            if column.figure == "server_share" and part not in _PACED and min(values) < BUSY:
                notes[
                    f"! {competitor}: in a round the server had less than {BUSY:.0%} of its core."
                    " Either somebody else used it, or the load was not enough: trust the CPU"
                    " time, not the throughput."
                ] = None
            if column.figure == "server_share" and part in _PACED and max(values) > SATURATED:
                notes[
                    f"! {competitor} ({case}): the server's core is saturated: times are those of a"
                    " queue."
                ] = None
        if part in _PACED:
            late = max(results.series(part, competitor, "client_late_worst_us", case).values())
            if late > LATE:
                notes[
                    f"! {competitor} ({case}): the client itself was late by"
                    f" {_milliseconds(late)} ms, so the worst latency may be its own."
                ] = None
        if has_limits:
            missed = [each for each in outcomes(results, part, competitor, case) if each.is_missed]
            row.append(_missed_limits(competitor, missed))
            for outcome in missed:
                if outcome.reason is not None:
                    notes[f"! {competitor} ({case}): {outcome.reason}."] = None
        rows.append(row)
    arguments = ", ".join(f"{name} {value:g}" for name, value in results.arguments[part].items())
    headings = ["server", "case" if has_cases else "application"]
    headings += [column.heading for column in columns] + ["limits"] * has_limits
    return "\n".join([f"{part} ({arguments})", *_table(headings, rows), *notes])


def _spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    if len(values) == 1:
        return show(values[0])
    return f"{show(median(values))} ({show(min(values))}-{show(max(values))})"


def _missed_limits(competitor: Competitor, missed: list[Outcome]) -> str:
    if not competitor.server.endswith(RUNASGI):
        return "none"
    return f"MISSED: {', '.join(each.limit.title for each in missed)}" if missed else _KEPT


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
    headings = ["figure", "of", "server", "bar", "ratio", ""]
    return "\n".join(["bars", *_table(headings, rows), _count(count, len(found), "bars")])


def _count(missed: int, all_of_them: int, what: str) -> str:
    if missed:
        return f"{missed} of {all_of_them} {what} NOT kept."
    return f"All {all_of_them} {what} kept."


def _verdict(ratio: Ratio) -> str:
    if ratio.is_implausible:
        return "IMPLAUSIBLE: less than the server alone"
    return "MISSED" if ratio.is_missed else _KEPT


def _names(ratio: Ratio) -> list[str]:
    comparison = ratio.comparison
    of = f"{comparison.application}{comparison.started_by} / {comparison.against}"
    if comparison.against_server:
        of += f" on {comparison.against_server}"
    if comparison.against_case:
        of += f" ({comparison.against_case})"
    return [comparison.title, of, ratio.server]


def _table(headings: list[str], rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in [headings, ["-" * width for width in widths], *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
