"""Real servers in processes of their own, and a client that shows what is on the wire."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryFile
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests import warm as warm_processes

ROOT = Path(__file__).resolve().parent.parent
SERVERS = ["runserver", "uvicorn", "hypercorn", "granian"]
"""As their own commands start them, and Daphne as `runserver` does."""
ASGI_SERVERS = ["daphne", "uvicorn-picows", "uvicorn", "hypercorn", "granian"]
"""As `runasgi` starts them; "uvicorn" is with its own protocol."""
BOUND = 30.0
"""Seconds within which whatever a test waits for has happened, also on a busy machine."""


_OPTIONS = {
    "uvicorn-picows": ("--server", "uvicorn", "--ws", "picows"),
    "uvicorn": ("--server", "uvicorn", "--ws", "websockets-sansio"),
    "uvicorn-default": ("--server", "uvicorn"),
}


_WITHOUT_DAPHNE = ("uvicorn", "hypercorn", "granian")
"""Servers for which the application "daphne" is not installed: it loads Twisted, and half of what a
server needs to start is for that."""


@dataclass
class Server:
    process: subprocess.Popen[bytes] | warm_processes.Process
    host: str
    port: int
    log_file: Path
    name: str = ""
    """The server's, as `--server` takes it, or the command's."""

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    def url(self, path: str = "/ws") -> str:
        return f"ws://{self.host}:{self.port}{path}"

    def connect(self, path: str = "/ws", **options: Any) -> ClientConnection:
        """A well-behaved client from an allowed origin."""
        options.setdefault("origin", self.origin)
        return connect(self.url(path), max_size=None, **options)

    def raw(self) -> RawClient:
        return RawClient(self.host, self.port)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def events(self, name: str, path: str | None = None) -> list[dict[str, Any]]:
        """The lines that `tests.project.asgi` logged, of one kind and for one path."""
        # The last line may be on its way.
        lines = self.log().rpartition("\n")[0].splitlines()
        lines = [line for line in lines if line.startswith(f'{{"event": "{name}"')]
        events = [json.loads(line) for line in lines]
        return [each for each in events if path in (None, each.get("path"))]

    def wait_for_event(self, name: str, path: str, count: int = 1) -> dict[str, Any]:
        """The `count`th event of this kind, when it has come."""
        for _ in until(f"event {name} for {path}", self.log):
            events = self.events(name, path)
            if len(events) >= count:
                return events[count - 1]
        raise AssertionError

    def wait_for_log(self, text: str) -> None:
        for _ in until(f"{text!r} in the log", self.log):
            if text in self.log():
                return

    def stop(self) -> int:
        """End it as an operator would; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(BOUND)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


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
    kind = warm_processes.kind_of(arguments, environment) if warm else None
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    process: subprocess.Popen[bytes] | warm_processes.Process
    # Appending, so that the lines of several processes do not overwrite each other.
    with log_file.open("ab") as log:
        if kind:
            process = warm_processes.warm(kind).start(
                arguments,
                cwd=cwd,
                env=env,
                stdout=log.fileno(),
                stderr=log.fileno(),
                start_new_session=start_new_session,
            )
        else:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=cwd,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=start_new_session,
            )
    server = Server(process, host, port, log_file, name)
    try:
        if waits:
            wait_until_listening(server, listens_at)
        yield server
    finally:
        server.stop()


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


# Below those that the kernel gives to clients (32768 and above, on Linux), which would take a port
# before its server does. Each worker of pytest-xdist has its own.
_FIRST_PORT = 20_000 + 1_500 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8)
_PORTS = cycle(range(_FIRST_PORT, _FIRST_PORT + 1_500))
for _ in range(SystemRandom().randrange(1_500)):
    next(_PORTS)


# Two runs on one machine have the same ports. What one has found free is the other's no more until
# a server listens there: a port for UDP that belongs to it, and that nobody uses, is taken.
_LEASE_OFFSET = 12_000
_LEASES: deque[int] = deque()
_MOST_LEASES = 64


