"""Real servers for `tests.project`, most of them started by a warm process."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.request import urlopen

from tests import warm as warm_processes
from ws_support import testing
from ws_support.testing import BOUND, RawClient, free_port, wait_until
from ws_support.testing.server import Process, spawn_python

__all__ = [
    "ASGI_SERVERS",
    "BOUND",
    "ROOT",
    "SERVERS",
    "RawClient",
    "Server",
    "examples",
    "free_port",
    "memory",
    "runasgi_to_its_end",
    "running",
    "serving",
    "spawn_warm",
    "started",
    "to_its_end",
    "until",
    "wait_until",
]

ROOT = Path(__file__).resolve().parent.parent
SERVERS = ["runserver", "uvicorn", "hypercorn", "granian"]
"""As their own commands start them, and Daphne as `runserver` does."""
ASGI_SERVERS = ["daphne", "uvicorn-picows", "uvicorn", "hypercorn", "granian"]
"""As `runasgi` starts them; "uvicorn" is with its own protocol."""

_OPTIONS = {
    "uvicorn-picows": ("--server", "uvicorn", "--ws", "picows"),
    "uvicorn": ("--server", "uvicorn", "--ws", "websockets-sansio"),
    "uvicorn-default": ("--server", "uvicorn"),
}


_WITHOUT_DAPHNE = ("uvicorn", "hypercorn", "granian")
"""Servers for which the application "daphne" is not installed: it loads Twisted, and half of what a
server needs to start is for that."""


def examples(count: int) -> int:
    """How many examples Hypothesis tries: `count` in CI, elsewhere a third, which saves time."""
    return count if os.environ.get("CI") else count // 3


started: list[Server] = []
"""Those that run, or have been stopped by the present test."""


@dataclass(eq=False)
class Server(testing.Server):
    """A server for `tests.project`, which logs events."""

    since: int = 0
    """Where its log begins for the test."""

    def from_now_on(self) -> Server:
        """The same server, with a log that begins here: for a test that shares it.

        A client of the test before may have gone a moment ago, so what the server logs of its end
        is waited for.
        """
        wait_until(lambda: self._open() == 0, "end of the connections so far", self.log)
        return replace(self, since=self.mark())

    def _open(self) -> int:
        with urlopen(f"http://{self.host}:{self.port}/open", timeout=BOUND) as response:
            return int(response.read())

    def log(self, since: int = 0) -> str:
        return super().log(max(since, self.since))

    def events(self, name: str, path: str | None = None) -> list[dict[str, Any]]:
        """The lines that `tests.project.asgi` logged, of one kind and for one path."""
        # The last line may be on its way.
        lines = self.log().rpartition("\n")[0].splitlines()
        lines = [line for line in lines if line.startswith(f'{{"event": "{name}"')]
        events = [json.loads(line) for line in lines]
        return [each for each in events if path in (None, each.get("path"))]

    def wait_for_event(self, name: str, path: str, count: int = 1) -> dict[str, Any]:
        """The `count`th event of this kind, when it has come."""

        def found() -> list[dict[str, Any]]:
            return self.events(name, path)[count - 1 :]

        return wait_until(found, f"event {name} for {path}", self.log)[0]

    def wait_until_nobody_listens(self) -> None:
        """Wait until its workers have ended, too, which outlive a main process that was killed."""
        for _ in until("end of the workers", self.log):
            with socket.socket() as probe:
                probe.settimeout(1)  # A worker that hangs may have a full queue.
                if probe.connect_ex((self.host, self.port)) == errno.ECONNREFUSED:
                    return


def until(what: str, details: Any = lambda: "") -> Iterator[None]:
    """Try again, and fail when what is waited for has not happened within the bound."""
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        yield
        time.sleep(0.01)
    raise AssertionError(f"no {what} within {BOUND:g} s\n{details()}")


@contextmanager
def serving(
    log_file: Path,
    *,
    command: str = "runserver",
    arguments: tuple[str, ...] = (),
    cwd: Path = ROOT,
    environment: dict[str, str] | None = None,
    asgi_server: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    listens_at: Path | None = None,
    waits: bool = True,
    warm: bool = True,
    measured: bool = True,
    **settings: Any,
) -> Iterator[Server]:
    """A server for `tests.project` with these settings, started and stopped.

    It has a port of its own, unless one is given. `asgi_server` is one that `runasgi` starts,
    instead of `command`. `listens_at` is the Unix socket that the arguments name. Unless it
    `waits`, the server may not be listening yet. Unless it is `warm`, Python itself is started, as
    by its users: for tests of just that, and of a process's memory. Unless it is `measured`, its
    lines are not counted, which takes longer than the lines: for tests with a lot to do.
    """
    if asgi_server is not None:
        command = "runasgi"
        arguments = (*_OPTIONS.get(asgi_server, ("--server", asgi_server)), *arguments)
    port = port or free_port(host)
    application = "tests.project.asgi:application"
    commands = {
        "runserver": ["manage.py", "runserver", "--noreload", f"{host}:{port}"],
        "reloading": ["manage.py", "runserver", f"{host}:{port}"],
        "uvicorn": ["-m", "uvicorn", application, "--port", str(port)],
        "hypercorn": ["-m", "hypercorn", application, "--bind", f"{host}:{port}"],
        "verbose": ["-m", "tests.project.verbose", str(port)],
        "runasgi": ["manage.py", "runasgi", "--host", host, "--port", str(port)],
        "granian": ["-m", "granian", "--interface", "asgi", application, "--port", str(port)],
    }
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.project.settings",
        "TEST_SETTINGS": json.dumps(settings),
        **(environment or {}),
    }
    if not measured:
        environment[warm_processes.UNMEASURED] = "yes"
    if (asgi_server or command).startswith(_WITHOUT_DAPHNE):
        environment["WITHOUT_DAPHNE"] = "yes"
    with running(
        [*commands[command], *map(str, arguments)],
        log_file,
        host=host,
        port=port,
        listens_at=listens_at,
        waits=waits,
        cwd=cwd,
        environment=environment,
        # A terminal's Ctrl-C goes to a group of processes.
        start_new_session=command == "reloading",
        warm=warm and command != "reloading",
        name=asgi_server or command,
    ) as server:
        yield server


@contextmanager
def running(
    arguments: list[str],
    log_file: Path,
    *,
    port: int,
    environment: dict[str, str],
    host: str = "127.0.0.1",
    listens_at: Path | None = None,
    waits: bool = True,
    cwd: Path = ROOT,
    start_new_session: bool = False,
    name: str = "",
    warm: bool = True,
) -> Iterator[Server]:
    """A server that Python starts with these arguments, listening at `port`, and stopped."""
    server = Server.start(
        arguments,
        log_file,
        port=port,
        host=host,
        environment=environment,
        cwd=cwd,
        name=name,
        start_new_session=start_new_session,
        spawn=spawn_warm if warm else spawn_python,
    )
    started.append(server)
    with server:
        if waits:
            server.wait_until_listening(listens_at)
        yield server


def spawn_warm(
    arguments: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: int,
    start_new_session: bool,
) -> Process:
    """Start `python ARGUMENTS` in a process that has imported what it needs, if there is one."""
    added = {name: env[name] for name in env if env[name] != os.environ.get(name)}
    added.pop("PYTHONUNBUFFERED", None)  # The warm processes have it.
    kind = warm_processes.kind_of(arguments, added)
    if kind is None:
        return spawn_python(
            arguments, cwd=cwd, env=env, log=log, start_new_session=start_new_session
        )
    return warm_processes.warm(kind).start(
        arguments, cwd=cwd, env=env, stdout=log, stderr=log, start_new_session=start_new_session
    )


def runasgi_to_its_end(
    *arguments: object, settings: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """A run that is expected to end by itself, for an error."""
    return to_its_end("runasgi", *map(str, arguments), settings=settings or {})


def to_its_end(*arguments: str, settings: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """A run of `manage.py` that ends by itself."""
    command = ["manage.py", *arguments]
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.project.settings",
        "TEST_SETTINGS": json.dumps(settings),
    }
    kind = warm_processes.kind_of(command, environment)
    if kind is None:
        return subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )
    with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
        process = warm_processes.warm(kind).start(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=stdout.fileno(),
            stderr=stderr.fileno(),
            # Granian gives up when the second worker dies soon after the first.
            replaced=1 if kind == "granian" else 0,
        )
        try:
            code = process.wait(BOUND)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        for file in (stdout, stderr):
            file.seek(0)
        return subprocess.CompletedProcess(process.args, code, stdout.read(), stderr.read())


def memory(pid: int) -> int:
    """Bytes that a process and its descendants have written in memory."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Dirty:", "Swap:")):
            total += int(line.split()[1]) * 1024
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return total + sum(memory(int(child)) for child in children)
