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
from tempfile import NamedTemporaryFile
from typing import Any, Final, TypeAlias

import psutil
from websockets.exceptions import InvalidMessage, InvalidStatus
from websockets.sync.client import connect

from benchmarks import Failed
from benchmarks.applications import HOST, ORIGIN, PATH
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

Cores: TypeAlias = tuple[int, int]
"""One for servers and one for the client."""


def choose_cores() -> Cores:
    """Return a core for servers and one for the client, so that neither takes time from the other.

    The two are not threads of one core, where there are others. Raises `Failed` on a machine
    with one core.
    """
    first, *others = sorted(psutil.Process().cpu_affinity())
    if not others:
        raise Failed("The benchmarks need two cores: one for servers, one for the client.")
    threads = (psutil.cpu_count() or 1) // (psutil.cpu_count(logical=False) or 1)
    # Linux numbers the threads of a core either in a row or half of all apart.
    siblings = {first + 1, first + (psutil.cpu_count() or 1) // 2} if threads > 1 else set()
    return first, next((core for core in others if core not in siblings), others[-1])


def prepare(core: int) -> None:
    """Pin the new process, its threads and its children to a core, before the program starts."""
    psutil.Process().cpu_affinity([core])


class Process:
    """A program that writes to a log and has a port."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        core: int,
        environment: Mapping[str, str],
    ) -> None:
        self.name = name
        self.port = port
        self._log = NamedTemporaryFile(prefix="ws-support-benchmarks-")  # noqa: SIM115
        self._main = psutil.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            # The Ctrl-C of the terminal does not reach it.
            start_new_session=True,
            preexec_fn=partial(prepare, core),
        )
        self.processes: list[int] = []
        """The ids of the main process and its descendants, when it is ready."""

    def wait_until_ready(self) -> None:
        """Wait until it serves. Raises `Failed` when it does not in time."""
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.is_ready():
            if self._main.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self.name} did not start.\n{self.log()}")
            time.sleep(0.02)
        self.processes = self._now()

    def is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self.port), 1):
            return True
        return False

    def check(self) -> None:
        """Raise `Failed` unless the same processes run as when it was ready."""
        if self._main.poll() is not None or self._now() != self.processes:
            raise Failed(f"{self.name} has ended, or a worker has.\n{self.log()}")

    def _now(self) -> list[int]:
        descendants = self._main.children(recursive=True)
        return [self._main.pid, *sorted(each.pid for each in descendants)]

    def log(self) -> str:
        """Return the end of what it wrote."""
        lines = Path(self._log.name).read_text(errors="replace").splitlines()[-_LOG_LINES:]
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
        self._main.wait()
        self._log.close()


class ServerProcess(Process):
    """A competitor that runs, on a port of its own."""

    def __init__(
        self, competitor: Competitor, port: int, core: int, layer: Mapping[str, Any]
    ) -> None:
        self.competitor = competitor
        command, environment = competitor.command(port), competitor.environment(layer)
        super().__init__(str(competitor), command, port, core, environment)

    def is_ready(self) -> bool:
        """Return True when a handshake is accepted: some listen before they have an application.

        Raises `Failed` for one that is refused.
        """
        url = f"ws://{HOST}:{self.port}{PATH}"
        try:
            with connect(url, origin=ORIGIN, compression=None, proxy=None):
                return True
        except InvalidStatus as error:
            raise Failed(f"{self.name} refused: {error}\n{self.log()}") from error
        except (InvalidMessage, OSError):
            return False


@contextmanager
def running(
    competitors: Sequence[Competitor], core: int, layer: Mapping[str, Any]
) -> Iterator[list[ServerProcess]]:
    """Run servers, all ready, that end in any event, with this channel layer as their default.

    Raises `Failed` when one does not start.
    """
    with ExitStack() as stack:
        servers = []
        for competitor, port in zip(competitors, _free_ports(len(competitors)), strict=True):
            servers.append(ServerProcess(competitor, port, core, layer))
            stack.callback(servers[-1].end)
        for server in servers:
            server.wait_until_ready()
        yield servers


@contextmanager
def running_redis(core: int) -> Iterator[dict[str, Any]]:
    """Run an empty Redis that keeps nothing on the disk, and give a channel layer on it."""
    [port] = _free_ports(1)
    command = [str(REDIS), "--bind", HOST, "--port", str(port), "--save", ""]
    redis = Process("Redis", command, port, core, {})
    try:
        redis.wait_until_ready()
        yield {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [f"redis://{HOST}:{port}"]},
        }
    finally:
        redis.end()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        # All at once: a port that was closed may be given out again.
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
