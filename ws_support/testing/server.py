"""Real servers in processes of their own, each on a free port."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from ws_support.testing.waiting import BOUND, wait_until
from ws_support.testing.wire import RawClient

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

__all__ = [
    "Process",
    "Server",
    "ServerGetter",
    "ServerPool",
    "Spawn",
    "free_port",
    "spawn_python",
]

_Self = TypeVar("_Self", bound="Server")

_TRACEBACK: Final = "Traceback (most recent call last):"


class Process(Protocol):
    """What a `Server` needs of its process, as `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


class Spawn(Protocol):
    """A function that starts `python ARGUMENTS`, as `spawn_python()` does."""

    def __call__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        log: int,
        start_new_session: bool,
    ) -> Process: ...


def spawn_python(
    arguments: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: int,
    start_new_session: bool,
) -> Process:
    """Start `python ARGUMENTS`, whose output and errors go to the file descriptor `log`."""
    return subprocess.Popen(  # noqa: S603 - the test says what to start
        [sys.executable, *arguments],
        cwd=cwd,
        env=env,
        stdout=log,
        stderr=log,
        start_new_session=start_new_session,
    )


@dataclass(eq=False)
class Server:
    """A server in a process of its own.

    As a context manager, it is stopped at the end of the block.
    """

    process: Process
    host: str
    port: int
    log_file: Path
    name: str = ""
    """What the test calls it."""

    @classmethod
    def start(
        cls: type[_Self],
        arguments: Sequence[str],
        log_file: Path,
        *,
        port: int,
        host: str = "127.0.0.1",
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str = "",
        start_new_session: bool = False,
        spawn: Spawn = spawn_python,
    ) -> _Self:
        """Start `python ARGUMENTS`, which is going to listen at `host` and `port`.

        Its output is appended to `log_file`. `environment` is added to that of this process.
        `spawn` starts the process. Does not wait: `wait_until_listening()` does.
        """
        # Appending, so that the lines of several processes do not overwrite each other.
        with log_file.open("ab") as log:
            process = spawn(
                arguments,
                cwd=cwd or Path.cwd(),
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                log=log.fileno(),
                start_new_session=start_new_session,
            )
        return cls(process, host, port, log_file, name)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def origin(self) -> str:
        """The origin of pages that this server serves, such as `http://127.0.0.1:20000`."""
        return f"http://{self.host}:{self.port}"

    def url(self, path: str = "/ws") -> str:
        return f"ws://{self.host}:{self.port}{path}"

    def connect(self, path: str = "/ws", **options: Any) -> ClientConnection:
        """Connect with `websockets.sync.client.connect()`, which takes `options`.

        The origin is that of the server, unless another `origin` is given.
        """
        try:
            from websockets.sync.client import connect
        except ImportError as error:
            raise ImportError(
                "Server.connect() needs websockets 15 or newer, which is not installed. Run:"
                ' python -m pip install "websockets>=15"'
            ) from error
        options.setdefault("origin", self.origin)
        options.setdefault("max_size", None)
        options.setdefault("proxy", None)
        connection: ClientConnection = connect(self.url(path), **options)
        return connection

    def raw(self) -> RawClient:
        """Connect with a client that sends any bytes."""
        return RawClient(self.host, self.port)

    def log(self, since: int = 0) -> str:
        """Return what the server has written, from a `mark()` on."""
        with self.log_file.open("rb") as file:
            file.seek(since)
            return file.read().decode(errors="replace")

    def mark(self) -> int:
        """Return the present end of the log."""
        return self.log_file.stat().st_size

    def wait_for_log(self, text: str, since: int = 0) -> str:
        """Wait until the log has `text`, from a `mark()` on, and return the log from there."""
        wait_until(lambda: text in self.log(since), f"{text!r} in the log", lambda: self.log(since))
        return self.log(since)

    def check_log(self, since: int = 0) -> None:
        """Raise `AssertionError` if there is a traceback in the log, from a `mark()` on."""
        log = self.log(since)
        if _TRACEBACK in log:
            raise AssertionError(f"There is a traceback in the log of the server:\n{log}")

    def wait_until_listening(self, path: Path | None = None) -> None:
        """Wait until the server listens at its port, or at the Unix socket `path`.

        Raises `AssertionError`, with the log, if it ends instead.
        """
        wait_until(lambda: self._is_listening(path), "listening server", self.log)

    def _is_listening(self, path: Path | None) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"The server has ended before it listened:\n{self.log()}")
        try:
            if path is None:
                socket.create_connection((self.host, self.port), 1).close()
            else:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(path))
        except OSError:
            return False
        return True

    def stop(self) -> int:
        """Stop the server as an operator does, with SIGTERM, and return its exit code.

        A server that does not end within `BOUND` seconds is killed, and `TimeoutExpired` raised.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(BOUND)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class ServerPool:
    """Servers of a project, each of which is kept and given to every test that asks for its like.

    `directory` is where the logs go, and `cwd` where `manage.py` is. Of more than `most` servers
    the one that was asked for least recently is stopped.
    """

    def __init__(
        self,
        directory: Path,
        *,
        cwd: Path | None = None,
        spawn: Spawn = spawn_python,
        most: int = 8,
    ) -> None:
        self._directory = directory
        self._cwd = cwd or Path.cwd()
        self._spawn = spawn
        self._most = most
        self._kept: OrderedDict[str, Server] = OrderedDict()
        self._count = 0

    def get(
        self,
        server: str | None = None,
        *,
        command: str | Sequence[str] = "runasgi",
        arguments: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> Server:
        """Return a server that listens, started by an earlier call with equal arguments, or now.

        One that has ended meanwhile is started again.

        - `server`: what `runasgi --server` takes: "uvicorn", "granian", "hypercorn" or "daphne".
        - `command`: "runasgi", "runserver", or the arguments of Python for any other command, in
          which `{host}` and `{port}` are replaced.
        - `arguments`: further ones for the command.
        - `settings`: Django settings in place of the project's. They travel as JSON.
        - `environment`: further environment variables.
        """
        variables = {**(environment or {}), **_overriding(settings or {}, environment or {})}
        line = [*self._command(command, server), *arguments]
        key = json.dumps([line, variables, host], sort_keys=True)
        kept = self._kept.pop(key, None)
        if kept is None or kept.process.poll() is not None:
            name = server or (command if isinstance(command, str) else " ".join(command))
            kept = self._start(line, variables, host, name)
        self._kept[key] = kept
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)[1].stop()
        return kept

    def stop(self) -> None:
        """Stop every server."""
        with ExitStack() as stack:
            while self._kept:
                stack.enter_context(self._kept.popitem()[1])

    @contextmanager
    def checked(self) -> Iterator[ServerGetter]:
        """Return a `get()` for one test, at whose end the logs are checked.

        Raises `AssertionError` if a server that the test has used has logged a traceback since.
        """
        marks: dict[Server, int] = {}

        def get(*arguments: Any, **options: Any) -> Server:
            server = self.get(*arguments, **options)
            marks.setdefault(server, server.mark())
            return server

        yield get
        for server, mark in marks.items():
            server.check_log(mark)

    def _command(self, command: str | Sequence[str], server: str | None) -> list[str]:
        if not isinstance(command, str):
            return list(command)
        manage = ["manage.py"] if (self._cwd / "manage.py").exists() else ["-m", "django"]
        if command == "runserver":
            return [*manage, "runserver", "--noreload", "{host}:{port}"]
        if command == "runasgi":
            choice = [] if server is None else ["--server", server]
            return [*manage, "runasgi", *choice, "--host", "{host}", "--port", "{port}"]
        raise ValueError(
            f"command={command!r}: use 'runasgi', 'runserver', or a list of the arguments of Python"
            ' such as ["-m", "uvicorn", "mysite.asgi:application", "--port", "{port}"].'
        )

    def _start(
        self, line: Sequence[str], environment: Mapping[str, str], host: str, name: str
    ) -> Server:
        self._count += 1
        port = free_port(host)
        server = Server.start(
            [each.replace("{host}", host).replace("{port}", str(port)) for each in line],
            self._directory / f"server-{self._count}.log",
            host=host,
            port=port,
            environment=environment,
            cwd=self._cwd,
            name=name,
            spawn=self._spawn,
        )
        try:
            server.wait_until_listening()
        except BaseException:
            server.stop()
            raise
        return server


class ServerGetter(Protocol):
    """`ServerPool.get`, for one test."""

    def __call__(
        self,
        server: str | None = None,
        *,
        command: str | Sequence[str] = "runasgi",
        arguments: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> Server: ...


_SETTINGS_MODULE: Final = "DJANGO_SETTINGS_MODULE"
_OVERRIDDEN_MODULE: Final = "WS_SUPPORT_TESTING_SETTINGS_MODULE"
_OVERRIDES: Final = "WS_SUPPORT_TESTING_SETTINGS"


def _overriding(settings: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables by which a process has `settings` in place of its own."""
    if not settings:
        return {}
    module = environment.get(_SETTINGS_MODULE) or os.environ.get(_SETTINGS_MODULE)
    if not module:
        raise ValueError(
            f"settings: {_SETTINGS_MODULE} is not set, so that nobody knows which settings to"
            " change. Set it, or give it in environment."
        )
    try:
        text = json.dumps(settings, sort_keys=True)
    except TypeError as error:
        raise TypeError(f"settings: they go to another process as JSON: {error}.") from error
    return {
        _SETTINGS_MODULE: "ws_support.testing._settings",
        _OVERRIDDEN_MODULE: module,
        _OVERRIDES: text,
    }


