"""The servers' processes: started, ready, and ended for certain."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import handshake
from benchmarks.cases import Case
from benchmarks.cores import pin
from benchmarks.handshake import HOST
from benchmarks.servers import Competitor
from benchmarks.usage import processes_of

ROOT: Final = Path(__file__).resolve().parent.parent

_ONLY_CASE: Final = Case()

_INTERRUPTS: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

_START_TIMEOUT: Final = 60
"""Seconds in which a server has to answer, while others start on the same core."""

_STOP_TIMEOUT: Final = 5
"""Seconds for a server to end by itself."""

_CLEAN_UP_TIMEOUT: Final = 1
"""Seconds for what is left of a server whose main process has ended."""

_LOG_LINES: Final = 30
"""The last lines of a log, which are shown when a server failed."""


class ServerFailed(Exception):
    """A server did not start, or has ended."""


class ServerProcess:
    """A competitor that runs, on a port of its own."""

    def __init__(
        self, competitor: Competitor, case: Case, port: int, core: int | None, log: Path
    ) -> None:
        self.competitor = competitor
        self.case = case
        self.port = port
        self.processes: list[int] = []
        """The ids of the server's processes, when it is ready."""
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command lines
                [*competitor.command(port), *case.options],
                cwd=ROOT,
                env={**os.environ, **competitor.environment(case.settings, case.layer)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A session of its own: its workers can be found by that, and the Ctrl-C of the
                # terminal does not reach them.
                start_new_session=True,
                preexec_fn=partial(prepare, core),
            )

    def __str__(self) -> str:
        return f"{self.competitor} ({self.case.name})" if self.case.name else str(self.competitor)

    @property
    def main_process(self) -> int:
        """The id of the one that was started here."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait for a handshake that is accepted: some listen before they have an application.

        Raises `ServerFailed` when there is none in time.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while (answer := self._try_handshake(deadline)) is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerFailed(f"{self} did not start.\n{self.log()}")
            time.sleep(0.02)
        if not handshake.is_accepted(answer):
            raise ServerFailed(f"{self} refused: {answer!r}\n{self.log()}")
        self.processes = processes_of(self._process.pid)

    def _try_handshake(self, deadline: float) -> bytes | None:
        timeout = max(deadline - time.monotonic(), 0.1)
        try:
            with socket.create_connection((HOST, self.port), timeout) as client:
                client.sendall(handshake.request(self.port))
                received = b""
                while b"\r\n\r\n" not in received:
                    if not (data := client.recv(4096)):
                        return received
                    received += data
                client.sendall(handshake.CLOSE)
                while client.recv(4096):
                    pass
        except OSError:
            return None
        return received.partition(b"\r\n\r\n")[0]

    def check(self) -> None:
        """Raises `ServerFailed` unless the same processes run as when it was ready."""
        if self._process.poll() is not None or processes_of(self._process.pid) != self.processes:
            raise ServerFailed(f"{self} has ended, or a worker has.\n{self.log()}")

    def log(self) -> str:
        """The end of what it wrote."""
        lines = self.lines()[-_LOG_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (It wrote nothing.)"

    def lines(self) -> list[str]:
        """What it wrote."""
        return self._log.read_text(errors="replace").splitlines()

    def exit_code(self) -> int:
        """That of the main process, which was told to end; -9 when it has to be killed."""
        try:
            return self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def left_over(self) -> int:
        """How many processes are there when those that clean up have had their time."""
        deadline = time.monotonic() + _CLEAN_UP_TIMEOUT
        while (left := processes_of(self._process.pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(left)

    def terminate(self) -> None:
        """Ask it to end. First of all its main process, which ends its workers."""
        self._process.terminate()

    def end(self) -> None:
        """Wait for its end, and kill what is left of its session."""
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # Not at once: multiprocessing has a helper that cleans up when the others have ended.
        deadline = time.monotonic() + _CLEAN_UP_TIMEOUT
        # And again and again: one of them may have been starting another.
        while left := processes_of(self._process.pid):
            if time.monotonic() > deadline:
                for process in left:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
            time.sleep(0.01)


@contextmanager
def running(
    competitors: Sequence[Competitor], core: int | None, case: Case = _ONLY_CASE
) -> Iterator[list[ServerProcess]]:
    """Servers, all ready, that end in any event. Raises `ServerFailed` when one does not start."""
    with TemporaryDirectory(prefix="ws-support-benchmarks-") as logs, ExitStack() as stack:
        started: list[ServerProcess] = []
        stack.callback(_stop, started)
        for number, (competitor, port) in enumerate(
            zip(competitors, free_ports(len(competitors)), strict=True)
        ):
            log = Path(logs, f"{number}.log")
            with uninterrupted():
                started.append(ServerProcess(competitor, case, port, core, log))
        for server in started:
            server.wait_until_ready()
        yield started


def _stop(servers: list[ServerProcess]) -> None:
    with uninterrupted():
        for server in servers:
            server.terminate()
        for server in servers:
            server.end()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Whoever wants to end us has to wait: a server that nobody knows of would run on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)


def prepare(core: int | None) -> None:
    """In the new process, before the server. It inherits which signals are blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
    pin(core)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        # All at once: a port that was closed may be given out again.
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
