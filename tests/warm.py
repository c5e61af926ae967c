"""Python processes that begin where the imports are done.

A server needs half a second of the processor to import what it is made of, and the tests start
hundreds. Here one process imports all of that, once for each kind of server, and forks a child for
each start, which runs what `python ARGUMENTS` would run. Django is not set up before the fork: each
child reads settings and environment of its own.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import multiprocessing.util
import os
import posix
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_ALL = (
    "asyncio",
    "channels.apps",
    "channels.auth",
    "channels.generic.http",
    "channels.generic.websocket",
    "channels.layers",
    "channels.routing",
    "django.conf.urls",
    "django.contrib.staticfiles.apps",
    "django.contrib.staticfiles.handlers",
    "django.core.asgi",
    "django.core.cache.backends.locmem",
    "django.core.management.commands.makemigrations",
    "django.core.management.commands.migrate",
    "django.core.management.commands.runserver",
    "django.db.migrations.autodetector",
    "django.db.migrations.executor",
    "django.forms",
    "django.middleware.clickjacking",
    "django.middleware.common",
    "django.middleware.security",
    "django.template.backends.django",
    "django.template.loader_tags",
    "django.templatetags.cache",
    "django.templatetags.l10n",
    "django.templatetags.tz",
    "django.test.signals",
    "django.utils.translation.reloader",
    "django.views.csrf",
    "django.views.debug",
    "django.views.defaults",
    "django.views.static",
    "encodings.idna",
    "example_project.urls",
    "multiprocessing.popen_spawn_posix",
    "multiprocessing.spawn",
    "resource",
    "tests.project.ends",
    "tests.project.http",
    "tests.project.live",
    "tests.project.senders",
    "ws_support.apps",
    "ws_support.asgi",
    "ws_support.checks",
    "ws_support.management.commands.runasgi",
    "ws_support.routing",
    "ws_support.servers._run.application",
    "ws_support.servers.daphne",
    "ws_support.servers.granian",
    "ws_support.servers.hypercorn",
    "ws_support.servers.uvicorn",
    "ws_support.templatetags.ws_support",
)
"""What every server imports, and nothing that needs settings for that."""

_KINDS = {
    "uvicorn": (
        "uvicorn.lifespan.on",
        "uvicorn.loops.auto",
        "uvicorn.loops.uvloop",
        "uvicorn.main",
        "uvicorn.protocols.http.httptools_impl",
        "uvicorn.protocols.websockets.websockets_sansio_impl",
        "ws_support.servers.picows",
        "ws_support.servers.uvicorn.http",
        "ws_support.servers.uvicorn.websocket",
    ),
    "hypercorn": (
        "hypercorn.asyncio.run",
        "hypercorn.run",
        "ws_support.servers.hypercorn.h11",
        "ws_support.servers.hypercorn.h2",
        "ws_support.servers.hypercorn.websocket",
    ),
    "granian": ("granian.cli", "uvloop"),
    # Without daphne.server, which makes an event loop for Twisted's reactor: it has to be the
    # child's own.
    "daphne": (
        "OpenSSL.crypto",
        "autobahn.twisted.websocket",
        "daphne.checks",
        "daphne.endpoints",
        "daphne.http_protocol",
        "daphne.ws_protocol",
        "django.db.backends.dummy.base",
        "twisted.internet.asyncioreactor",
        "twisted.internet.ssl",
        "twisted.protocols.tls",
        "twisted.web.http",
        "ws_support.servers.daphne.flow",
    ),
}

UNMEASURED = "TESTS_WITHOUT_COVERAGE"
"""The name in the environment of a process whose coverage is not measured."""

_DEFAULTS = {
    "broadcast": "uvicorn",  # Any would do.
    "runasgi": "uvicorn",
    "runserver": "daphne",
    "tests.project.verbose": "daphne",
}
"""Which server a command starts whose arguments name none."""


def kind_of(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return the kind of warm process that can run these arguments of Python, if there is one."""
    if not hasattr(os, "fork") or any(name.startswith("PYTHON") for name in environment):
        return None  # Those are read when Python starts.
    if kind := next((kind for kind in _KINDS if kind in arguments), None):
        return kind
    return next((_DEFAULTS[each] for each in arguments if each in _DEFAULTS), None)


