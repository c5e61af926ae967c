"""The servers' processes: started on one core, ready, and ended for certain."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeAlias

import psutil

from benchmarks import handshake
from benchmarks.handshake import HOST
from benchmarks.servers import Competitor

ROOT: Final = Path(__file__).resolve().parent.parent

REDIS: Final = shutil.which("redis-server")
"""The program, or `None` when it is not installed."""

_START_TIMEOUT: Final = 60
"""Seconds in which a server has to answer, while others start on the same core."""
_STOP_TIMEOUT: Final = 5
"""Seconds for a server to end by itself."""
_LOG_LINES: Final = 30
"""The last lines of a log, which are shown when a server failed."""


Cores: TypeAlias = "tuple[int | None, int | None]"
"""One for servers and one for the client."""


class ServerFailed(Exception):
    """A server did not start, or has ended."""


def choose_cores() -> Cores:
    """Return a core for servers and one for the client, so that neither takes time from the other.

    The two are not threads of one core, where there are others. Both are `None` on a machine with
    one core, where nothing is pinned.
    """
    first, *others = sorted(psutil.Process().cpu_affinity())
    if not others:
        return None, None
    threads = (psutil.cpu_count() or 1) // (psutil.cpu_count(logical=False) or 1)
    # Linux numbers the threads of a core either in a row or half of all apart.
    siblings = {first + 1, first + (psutil.cpu_count() or 1) // 2} if threads > 1 else set()
    return first, next((core for core in others if core not in siblings), others[-1])


def prepare(core: int | None) -> None:
    """Pin the new process, its threads and its children to a core, before the program starts."""
    if core is not None:
        psutil.Process().cpu_affinity([core])


class Process:
    """A program that writes to a log and has a port."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        core: int | None,
        log: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.name = name
        self.port = port
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command lines
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # The Ctrl-C of the terminal does not reach it.
                start_new_session=True,
                preexec_fn=partial(prepare, core),
            )
        self._main = psutil.Process(self._process.pid)
        self.processes: list[int] = []
        """The ids of the main process and its descendants, when it is ready."""

    def wait_until_ready(self) -> None:
        """Wait until it serves. Raises `ServerFailed` when it does not in time."""
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} did not start.\n{self.log()}")
            time.sleep(0.02)
        self.processes = self._now()

    def is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self.port), 1):
            return True
        return False

    def check(self) -> None:
        """Raise `ServerFailed` unless the same processes run as when it was ready."""
        if self._process.poll() is not None or self._now() != self.processes:
            raise ServerFailed(f"{self.name} has ended, or a worker has.\n{self.log()}")

    def _now(self) -> list[int]:
        descendants = self._main.children(recursive=True)
        return [self._main.pid, *sorted(each.pid for each in descendants)]

    def log(self) -> str:
        """Return the end of what it wrote."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (It wrote nothing.)"

    def end(self) -> None:
        """Ask the main process to end, which ends its workers, and kill what is left then."""
        with suppress(psutil.NoSuchProcess):
            descendants = self._main.children(recursive=True)
            self._main.terminate()
            _, left = psutil.wait_procs([self._main, *descendants], timeout=_STOP_TIMEOUT)
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.wait()


class ServerProcess(Process):
    """A competitor that runs, on a port of its own."""

    def __init__(
        self,
        competitor: Competitor,
        port: int,
        core: int | None,
        log: Path,
        layer: Mapping[str, Any],
    ) -> None:
        self.competitor = competitor
        command, environment = competitor.command(port), competitor.environment(layer)
        super().__init__(str(competitor), command, port, core, log, environment)

    def is_ready(self) -> bool:
        """Return True when a handshake is accepted: some listen before they have an application.

        Raises `ServerFailed` for one that is refused.
        """
        received = b""
        with suppress(OSError), socket.create_connection((HOST, self.port), 10) as client:
            client.sendall(handshake.request(self.port))
            while b"\r\n\r\n" not in received and (data := client.recv(4096)):
                received += data
            if not handshake.is_accepted(received):
                raise ServerFailed(f"{self.name} refused: {received[:200]!r}\n{self.log()}")
            client.sendall(handshake.CLOSE)
            while client.recv(4096):
                pass
            return True
        return False


@contextmanager
def running(
    competitors: Sequence[Competitor], core: int | None, layer: Mapping[str, Any]
) -> Iterator[list[ServerProcess]]:
    """Run servers, all ready, that end in any event, with this channel layer as their default.

    Raises `ServerFailed` when one does not start.
    """
    with TemporaryDirectory(prefix="ws-support-benchmarks-") as logs, ExitStack() as stack:
        servers = []
        for number, port in enumerate(_free_ports(len(competitors))):
            log = Path(logs, f"{number}.log")
            server = ServerProcess(competitors[number], port, core, log, layer)
            stack.callback(server.end)
            servers.append(server)
        for server in servers:
            server.wait_until_ready()
        yield servers


@contextmanager
def running_redis(core: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run an empty Redis that keeps nothing on the disk; its process and a channel layer on it."""
    [port] = _free_ports(1)
    with TemporaryDirectory(prefix="ws-support-benchmarks-") as directory, ExitStack() as stack:
        command = [
            str(REDIS),
            "--bind",
            HOST,
            "--port",
            str(port),
            "--save",
            "",
            "--dir",
            directory,
        ]
        redis = Process("Redis", command, port, core, Path(directory, "redis.log"), {})
        stack.callback(redis.end)
        redis.wait_until_ready()
        hosts = {"hosts": [f"redis://{HOST}:{port}"]}
        yield (
            redis.processes[0],
            {
                "BACKEND": "channels_redis.core.RedisChannelLayer",
                "CONFIG": hosts,
            },
        )


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        # All at once: a port that was closed may be given out again.
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
