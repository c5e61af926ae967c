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
