"""Which servers there are, what runs on them, and how each is started: one process that works.

Options are the servers' defaults but for the log, which is at warnings and without a line for each
request, and where a comment says why. What `runasgi` starts has the options that it gives.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.applications import HOST, HUB_PATH, LAYER_PATH, PATH, TOPICS_PATH

_DJANGO: Final = ("bare", "channels", "ours", "channels-layer", "ours-layer")
ECHOES: Final = (*_DJANGO, "starlette", "websockets", "node")
"""Those that echo bare messages. With "-layer", the consumer is in a group of the in-memory channel
layer."""

OURS_HISTORY: Final = "ours-history"
"""The same as "ours", but the topic that is broadcast to has a history."""

HUBS: Final = ("json-consumer", "hub", "hub-messagepack")
"""Those that answer calls, by the names of the `DIALECTS` of the load."""

TOPICS_HUB: Final = "topics-hub"
"""The hub of topics, whose clients have subscribed to the topic that is broadcast to."""

APPLICATIONS: Final = (*ECHOES, OURS_HISTORY, *HUBS, TOPICS_HUB)

RUNASGI: Final = "+runasgi"
"""What the name of a server ends with when `manage.py runasgi` of this package starts it."""

_LAYER: Final = "-layer"


@dataclass(frozen=True)
class Server:
    applications: tuple[str, ...]
    """Names of applications that run on it."""

    command: str
    """What the program is told, with `{application}` as `module:name`, and with `{port}`."""

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
        if self.application == TOPICS_HUB:
            return TOPICS_PATH
        if self.application in HUBS:
            return PATH if self.application == "json-consumer" else HUB_PATH
        return LAYER_PATH if self.application.endswith(_LAYER) else PATH

    @property
    def beside_it(self) -> str:
        """The server as its own command starts it."""
        return self.server.removesuffix(RUNASGI)

    def command(self, port: int) -> list[str]:
        """Return what starts it on this port."""
        server = SERVERS[self.server]
        command = server.command.format(application=f"{self._module}:application", port=port)
        return [server.program, *command.split()]

    def environment(self, layer: Mapping[str, Any]) -> dict[str, str]:
        """Return what it finds in its environment; `layer` is the channel layer `default`, and
        there is none when it is empty."""
        return {
            **ENVIRONMENT,
            # `runasgi` and `runserver` know the application from Django's settings.
            "BENCHMARKS_ASGI_APPLICATION": f"{self._module}.application",
            "BENCHMARKS_CHANNEL_LAYERS": json.dumps({"default": dict(layer)} if layer else {}),
            "BENCHMARKS_HISTORY": "100" if self.application == OURS_HISTORY else "0",
        }

    @property
    def _module(self) -> str:
        is_hub = self.application in (*HUBS, TOPICS_HUB)
        name = "hubs" if is_hub else self.application.partition("-")[0]
        return f"benchmarks.applications.{name}"


def competitors(servers: list[str], applications: list[str]) -> list[Competitor]:
    """Those of these servers and applications that go together. One server's stand in a row."""
    return [
        Competitor(server, application)
        for server in servers
        for application in SERVERS[server].applications
        if application in applications
    ]


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

_NODE_MODULES: Final = Path(__file__).parent / "node" / "node_modules"
_NODE_JS: Final = shutil.which("node") if _NODE_MODULES.exists() else None
"""Node.js, when it and `ws` are there."""

_AT: Final = f"--host {HOST} --port {{port}}"
_WORKER: Final = "--workers 1 --log-level warning --no-access-log"
_UVICORN: Final = f"-m uvicorn {{application}} {_AT} {_WORKER}"
# The one of Uvicorn's own WebSocket implementations that does the least for each message; "auto"
# chooses the old one. Compression is left on: the client does not ask for it.
_SANSIO: Final = "--ws websockets-sansio"
_PICOWS: Final = "--ws ws_support.servers.picows:PicowsProtocol"
_RUNASGI: Final = f"manage.py runasgi {_AT} --server"

SERVERS: Final = {
    "uvicorn": Server((*_DJANGO, OURS_HISTORY, "starlette"), f"{_UVICORN} --loop uvloop {_SANSIO}"),
    f"uvicorn{RUNASGI}": Server(("ours",), f"{_RUNASGI} uvicorn {_SANSIO}"),
    "uvicorn-picows": Server(
        (*_DJANGO, OURS_HISTORY, "starlette"), f"{_UVICORN} --loop uvloop {_PICOWS}"
    ),
    f"uvicorn-picows{RUNASGI}": Server(
        ("ours", *HUBS, TOPICS_HUB), f"{_RUNASGI} uvicorn --ws picows"
    ),
    "uvicorn-asyncio": Server((*_DJANGO, "starlette"), f"{_UVICORN} --loop asyncio {_SANSIO}"),
    "hypercorn": Server(
        _DJANGO, f"-m hypercorn {{application}} --bind {HOST}:{{port}} --log-level warning"
    ),
    f"hypercorn{RUNASGI}": Server(("ours",), f"{_RUNASGI} hypercorn"),
    "granian": Server(
        _DJANGO,
        # By default 1024 connections at a time; the next one would wait for one of them to end.
        f"-m granian --interface asgi {{application}} {_AT} {_WORKER} --backpressure 8192",
    ),
    f"granian{RUNASGI}": Server(("ours",), f"{_RUNASGI} granian"),
    "daphne": Server(
        _DJANGO, f"-m daphne --bind {HOST} --port {{port}} --verbosity 0 {{application}}"
    ),
    f"daphne{RUNASGI}": Server(("ours",), f"{_RUNASGI} daphne"),
    "runserver": Server(
        ("bare", "channels", "ours"),
        f"manage.py runserver --noreload --skip-checks {HOST}:{{port}}",
    ),
    "websockets": Server(("websockets",), "-m benchmarks.applications.websockets {port}"),
}
if _NODE_JS:
    SERVERS["node"] = Server(("node",), "benchmarks/node/server.mjs {port}", _NODE_JS)
