"""What is done to a server, in parts that do more than one thing to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.servers import RUNASGI, SERVERS


@dataclass(frozen=True)
class Case:
    name: str = ""
    load: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the load, besides those of the part."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys of `WS_SUPPORT`."""

    layer: Mapping[str, Any] = field(default_factory=dict)
    """The channel layer `default`; empty: there is none."""

    is_over_redis: bool = False
    """Whether that layer is to be Redis."""

    processes: int = 1
    """How many servers there are at a time, between which clients are divided."""

    options: tuple[str, ...] = ()
    """What is appended to the command line of the server."""

    servers: tuple[str, ...] = tuple(SERVERS)
    """Those that it can be done to."""


def _runasgi(*servers: str) -> tuple[str, ...]:
    return tuple(f"{server}{RUNASGI}" for server in servers)


FLOODS: Final = tuple(
    Case(kind, load={"kind": kind})
    for kind in (
        "nothing",
        "text 100 B",
        "text 1 KiB",
        "binary 1 MiB",
        "text 1 B",
        "pings",
        "busy 1 KiB",
        "busy 1 MiB",
        "sink 1 KiB",
        "spring",
    )
)
"""Each is explained where it is made, in `load/kinds.py`."""

LANES: Final = tuple(
    Case(
        name,
        load=load,
        servers=("uvicorn", "uvicorn-picows", f"uvicorn-picows{RUNASGI}", "node"),
    )
    for name, load in {
        "1 of 100 B": {},
        "16 of 100 B": {"in_flight": 16},
        "512 connections": {"connections": 512},
        "10 KB": {"message_size": 10_000},
        # The most that is admitted by default.
        "1 MB": {"message_size": 2**20, "connections": 8},
        "half load": {"rate": 25_000},
    }.items()
)
"""How much is on its way."""

SHUTDOWN_TIMEOUT: Final = 10
"""Seconds in which a server has to have stopped."""

STOPS: Final = (
    Case(
        "1 worker",
        load={"workers": 1},
        settings={"SHUTDOWN_TIMEOUT": SHUTDOWN_TIMEOUT},
    ),
    Case(
        "2 workers",
        load={"workers": 2},
        settings={"SHUTDOWN_TIMEOUT": SHUTDOWN_TIMEOUT},
        options=("--workers", "2"),
        servers=_runasgi("uvicorn", "hypercorn", "granian"),
    ),
)

_PATIENT: Final = {"HEARTBEAT_INTERVAL": 3600}
"""Idle for longer than the heartbeat would let them be, on a slow machine."""

DEFLATES: Final = (
    # Hypercorn has no option to turn it off.
    Case(
        "off",
        load={"is_offered": True, "is_expected": False},
        settings={"PER_MESSAGE_DEFLATE": False, **_PATIENT},
        servers=_runasgi("uvicorn", "daphne"),
    ),
    Case(
        "not offered",
        load={"is_offered": False, "is_expected": False},
        settings={"PER_MESSAGE_DEFLATE": True, **_PATIENT},
        servers=_runasgi("uvicorn", "hypercorn", "daphne"),
    ),
    Case(
        "on",
        load={"is_offered": True, "is_expected": True},
        settings={"PER_MESSAGE_DEFLATE": True, **_PATIENT},
        servers=_runasgi("uvicorn", "hypercorn", "daphne"),
    ),
)

_IN_MEMORY: Final = {"BACKEND": "channels.layers.InMemoryChannelLayer"}

_WITH_CHANNELS: Final = ("uvicorn", "uvicorn-picows")
"""Where Channels' own consumer is measured beside ours."""

_BY_THEMSELVES: Final = ("websockets", "node")

FANOUTS: Final = (
    *(
        Case(
            f"{subscribers} in memory",
            load={"subscribers": subscribers},
            settings=_PATIENT,
            layer=_IN_MEMORY,
            servers=(*_WITH_CHANNELS, *others, *_BY_THEMSELVES),
        )
        for subscribers, others in (
            (100, ()),
            (500, ("uvicorn+runasgi", "hypercorn", "granian", "daphne")),
            (2000, ()),
        )
    ),
    *(
        Case(
            f"{subscribers} over Redis",
            load={"subscribers": subscribers},
            settings=_PATIENT,
            is_over_redis=True,
            processes=2,
            servers=_WITH_CHANNELS,
        )
        for subscribers in (100, 500, 2000)
    ),
)
"""To how many subscribers, and through which layer."""

_SLOW: Final = (
    ("", 1.0, _runasgi("uvicorn", "uvicorn-picows")),
    # These would need all of their core, and it would be a queue that is measured.
    (" at half pace", 0.5, _runasgi("hypercorn", "granian", "daphne")),
)

SLOW: Final = tuple(
    tuple(
        Case(
            f"{name}{suffix}",
            load={"slow_ones": slow_ones, "pace": pace},
            settings=_PATIENT,
            layer=_IN_MEMORY,
            servers=servers,
        )
        for name, slow_ones in (("all read", 0), ("one does not", 1))
    )
    for suffix, pace, servers in _SLOW
)
"""Pairs, of which the second one has somebody who does not read."""
