"""The results as pictures for the documentation, one for light and one for dark pages each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib

matplotlib.use("svg")

from matplotlib.figure import Figure

from benchmarks.results import Results
from benchmarks.servers import RUNASGI, SERVERS, Competitor


@dataclass(frozen=True)
class Plot:
    name: str
    title: str
    part: str
    figure: str
    scale: float
    """What one unit of the figure is in the unit of the title."""

    show: Callable[[float], str]


@dataclass(frozen=True)
class Theme:
    ink: str
    faint: str
    colors: dict[str, str]


PLOTS: Final = (
    Plot(
        "cpu",
        "CPU time per echoed message in microseconds: less is better",
        *("echo", "cpu_us_per_message", 1, "{:.0f}".format),
    ),
    Plot(
        "throughput",
        "Thousands of echoed messages per second on one core: more is better",
        *("echo", "messages_per_second", 1e-3, "{:.0f}".format),
    ),
    Plot(
        "memory",
        "Memory per idle connection in KiB: less is better",
        *("memory", "bytes_per_connection", 1 / 1024, "{:.0f}".format),
    ),
)

_PEERS: Final = {
    "Channels, on Uvicorn": Competitor("uvicorn", "channels"),
    "Starlette, on Uvicorn": Competitor("uvicorn", "starlette"),
    "websockets, by itself": Competitor("websockets", "websockets"),
    "ws, on Node.js": Competitor("node", "node"),
    "ws_support, on the fast lane": Competitor(f"uvicorn-picows{RUNASGI}", "ours"),
}
"""Those of the one picture for people in a hurry."""

_LABELS: Final = {
    "bare": "nothing but the server",
    "ours": "ws_support",
    "channels": "Channels",
    "starlette": "Starlette",
    "websockets": "websockets, without ASGI",
}
"""The applications in the pictures, in this order."""

_SERVERS: Final = tuple(server for server in SERVERS if not server.endswith(RUNASGI))
"""Not those that are beside themselves only."""

_THEMES: Final = {
    "light": Theme(
        ink="#1f2328",
        faint="#d1d9e0",
        colors={
            "bare": "#8c959f",
            "ours": "#0b7a53",
            "channels": "#d1681d",
            "starlette": "#2f6fd0",
            "websockets": "#8250df",
        },
    ),
    "dark": Theme(
        ink="#e6edf3",
        faint="#3d444d",
        colors={
            "bare": "#7d8590",
            "ours": "#3fb98a",
            "channels": "#f0883e",
            "starlette": "#6ea8fe",
            "websockets": "#b794f6",
        },
    ),
}

_WIDTH: Final = 0.8
"""Of the room for a server, that for its bars."""


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw what was measured as `NAME-light.svg` and `NAME-dark.svg`; the files."""
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for plot in PLOTS:
        for name, theme in _THEMES.items():
            if figure := _figure(results, plot, theme):
                files.append(directory / f"{plot.name}-{name}.svg")
                # Without a date, the same results give the same file.
                figure.savefig(files[-1], transparent=True, metadata={"Date": None})
    for name, theme in _THEMES.items():
        if figure := _peers(results, theme):
            files.append(directory / f"peers-{name}.svg")
            figure.savefig(files[-1], transparent=True, metadata={"Date": None})
    return files


def _peers(results: Results, theme: Theme) -> Figure | None:
    """One bar for each peer, when all of them were measured."""
    measured = set(results.competitors("echo"))
    if not measured.issuperset(_PEERS.values()):
        return None
    matplotlib.rcParams["svg.hashsalt"] = "peers"
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    axes = figure.subplots()
    for place, peer in enumerate(_PEERS.values()):
        values = list(results.series("echo", peer, "messages_per_second").values())
        color = theme.colors["ours" if peer.application == "ours" else "bare"]
        axes.barh(place, median(values), 0.7, color=color)
        axes.hlines(place, min(values), max(values), color=theme.ink, linewidth=1)
        axes.annotate(
            f"{median(values):,.0f}",
            (max(values), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=theme.ink,
        )
    axes.set_facecolor("none")
    axes.set_title(
        "Echoed messages a second, one core: more is better",
        loc="left",
        color=theme.ink,
        fontsize=12,
    )
    axes.set_yticks(range(len(_PEERS)), list(_PEERS), fontsize=11)
    axes.set_xticks([])
    axes.tick_params(colors=theme.ink, length=0)
    axes.margins(x=0.12, y=0.03)
    axes.invert_yaxis()
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _figure(results: Results, plot: Plot, theme: Theme) -> Figure | None:
    measured = set(results.competitors(plot.part))
    groups = {
        server: drawn
        for server in _SERVERS
        if (drawn := [each for each in _LABELS if Competitor(server, each) in measured])
    }
    if not groups:
        return None
    matplotlib.rcParams["svg.hashsalt"] = plot.name
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots()
    labelled: set[str] = set()
    for position, (server, applications) in enumerate(groups.items()):
        # Bars of the same width everywhere, around the middle of their server.
        width = _WIDTH / max(map(len, groups.values()))
        first = position - width * (len(applications) - 1) / 2
        for place, application in enumerate(applications):
            values = results.series(plot.part, Competitor(server, application), plot.figure)
            scaled = [value * plot.scale for value in values.values()]
            _bar(axes, first + place * width, width, scaled, plot, theme, application, labelled)
    _finish(figure, axes, list(groups), plot, theme)
    return figure


def _bar(
    axes: Any,
    x: float,
    width: float,
    values: list[float],
    plot: Plot,
    theme: Theme,
    application: str,
    labelled: set[str],
) -> None:
    middle = median(values)
    label = None if application in labelled else _LABELS[application]
    labelled.add(application)
    axes.bar(x, middle, width * 0.92, color=theme.colors[application], label=label)
    axes.vlines(x, min(values), max(values), color=theme.ink, linewidth=1)
    axes.annotate(
        plot.show(middle),
        (x, max(values)),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=theme.ink,
    )


def _finish(figure: Figure, axes: Any, servers: list[str], plot: Plot, theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.set_title(plot.title, loc="left", color=theme.ink, fontsize=12, pad=34)
    axes.set_xticks(range(len(servers)), servers)
    axes.tick_params(colors=theme.ink, length=0)
    axes.yaxis.grid(visible=True, color=theme.faint, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02, y=0.08)
    axes.set_ylim(bottom=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.faint)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda each: list(_LABELS.values()).index(labels[each]))
    axes.legend(
        [handles[each] for each in order],
        [labels[each] for each in order],
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=len(labels),
        frameon=False,
        labelcolor=theme.ink,
        fontsize=10,
        handlelength=1,
        handleheight=1,
    )
