"""Real servers in processes of their own, each on a free port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from ws_support.testing.waiting import BOUND, wait_until
from ws_support.testing.wire import RawClient

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

__all__ = ["Process", "Server", "Spawn", "spawn_python"]

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

    def wait_until_listening(self, path: Path | None = None, *, bound: float = BOUND) -> None:
        """Wait until the server listens at its port, or at the Unix socket `path`.

        Raises `AssertionError`, with the log, if it ends instead, or after `bound` seconds.
        """
        wait_until(lambda: self._is_listening(path), "listening server", self.log, bound=bound)

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
