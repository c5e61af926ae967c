"""The process that makes the load, as the others see it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Any, cast

from benchmarks.cores import pin
from benchmarks.load import LoadFailed
from benchmarks.processes import ROOT, ServerProcess


class Client:
    """Drives one server at a time."""

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self._requests = requests
        self._answers = answers

    def measure(
        self, load: str, server: ServerProcess, *others: ServerProcess, **arguments: Any
    ) -> dict[str, float]:
        """Put a load on a server, or on several at a time: the keyword arguments and results are
        those of `benchmarks.load`.

        Raises `LoadFailed` with the server's log when that does not work, and `ServerFailed` when
        one of its processes has ended before, or is why it does not.
        """
        servers = (server, *others)
        for each in servers:
            each.check()
        if others:
            arguments["other_ports"] = [each.port for each in others]
        processes = [process for each in servers for process in each.processes]
        answer = self._ask({"load": load, "port": server.port, "processes": processes, **arguments})
        if "failed" in answer:
            for each in servers:
                each.check()
            logs = "\n".join(each.log() for each in servers)
            raise LoadFailed(f"{server} failed in {load}: {answer['failed']}\n{logs}")
        measured: dict[str, float] = answer["measured"]
        return measured

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        except BrokenPipeError:
            line = ""
        else:
            line = self._answers.readline()
        if not line:
            raise LoadFailed("The process that makes the load has ended; see above.")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def running_client(core: int | None) -> Iterator[Client]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(pin, core),
    ) as process:
        try:
            yield Client(cast(IO[str], process.stdin), cast(IO[str], process.stdout))
        finally:
            process.kill()