def free_port(host: str = "127.0.0.1") -> int:
    """A port at which nobody listens, and another one each time."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in _PORTS:
        with (
            socket.socket(family) as probe,
            socket.socket(family, socket.SOCK_DGRAM) as lease,
            suppress(OSError),
        ):
            lease.bind((host, port - _LEASE_OFFSET))
            probe.bind((host, port))
            _LEASES.append(lease.detach())
            if len(_LEASES) > _MOST_LEASES:
                os.close(_LEASES.popleft())
            return port
    raise AssertionError


def wait_until_listening(server: Server, path: Path | None = None) -> None:
    """At its port, or at a Unix socket."""
    for _ in until("listening server", server.log):
        assert server.process.poll() is None, server.log()
        try:
            if path is None:
                socket.create_connection((server.host, server.port), 1).close()
            else:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(path))
        except OSError:
            continue
        return


class RawClient:
    """Bytes in, bytes out: for handshakes and frames that no library would send."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), BOUND)
        self.host = host
        self.port = port
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def drip(self, data: bytes) -> None:
        """Send `data` twice a second until the connection ends."""
        self.socket.settimeout(0.5)
        for _ in until("end of the connection"):
            try:
                self.socket.sendall(data)
                if self.socket.recv(10_000) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break

    def handshake(self, *arguments: Any, **options: Any) -> tuple[int, bytes]:
        """Send a `request()`; the status and everything that came with it."""
        self.request(*arguments, **options)
        return self.response()

    def open(self, *arguments: Any, **options: Any) -> bytes:
        """Send a `request()` that is accepted; the head of the answer.

        Of any other answer no socket is left, which a test behind this one would be blamed for.
        """
        try:
            status, head = self.handshake(*arguments, **options)
            assert status == 101, head
        except BaseException:
            self.socket.close()
            raise
        return head

    def request(
        self,
        path: str = "/ws",
        headers: list[tuple[bytes, bytes]] | None = None,
        *,
        method: str = "GET",
        without: tuple[bytes, ...] = (),
        piece: int | None = None,
        then: bytes = b"",
    ) -> None:
        """An upgrade request, whose answer is left for `response()`.

        `headers` stand behind those that every handshake has, less those named in `without`. It is
        sent in pieces of `piece` bytes, and `then` right behind it.
        """
        if headers is None:
            headers = [(b"Origin", f"http://{self.host}:{self.port}".encode())]
        usual = [
            (b"Host", f"{self.host}:{self.port}".encode()),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", base64.b64encode(os.urandom(16))),
            (b"Sec-WebSocket-Version", b"13"),
        ]
        lines = [f"{method} {path} HTTP/1.1".encode()]
        lines += [b"%b: %b" % header for header in usual if header[0] not in without]
        lines += [b"%b: %b" % header for header in headers]
        data = b"\r\n".join([*lines, b"", then])
        for start in range(0, len(data), piece or len(data)):
            self.socket.sendall(data[start : start + (piece or len(data))])

    def response(self) -> tuple[int, bytes]:
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill():
                break
        if not self._buffer:
            return 0, b""
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        self._buffer = rest
        if status != 101:
            while not _is_complete(head.lower(), self._buffer) and self._fill():
                pass
            head, self._buffer = head + b"\r\n\r\n" + self._buffer, b""
        return status, head

    def send_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        self.socket.sendall(self.frame_of(opcode, payload, fin=fin))

    @staticmethod
    def frame_of(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        length = len(payload)
        if length < 126:
            size = bytes([0x80 | length])
        elif length < 65536:
            size = bytes([0x80 | 126]) + struct.pack("!H", length)
        else:
            size = bytes([0x80 | 127]) + struct.pack("!Q", length)
        # A mask of zeros is a mask (RFC 6455, section 5.3).
        return bytes([fin << 7 | opcode]) + size + bytes(4) + payload

    def burst_of(self, count: int) -> bytes:
        """So many short texts: 0, 1, 2 ..."""
        return b"".join(self.frame_of(1, b"%d" % number) for number in range(count))

    def frame(self, timeout: float = BOUND) -> tuple[int, bytes] | None:
        """The next frame, as opcode and payload; `None` when the server has closed."""
        deadline = time.monotonic() + timeout
        while (frame := self._parse()) is None:
            if not self._fill(deadline):
                return None
        return frame

    def _parse(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < 2:
            return None
        length, start = self._buffer[1] & 0x7F, 2
        if length == 126:
            if len(self._buffer) < 4:
                return None
            length, start = struct.unpack("!H", self._buffer[2:4])[0], 4
        elif length == 127:
            if len(self._buffer) < 10:
                return None
            length, start = struct.unpack("!Q", self._buffer[2:10])[0], 10
        if len(self._buffer) < start + length:
            return None
        opcode, payload = self._buffer[0] & 0x0F, self._buffer[start : start + length]
        self._buffer = self._buffer[start + length :]
        return opcode, payload

    def _fill(self, deadline: float | None = None) -> bool:
        self.socket.settimeout(
            BOUND if deadline is None else max(deadline - time.monotonic(), 0.001)
        )
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self._buffer += data
        return bool(data)


def _is_complete(head: bytes, body: bytes) -> bool:
    """Whether all of a response is there, as far as it says how long it is."""
    if length := re.search(rb"content-length: *(\d+)", head):
        return len(body) >= int(length[1])
    return b"chunked" in head and body.endswith(b"0\r\n\r\n")
