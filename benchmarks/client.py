"""The process that makes the load, as the others see it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, Any, cast

from benchmarks.load import LoadFailed
from benchmarks.processes import ROOT, ServerProcess, prepare


class Client:
    """Drives one competitor at a time."""

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self._requests = requests
        self._answers = answers

    def measure(
        self, load: str, servers: Sequence[ServerProcess], **arguments: Any
    ) -> dict[str, float]:
        """Put a load on a server, or on several at a time.

        The keyword arguments and results are those of `benchmarks.load`. Raises `LoadFailed` with
        the servers' logs when that does not work, and `ServerFailed` when one of their processes
        has ended.
        """
        for server in servers:
            server.check()
        port, *other_ports = [server.port for server in servers]
        if other_ports:
            arguments["other_ports"] = other_ports
        processes = [process for server in servers for process in server.processes]
        request = {"load": load, "port": port, "processes": processes, **arguments}
        with suppress(BrokenPipeError):
            print(json.dumps(request), file=self._requests, flush=True)
        if not (line := self._answers.readline()):
            raise LoadFailed("The process that makes the load has ended; see above.")
        answer = json.loads(line)
        for server in servers:
            server.check()
        if "failed" in answer:
            logs = "\n".join(server.log() for server in servers)
            raise LoadFailed(f"{servers[0].name} failed in {load}: {answer['failed']}\n{logs}")
        measured: dict[str, float] = answer["measured"]
        return measured


@contextmanager
def running_client(core: int | None) -> Iterator[Client]:
    """Run the load's process on this core."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(prepare, core),
    ) as process:
        try:
            yield Client(cast(IO[str], process.stdin), cast(IO[str], process.stdout))
        finally:
            process.kill()