class Process:
    """A child of a warm process, with the interface of `subprocess.Popen`."""

    def __init__(self, channel: socket.socket, arguments: Sequence[str]) -> None:
        self._channel = channel
        self._lines = channel.makefile("r")
        self._lock = threading.Lock()
        self.args = [sys.executable, *arguments]
        self.returncode: int | None = None
        self.pid = int(self._lines.readline())

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None and self._has_ended(0):
                self._reap()
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while self.returncode is None:
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                if self._has_ended(left):
                    self._reap()
                elif left == 0:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _has_ended(self, timeout: float | None) -> bool:
        return bool(select.select([self._channel], [], [], timeout)[0])

    def _reap(self) -> None:
        # Until here it is a zombie, so that nobody else gets its number.
        self.returncode = int(self._lines.readline())
        self._channel.sendall(b"reap\n")
        self._lines.readline()
        self._lines.close()
        self._channel.close()


class Warm:
    """A process that has imported what a kind of server is made of, as its users see it."""

    def __init__(self, kind: str) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", kind, str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdout: int,
        stderr: int,
        start_new_session: bool = False,
        replaced: int = 0,
    ) -> Process:
        """Run what `python ARGUMENTS` runs. `stdout` and `stderr` are file descriptors.

        `replaced`: how many workers of those that die are warm, too.
        """
        request = {
            "arguments": list(arguments),
            "cwd": str(cwd),
            "env": dict(env),
            "is_nohup": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
            "spares": _workers(list(arguments)) + replaced,
            "start_new_session": start_new_session,
        }
        ours, theirs = socket.socketpair()
        with theirs:
            with self._lock:
                socket.send_fds(self._control, [b"+"], [theirs.fileno(), stdout, stderr])
            ours.sendall(json.dumps(request).encode() + b"\n")
        return Process(ours, arguments)

    def end(self) -> None:
        self._control.close()
        self._process.wait()


_warm: dict[str, Warm] = {}
_warming = threading.Lock()


def warm(kind: str) -> Warm:
    """Return the warm process of this kind. It is started when it is first needed."""
    with _warming:  # Some tests start several servers at once, in threads.
        if kind not in _warm:
            _warm[kind] = Warm(kind)
            if len(_warm) == 1:
                atexit.register(end_all)
        return _warm[kind]


def end_all() -> None:
    """End every warm process, and wait until each is done."""
    while _warm:
        _warm.popitem()[1].end()


# What follows runs in the warm process.


@dataclass
class _Child:
    channel: socket.socket
    has_ended: bool = False


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. In the child, return the request; in the parent, `None` at the end."""
    children: dict[int, _Child] = {}
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Who presses Ctrl-C ends the tests, and these end the servers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        channels = {child.channel: pid for pid, child in children.items()}
        ready, _, _ = select.select([control, wake, *channels], [], [])
        for each in ready:
            if each is control:
                data, fds, _, _ = socket.recv_fds(control, 1, 3)
                if not data:
                    return _end(children)
                channel = socket.socket(fileno=fds[0])
                request = json.loads(_read_line(channel))
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    _become(request, fds[1:])
                    for socket_ in (control, wake, waker, channel, *channels):
                        socket_.close()
                    return request
                for fd in fds[1:]:
                    os.close(fd)
                children[pid] = _Child(channel)
                _say(channel, pid)
            elif each is wake:
                with suppress(BlockingIOError):
                    wake.recv(4096)
                for pid, child in children.items():
                    if not child.has_ended and (code := _exit_code(pid)) is not None:
                        child.has_ended = True
                        _say(child.channel, code)
            else:
                # The test has heard of the end, or has gone itself.
                pid = channels[each]
                asked = bool(each.recv(5))
                if asked or children[pid].has_ended:
                    os.waitpid(pid, 0)
                    del children[pid]
                    _say(each, pid)
                    each.close()
                else:
                    os.kill(pid, signal.SIGKILL)


def _exit_code(pid: int) -> int | None:
    """Return the exit code of a child that has ended, as `subprocess` has it. It stays there."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _say(channel: socket.socket, number: int) -> None:
    with suppress(OSError):
        channel.sendall(b"%d\n" % number)


def _read_line(channel: socket.socket) -> bytes:
    pieces = []
    while not (pieces and pieces[-1].endswith(b"\n")):
        pieces.append(channel.recv(65536))
        if not pieces[-1]:
            raise EOFError
    return b"".join(pieces)


def _end(children: Mapping[int, _Child]) -> None:
    for pid, child in children.items():
        if not child.has_ended:
            os.kill(pid, signal.SIGTERM)
    for pid in children:
        os.waitpid(pid, 0)


