"""The results as pictures for the documentation, one for light and one for dark pages each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.figure import Figure
from pandas import Series

from benchmarks.results import Results
from benchmarks.servers import RUNASGI, SERVERS

_LABELS: Final = {
    "bare": "nothing but the server",
    "ours": "ws_support",
    "channels": "Channels",
    "starlette": "Starlette",
}
"""The applications in the pictures, in this order."""

_PEERS: Final = {
    "Channels, on Uvicorn": ("uvicorn", "channels"),
    "Starlette, on Uvicorn": ("uvicorn", "starlette"),
    "websockets, by itself": ("websockets", "websockets"),
    "ws, on Node.js": ("node", "node"),
    "ws_support, on the fast lane": (f"uvicorn-picows{RUNASGI}", "ours"),
}
"""Those of the one picture for people in a hurry."""


@dataclass(frozen=True)
class Theme:
    ink: str
    faint: str
    colors: tuple[str, ...]
    """Of the applications, in the order of `_LABELS`."""


_THEMES: Final = {
    "light": Theme("#1f2328", "#d1d9e0", ("#8c959f", "#0b7a53", "#d1681d", "#2f6fd0")),
    "dark": Theme("#e6edf3", "#3d444d", ("#7d8590", "#3fb98a", "#f0883e", "#6ea8fe")),
}


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw what was measured as `NAME-light.svg` and `NAME-dark.svg`, and return the files."""
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"
    echo, memory = results.part("echo"), results.part("memory")
    files = []
    for name, theme in _THEMES.items():
        figures = {}
        if not echo.empty:
            cpu = "CPU time per echoed message in microseconds: less is better"
            figures["cpu"] = _by_server(_medians(echo.cpu_us), cpu, theme)
            figures["peers"] = _peers(_medians(echo.per_second), theme)
        if not memory.empty:
            kibibytes = _medians(memory.bytes_per_connection) / 1024
            title = "Memory per idle connection in KiB: less is better"
            figures["memory"] = _by_server(kibibytes, title, theme)
        for plot, figure in figures.items():
            files.append(directory / f"{plot}-{name}.svg")
            # Without a date, the same results give the same file.
            figure.savefig(files[-1], transparent=True, metadata={"Date": None})
    return files


def _medians(figure: Series) -> Series:
    return figure.groupby(["server", "application"]).median()


def _by_server(medians: Series, title: str, theme: Theme) -> Figure:
    """Draw a group of bars for each server, but for those of `runasgi`."""
    figure, axes = _axes(4.2, title, theme)
    servers = [server for server in SERVERS if not server.endswith(RUNASGI)]
    table = medians.unstack().reindex(index=servers, columns=list(_LABELS))
    table = table.rename(columns=_LABELS).dropna(how="all")
    table.plot.bar(ax=axes, color=theme.colors, width=0.8, rot=0, xlabel="")
    for bars in axes.containers:
        # One that was not measured has none.
        labels = [f"{value:.0f}" if value else "" for value in bars.datavalues]
        axes.bar_label(bars, labels, padding=3, fontsize=9, color=theme.ink)
    axes.yaxis.grid(visible=True, color=theme.faint, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["bottom"].set(visible=True, color=theme.faint)
    axes.legend(loc="upper left", frameon=False, labelcolor=theme.ink, fontsize=10)
    return figure


def _peers(medians: Series, theme: Theme) -> Figure:
    """Draw one bar for each peer that was measured."""
    figure, axes = _axes(2.6, "Echoed messages a second, one core: more is better", theme)
    measured = {label: peer for label, peer in _PEERS.items() if peer in medians}
    values = [medians[peer] for peer in measured.values()]
    colors = [theme.colors[application == "ours"] for _, application in measured.values()]
    bars = axes.barh(list(measured), values, 0.7, color=colors)
    axes.bar_label(bars, fmt="{:,.0f}", padding=6, fontsize=10, color=theme.ink)
    axes.set_xticks([])
    axes.invert_yaxis()
    return figure


def _axes(height: float, title: str, theme: Theme) -> tuple[Figure, Any]:
    figure = Figure(figsize=(10, height), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.set_title(title, loc="left", color=theme.ink, fontsize=12)
    axes.tick_params(colors=theme.ink, length=0)
    axes.margins(x=0.02, y=0.08)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes
