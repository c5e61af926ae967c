"""Which servers there are, what runs on them, and how each is started: one process that works.

Options are the servers' defaults but for the log, which is at warnings and without a line for each
request, and where a comment says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.handshake import HOST

APPLICATIONS: Final = (
    "bare",
    "channels",
    "ours",
    "channels-layer",
    "ours-layer",
    "starlette",
    "websockets",
)
_DJANGO: Final = ("bare", "channels", "ours", "channels-layer", "ours-layer")


@dataclass(frozen=True)
class Server:
    applications: tuple[str, ...]
    """Names of applications that run on it."""

    command: Callable[[str, int], list[str]]
    """Arguments for Python, given an application as `module:name`, and a port."""


@dataclass(frozen=True)
class Competitor:
    """An application on a server."""

    server: str
    application: str

    def __str__(self) -> str:
        return f"{self.server}/{self.application}"

    def command(self, port: int) -> list[str]:
        """Arguments for Python that start it on this port."""
        module = self.application.replace("-", "_")
        return SERVERS[self.server].command(f"benchmarks.applications.{module}:application", port)


def competitors(servers: list[str], applications: list[str]) -> list[Competitor]:
    """Those of these servers and applications that go together. One server's stand in a row."""
    return [
        Competitor(server, application)
        for server in servers
        for application in SERVERS[server].applications
        if application in applications
    ]


def _uvicorn(loop: str) -> Callable[[str, int], list[str]]:
    # The WebSocket implementation that does the least for each message; "auto" chooses the old one.
    # Compression is left on: the client does not ask for it.
    return lambda application, port: [
        *("-m", "uvicorn", application, "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--loop", loop, "--ws", "websockets-sansio"),
        *("--log-level", "warning", "--no-access-log"),
    ]


def _hypercorn(application: str, port: int) -> list[str]:
    return [
        *("-m", "hypercorn", application, "--bind", f"{HOST}:{port}", "--workers", "1"),
        *("--log-level", "warning"),
    ]


def _granian(application: str, port: int) -> list[str]:
    return [
        *("-m", "granian", application, "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--interface", "asgi", "--log-level", "warning", "--no-access-log"),
        # By default 1024 connections at a time; the next one would wait for one of them to end.
        *("--backpressure", "8192"),
    ]


def _daphne(application: str, port: int) -> list[str]:
    return ["-m", "daphne", "--bind", HOST, "--port", str(port), "--verbosity", "0", application]


def _daphne_ws_support(application: str, port: int) -> list[str]:
    return ["-m", "benchmarks.launchers.daphne_ws_support", application, str(port)]


def _websockets(_: str, port: int) -> list[str]:
    return ["-m", "benchmarks.launchers.websockets", str(port)]


ENVIRONMENT: Final = {
    "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
    # asyncio makes room for 256 KiB before each recv(). glibc maps and unmaps that, message by
    # message, until the process happens to free a large block; from then on it comes from the heap.
    # Loading Django frees one and the bare application never does: 13 us a message on asyncio and
    # Hypercorn, which made the bare application dearer than Django. With both thresholds given,
    # all are in the state of an application that has been loaded. Memory a connection is the same.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 1024**2),
}
"""What every server finds in its environment."""

SERVERS: Final = {
    "uvicorn": Server((*_DJANGO, "starlette"), _uvicorn("uvloop")),
    "uvicorn-asyncio": Server((*_DJANGO, "starlette"), _uvicorn("asyncio")),
    "hypercorn": Server(_DJANGO, _hypercorn),
    "granian": Server(_DJANGO, _granian),
    "daphne": Server(_DJANGO, _daphne),
    "daphne+ws_support": Server(("bare", "channels", "ours"), _daphne_ws_support),
    "websockets": Server(("websockets",), _websockets),
}