def _become(request: Mapping[str, Any], outputs: Sequence[int]) -> None:
    """In the child, what `subprocess` and the start of Python would do."""
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if request["is_nohup"] else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["start_new_session"]:
        os.setsid()
    for fd, output in zip((1, 2), outputs, strict=True):
        os.dup2(output, fd)
        os.close(output)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])


def _start_coverage() -> None:
    """In the child, measure what runs from here on, if the parent does: it saves its own."""
    if "coverage" not in sys.modules:
        return
    import coverage

    if (inherited := coverage.Coverage.current()) is not None:
        inherited._auto_save = False
        inherited.stop()
    os._exit = posix._exit
    if UNMEASURED not in os.environ:
        coverage.process_startup(force=True)


def _run(arguments: Sequence[str]) -> None:
    """Run what `python ARGUMENTS` runs."""
    first, *rest = arguments
    if first == "-c":
        code, *rest = rest
        sys.path[0] = ""
        sys.argv[:] = ["-c", *rest]
        exec(code, sys.modules["__main__"].__dict__)
    elif first == "-m":
        module, *rest = rest
        sys.path[0] = str(Path.cwd())
        sys.argv[:] = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        path = Path(first).resolve()
        sys.path[0] = str(path.parent)
        sys.argv[:] = [first, *rest]
        runpy.run_path(first, run_name="__main__")


# A server's workers are spawned by `multiprocessing`, and have to be children of the server's main
# process. So this forks for them, too, while it is as clean as a new one.


WORKER = "spawn_main"
"""What the kernel calls a worker, and part of the command line of one that is not warm."""


def _workers(arguments: list[str]) -> int:
    """Return how many processes a server spawns: workers, and one that `multiprocessing` needs."""
    if arguments[:2] == ["-m", "hypercorn"]:
        return 2
    if "runasgi" not in arguments:
        return 0
    if "--workers" in arguments:
        return int(arguments[arguments.index("--workers") + 1]) + 1
    return 2 if "granian" in arguments else 0


def _with_spares(request: Mapping[str, Any]) -> list[str]:
    """Fork processes that wait until they are spawned. Return what this one has to run."""
    spares: list[tuple[int, socket.socket]] = []
    for _ in range(request["spares"]):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            for _, other in (*spares, (0, ours)):
                other.close()
            return _wait_until_spawned(theirs)
        theirs.close()
        spares.append((pid, ours))
    if spares:
        cold = multiprocessing.util.spawnv_passfds

        def spawn(path: Any, arguments: Sequence[Any], fds: Sequence[int]) -> int:
            if not spares:  # A worker that died is replaced.
                return cold(path, arguments, fds)
            pid, channel = spares.pop(0)
            order = {
                "arguments": [os.fsdecode(each) for each in arguments],
                "env": dict(os.environ),
                "fds": list(fds),
            }
            with channel:
                socket.send_fds(channel, [b"+"], list(fds))
                channel.sendall(json.dumps(order).encode() + b"\n")
            return pid

        multiprocessing.util.spawnv_passfds = spawn
    return list(request["arguments"])


def _wait_until_spawned(channel: socket.socket) -> list[str]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # A terminal sends it to all of a group.
    data, fds, _, _ = socket.recv_fds(channel, 1, 16)
    if not data:  # The main process has gone.
        posix._exit(0)
    order = json.loads(_read_line(channel))
    channel.close()
    # Out of the way of the numbers that they get.
    away = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 512) for fd in fds]
    for fd in fds:
        os.close(fd)
    for fd, number in zip(away, order["fds"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["env"])
    arguments: list[str] = order["arguments"][order["arguments"].index("-c") :]
    with suppress(OSError):  # Where there is no such file, nobody looks for it.
        Path("/proc/self/comm").write_text(WORKER if WORKER in arguments[1] else "helper")
    return arguments


def _main() -> None:
    kind, fd = sys.argv[1:]
    control = socket.socket(fileno=int(fd))
    control.set_inheritable(False)
    for name in (*_ALL, *_KINDS[kind]):
        import_module(name)
    from django.conf import settings

    # Each child has its own, and locks that a thread holds would stay locked.
    assert not settings.configured
    assert "twisted.internet.reactor" not in sys.modules
    assert threading.active_count() == 1
    gc.freeze()
    request = _serve(control)
    if request is not None:
        arguments = _with_spares(request)
        _start_coverage()
        _run(arguments)


if __name__ == "__main__":
    _main()
