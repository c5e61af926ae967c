"""A real Redis on a port of its own, for channel layers between processes."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.handshake import HOST
from benchmarks.processes import ServerFailed, free_ports, prepare, uninterrupted

PROGRAM: Final = shutil.which("redis-server")
"""`None`: it is not installed."""

_START_TIMEOUT: Final = 10
_STOP_TIMEOUT: Final = 5
"""Seconds."""


@dataclass(frozen=True)
class Redis:
    port: int
    process: int

    @property
    def layer(self) -> Mapping[str, Any]:
        """A channel layer for Django's settings."""
        return {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [f"redis://{HOST}:{self.port}"]},
        }


@contextmanager
def running_redis(core: int | None) -> Iterator[Redis]:
    """One that is empty, keeps nothing on the disk, and ends in any event.

    Raises `ServerFailed` when it does not start.
    """
    (port,) = free_ports(1)
    with TemporaryDirectory(prefix="ws-support-benchmarks-") as directory:
        log = Path(directory, "redis.log")
        with uninterrupted(), log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command line
                [str(PROGRAM), "--bind", HOST, "--port", str(port), "--save", ""],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # The Ctrl-C of the terminal does not reach it.
                start_new_session=True,
                preexec_fn=partial(prepare, core),
            )
        try:
            _wait_until_ready(process, port, log)
            yield Redis(port, process.pid)
        finally:
            with uninterrupted():
                _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while not _is_listening(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerFailed(f"Redis did not start.\n{log.read_text(errors='replace')}")
        time.sleep(0.02)


def _is_listening(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
