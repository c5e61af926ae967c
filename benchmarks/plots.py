"""The results as pictures for the documentation, one for light and one for dark pages each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib
from matplotlib.figure import Figure

from benchmarks.results import Results
from benchmarks.servers import RUNASGI, SERVERS, Competitor

_LABELS: Final = {
    "bare": "nothing but the server",
    "ours": "ws_support",
    "channels": "Channels",
    "starlette": "Starlette",
    "websockets": "websockets, without ASGI",
}
"""The applications in the pictures, in this order."""

_PEERS: Final = {
    "Channels, on Uvicorn": Competitor("uvicorn", "channels"),
    "Starlette, on Uvicorn": Competitor("uvicorn", "starlette"),
    "websockets, by itself": Competitor("websockets", "websockets"),
    "ws, on Node.js": Competitor("node", "node"),
    "ws_support, on the fast lane": Competitor(f"uvicorn-picows{RUNASGI}", "ours"),
}
"""Those of the one picture for people in a hurry."""


@dataclass(frozen=True)
class Theme:
    ink: str
    faint: str
    colors: tuple[str, ...]
    """Of the applications, in the order of `_LABELS`."""


_THEMES: Final = {
    "light": Theme("#1f2328", "#d1d9e0", ("#8c959f", "#0b7a53", "#d1681d", "#2f6fd0", "#8250df")),
    "dark": Theme("#e6edf3", "#3d444d", ("#7d8590", "#3fb98a", "#f0883e", "#6ea8fe", "#b794f6")),
}


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw what was measured as `NAME-light.svg` and `NAME-dark.svg`, and return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"
    files = []
    for name, theme in _THEMES.items():
        cpu = "CPU time per echoed message in microseconds: less is better"
        memory = "Memory per idle connection in KiB: less is better"
        figures = {
            "cpu": _by_server(_series(results, "echo", "cpu_us"), cpu, theme),
            "memory": _by_server(
                _series(results, "memory", "bytes_per_connection", 1024), memory, theme
            ),
            "peers": _peers(_series(results, "echo", "per_second"), theme),
        }
        for plot, figure in figures.items():
            if figure is not None:
                files.append(directory / f"{plot}-{name}.svg")
                # Without a date, the same results give the same file.
                figure.savefig(files[-1], transparent=True, metadata={"Date": None})
    return files


def _series(
    results: Results, part: str, figure: str, unit: float = 1
) -> dict[Competitor, list[float]]:
    return {
        competitor: [each / unit for each in results.series(part, competitor, figure).values()]
        for competitor, _ in results.rows(part)
    }


def _by_server(series: Mapping[Competitor, list[float]], title: str, theme: Theme) -> Figure | None:
    """Draw a group of bars for each server, but for those of `runasgi`; `None`: there is none."""
    groups = {
        server: bars
        for server in SERVERS
        if not server.endswith(RUNASGI)
        and (bars := [each for each in _LABELS if Competitor(server, each) in series])
    }
    if not groups:
        return None
    figure, axes = _axes(4.2, title, theme)
    width = 0.8 / max(map(len, groups.values()))
    for application, color in zip(_LABELS, theme.colors, strict=True):
        # Bars of the same width everywhere, around the middle of their server.
        at = {
            place + width * (bars.index(application) - (len(bars) - 1) / 2): server
            for place, (server, bars) in enumerate(groups.items())
            if application in bars
        }
        values = [median(series[Competitor(server, application)]) for server in at.values()]
        label = _LABELS[application]
        bars = axes.bar(list(at), values, width * 0.92, color=color, label=label)
        axes.bar_label(bars, fmt="{:.0f}", padding=3, fontsize=9, color=theme.ink)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.yaxis.grid(visible=True, color=theme.faint, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["bottom"].set(visible=True, color=theme.faint)
    axes.legend(loc="upper right", frameon=False, labelcolor=theme.ink, fontsize=10)
    return figure


def _peers(series: Mapping[Competitor, list[float]], theme: Theme) -> Figure | None:
    """Draw one bar for each peer, when all of them were measured."""
    if not series.keys() >= set(_PEERS.values()):
        return None
    figure, axes = _axes(2.6, "Echoed messages a second, one core: more is better", theme)
    values = [median(series[peer]) for peer in _PEERS.values()]
    colors = [theme.colors[peer.application == "ours"] for peer in _PEERS.values()]
    bars = axes.barh(list(_PEERS), values, 0.7, color=colors)
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