# Below those that the kernel gives to clients (32768 and above, on Linux), which would take a port
# before its server does. Each worker of pytest-xdist has its own.
_PORT_COUNT: Final = 1_500
_FIRST_PORT: Final = 20_000 + _PORT_COUNT * (
    int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8
)
_PORTS = cycle(range(_FIRST_PORT, _FIRST_PORT + _PORT_COUNT))
for _ in range(SystemRandom().randrange(_PORT_COUNT)):
    next(_PORTS)

# Two runs on one machine have the same ports. What one has found free is the other's no more until
# a server listens there: a port for UDP that belongs to it, and that nobody uses, is taken.
_LEASE_OFFSET: Final = 12_000
_MOST_LEASES: Final = 64
_LEASES: deque[int] = deque()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port at which nobody listens, and another one each time."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in islice(_PORTS, _PORT_COUNT):
        with (
            socket.socket(family) as probe,
            socket.socket(family, socket.SOCK_DGRAM) as lease,
            suppress(OSError),
        ):
            lease.bind((host, port - _LEASE_OFFSET))
            probe.bind((host, port))
            _LEASES.append(lease.detach())
            if len(_LEASES) > _MOST_LEASES:
                socket.close(_LEASES.popleft())
            return port
    raise OSError(
        f"No port of {host} from {_FIRST_PORT} to {_FIRST_PORT + _PORT_COUNT - 1} is free."
    )
