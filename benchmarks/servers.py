"""Which servers there are, what runs on them, and how each is started: one process that works.

Options are the servers' defaults but for the log, which is at warnings and without a line for each
request, and where a comment says why. What `runasgi` starts has the options that it gives.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.handshake import HOST, LAYER_PATH, PATH

APPLICATIONS: Final = (
    "bare",
    "channels",
    "ours",
    "channels-layer",
    "ours-layer",
    "starlette",
    "websockets",
    "node",
)
"""With "-layer", its consumer is in a group of the in-memory channel layer."""

_DJANGO: Final = ("bare", "channels", "ours", "channels-layer", "ours-layer")

RUNASGI: Final = "+runasgi"
"""What the name of a server ends with when `manage.py runasgi` of this package starts it."""

_LAYER: Final = "-layer"


@dataclass(frozen=True)
class Server:
    applications: tuple[str, ...]
    """Names of applications that run on it."""

    command: Callable[[str, int], list[str]]
    """Arguments for the program, given an application as `module:name`, and a port."""

    program: str = sys.executable
    """Python, unless it is none of ours."""


@dataclass(frozen=True)
class Competitor:
    """An application on a server."""

    server: str
    application: str

    def __str__(self) -> str:
        return f"{self.server}/{self.application}"

    @property
    def path(self) -> str:
        """Where it echoes."""
        return LAYER_PATH if self.application.endswith(_LAYER) else PATH

    @property
    def beside_it(self) -> str:
        """The server as its own command starts it."""
        return self.server.removesuffix(RUNASGI)

    def command(self, port: int) -> list[str]:
        """Return what starts it on this port."""
        server = SERVERS[self.server]
        return [server.program, *server.command(f"{self._module}:application", port)]

    def environment(self, layer: Mapping[str, Any]) -> dict[str, str]:
        """Return what it finds in its environment; `layer` is the channel layer `default`, and
        there is none when it is empty."""
        return {
            **ENVIRONMENT,
            # `runasgi` and `runserver` know the application from Django's settings.
            "BENCHMARKS_ASGI_APPLICATION": f"{self._module}.application",
            "BENCHMARKS_CHANNEL_LAYERS": json.dumps({"default": dict(layer)} if layer else {}),
        }

    @property
    def _module(self) -> str:
        return f"benchmarks.applications.{self.application.removesuffix(_LAYER)}"


def competitors(servers: list[str], applications: list[str]) -> list[Competitor]:
    """Those of these servers and applications that go together. One server's stand in a row."""
    return [
        Competitor(server, application)
        for server in servers
        for application in SERVERS[server].applications
        if application in applications
    ]


def _uvicorn(loop: str, ws: str = "websockets-sansio") -> Callable[[str, int], list[str]]:
    # The one of Uvicorn's own WebSocket implementations that does the least for each message;
    # "auto" chooses the old one. Compression is left on: the client does not ask for it.
    return lambda application, port: [
        *("-m", "uvicorn", application, "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--loop", loop, "--ws", ws),
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


def _runasgi(server: str, *options: str) -> Callable[[str, int], list[str]]:
    return lambda _, port: [
        *("manage.py", "runasgi", "--server", server, "--host", HOST, "--port", str(port)),
        *options,
    ]


def _runserver(_: str, port: int) -> list[str]:
    return ["manage.py", "runserver", "--noreload", "--skip-checks", f"{HOST}:{port}"]


def _websockets(_: str, port: int) -> list[str]:
    return ["-m", "benchmarks.applications.websockets", str(port)]


def _node(_: str, port: int) -> list[str]:
    return [str(_NODE / "server.mjs"), str(port)]


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

_PICOWS: Final = "ws_support.servers.picows:PicowsProtocol"

_NODE: Final = Path(__file__).parent / "node"
_NODE_JS: Final = shutil.which("node") if (_NODE / "node_modules").exists() else None
"""Node.js, when it and `ws` are there."""

SERVERS: Final = {
    "uvicorn": Server((*_DJANGO, "starlette"), _uvicorn("uvloop")),
    f"uvicorn{RUNASGI}": Server(("ours",), _runasgi("uvicorn", "--ws", "websockets-sansio")),
    "uvicorn-picows": Server((*_DJANGO, "starlette"), _uvicorn("uvloop", _PICOWS)),
    f"uvicorn-picows{RUNASGI}": Server(("ours",), _runasgi("uvicorn", "--ws", "picows")),
    "uvicorn-asyncio": Server((*_DJANGO, "starlette"), _uvicorn("asyncio")),
    "hypercorn": Server(_DJANGO, _hypercorn),
    f"hypercorn{RUNASGI}": Server(("ours",), _runasgi("hypercorn")),
    "granian": Server(_DJANGO, _granian),
    f"granian{RUNASGI}": Server(("ours",), _runasgi("granian")),
    "daphne": Server(_DJANGO, _daphne),
    f"daphne{RUNASGI}": Server(("ours",), _runasgi("daphne")),
    "runserver": Server(("bare", "channels", "ours"), _runserver),
    "websockets": Server(("websockets",), _websockets),
    **({"node": Server(("node",), _node, _NODE_JS)} if _NODE_JS else {}),
}
