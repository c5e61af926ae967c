"""Granian for `manage.py runasgi`, with checks of a request's head and a drain at its shutdown."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from math import ceil
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Final

from ws_support.conf import Options, get_options
from ws_support.middleware.limits import MessageSizeLimit
from ws_support.servers._run.application import Application, load
from ws_support.servers._run.limits import HEAD_TIMEOUT, MAX_HEAD
from ws_support.servers._run.shutdown import (
    SIGNALS,
    Stop,
    leave_signals_to_main_process,
    wake_at_signals,
)
from ws_support.servers._run.sockets import (
    BACKLOG,
    UDS_MODE,
    check,
    remove_path,
    watch_open_files,
)
from ws_support.servers._run.supervisor import CANNOT_START, end_with_main_process
from ws_support.servers.base import ASGIServer, ServeConfig

__all__ = ["Granian"]

_MAX_CONNECTIONS: Final = 2**20
"""Connections of each worker. Granian counts open WebSockets as requests, and takes only 1,024 by
default."""


class Granian(ASGIServer):
    name = "granian"
    title = "Granian"
    requirements: ClassVar = {"granian": "2.7.4"}
    extra = "granian"
    merit = "fast, but without pings"

    def refusals(self, plan: ServeConfig) -> Iterator[str]:
        yield from super().refusals(plan)
        if plan.options.per_message_deflate:
            yield (
                "Granian does not compress WebSocket messages. Set"
                ' WS_SUPPORT["PER_MESSAGE_DEFLATE"] to False, or use another server.'
            )
        if plan.keyfile and "BEGIN PRIVATE KEY" not in Path(plan.keyfile).read_text():
            yield (
                f"Granian reads private keys in PKCS#8 only, and {plan.keyfile} is none. Convert"
                " it: openssl pkcs8 -topk8 -nocrypt -in key.pem -out pkcs8.pem"
            )

    def differences(self, plan: ServeConfig) -> dict[str, str]:
        options = plan.options
        size = options.max_message_size
        differences = {
            "messages": f"up to {size} bytes, looked at when they have come: Granian has no limit"
            " to set"
        }
        if options.keep_alive_interval:
            advice = (
                "the heartbeat does" if options.heartbeat_interval else "HEARTBEAT_INTERVAL does"
            )
            differences["keep-alive"] = f"off: Granian sends no pings; {advice} their work"
        return differences

    def websocket_options(self, options: Options) -> dict[str, Any]:
        return {}

    def run(self, plan: ServeConfig) -> None:
        import granian
        from granian.constants import HTTPModes, Interfaces, SSLProtocols
        from granian.http import HTTP1Settings

        check(plan)
        # An error in the application is reported once here, and not by workers that are replaced
        # again and again.
        load(plan)
        # Granian forks by default, even while threads run, which may hold locks.
        multiprocessing.set_start_method("spawn", force=True)
        server = granian.Granian(
            # Only a name for Granian's log: `target_loader` below loads the application.
            "ws_support",
            address=plan.host,
            port=plan.port,
            uds=Path(plan.uds) if plan.uds else None,
            uds_permissions=UDS_MODE,
            interface=Interfaces.ASGI,
            workers=plan.workers,
            backlog=BACKLOG,
            backpressure=_MAX_CONNECTIONS,
            # By default, Granian 2.8 first detects whether the client speaks HTTP/2, and waits
            # without a limit for a client that sends nothing, or half of the HTTP/2 preface.
            http=HTTPModes.http1,
            # By default, Granian takes a head of 408 KiB. It always refuses more than 100 headers.
            # A head in one piece gets through with twice the size: see `_is_too_large()`.
            http1_settings=HTTP1Settings(
                max_buffer_size=MAX_HEAD, header_read_timeout=int(HEAD_TIMEOUT * 1000)
            ),
            respawn_failed_workers=True,
            workers_kill_timeout=ceil(plan.options.shutdown_timeout),
            ssl_cert=Path(plan.certfile) if plan.certfile else None,
            ssl_key=Path(plan.keyfile) if plan.keyfile else None,
            ssl_protocol_min=SSLProtocols.tls12,  # As on the other servers.
            log_dictconfig=_LOGGING,
        )
        failures: list[int] = []
        server.on_startup(partial(_end_at_second_signal, plan.uds))
        server.on_startup(partial(_end_with_failed_start, failures))
        server.serve(target_loader=partial(_load, plan, os.getpid()), wrap_loader=False)
        if failures:
            raise SystemExit(CANNOT_START)


_LOGGING: Final = {
    "handlers": {},
    # Django's LOGGING decides.
    "loggers": {"_granian": {"propagate": True}, "granian.access": {"propagate": True}},
}


def _load(plan: ServeConfig, main_pid: int) -> Any:
    """Return the application. Called in a worker, which imports this module."""
    leave_signals_to_main_process()  # Until Granian handles them, which leaves SIGHUP alone.
    end_with_main_process(plan.options.shutdown_timeout)
    watch_open_files()
    limit = MessageSizeLimit(load(plan), plan.options.max_message_size)
    Application.is_starting = True  # From now on, so that a signal before the lifespan counts.

    def application(scope: Any, receive: Any, send: Any) -> Any:
        for key in ("client", "server"):
            # Granian 2.8 passes the port as a str.
            if scope.get(key):
                host, port = scope[key]
                scope[key] = (host, int(port))
        if scope["type"] == "lifespan":
            return limit.limited(scope, receive, partial(_send_of_lifespan, send, main_pid))
        if _is_too_large(scope):
            limit_of_head = f"The head of a request may have at most {MAX_HEAD} bytes."
            return _refuse(431, limit_of_head, scope, receive, send)
        if scope["type"] == "websocket":
            if fault := _fault(scope):
                return _refuse(400, fault, scope, receive, send)
            send = _Sending(send)
        return limit.limited(scope, receive, send)

    return application


async def _send_of_lifespan(send: Any, main_pid: int, message: Any) -> None:
    # Of a main process that has gone, another process may have the number.
    if message["type"] == "lifespan.startup.failed" and os.getppid() == main_pid:
        os.kill(main_pid, _FAILED_START)
    await send(message)


def _is_too_large(scope: Any) -> bool:
    size = len(scope["raw_path"]) + len(scope["query_string"])
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4  # ": " and the end of the line
    return size > MAX_HEAD


_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
"""16 bytes in base64 (RFC 6455, section 4.1)."""


def _fault(scope: Any) -> str | None:
    """Return what is wrong with a handshake that Granian 2.8 accepts and other servers refuse.

    The method cannot be checked: Granian accepts every method, and the scope does not name it.
    """
    values: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        values.setdefault(name, []).append(value)
    if scope["http_version"] in ("1", "1.0"):
        return "A WebSocket needs HTTP/1.1."
    for name in (b"host", b"sec-websocket-key", b"sec-websocket-version"):
        if len(values.get(name, ())) > 1:
            return f"There is more than one {name.decode()} header."
    lengths = values.get(b"content-length", [b"0"])
    if b"transfer-encoding" in values or lengths != [b"0"]:
        return "A handshake has no body."
    if not all(map(_KEY.fullmatch, values.get(b"sec-websocket-key", ()))):
        return "The sec-websocket-key header is not 16 bytes in base64."
    return None


async def _refuse(status: int, fault: str, scope: Any, receive: Any, send: Any) -> None:
    response = "http.response"
    if scope["type"] == "websocket":
        response = "websocket.http.response"
        await receive()
    body = f"{fault}\n".encode()
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": f"{response}.start", "status": status, "headers": headers})
    await send({"type": f"{response}.body", "body": body, "more_body": False})


class _Sending:
    """An application's `send()`, which gives other tasks a turn at every 64th message.

    When the client has left, Granian's own `send()` (2.8) returns at once and without an error: an
    application that only sends would block the event loop, and never learn that its client has
    left.
    """

    __slots__ = ("_count", "_send")

    def __init__(self, send: Any) -> None:
        self._send = send
        self._count = 0

    def __call__(self, message: Any) -> Any:
        # Not a coroutine of its own, which every message would have to pass through.
        self._count += 1
        if self._count & 63:
            return self._send(message)
        return self._send_and_wait(message)

    async def _send_and_wait(self, message: Any) -> None:
        await self._send(message)
        await asyncio.sleep(0)


def _end_at_second_signal(uds: str | None) -> None:
    """Make the main process kill its workers and exit at a second signal.

    Granian's own handlers, which are set by now, only stop in good order at each signal.
    """
    stop: Any = signal.getsignal(signal.SIGTERM)
    is_stopping = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping:
            for worker in multiprocessing.active_children():
                worker.kill()
            if uds:
                remove_path(uds)
            os._exit(128 + number)
        is_stopping = True
        stop(number, frame)

    for number in SIGNALS:
        signal.signal(number, handle)


_FAILED_START: Final = getattr(signal, "SIGUSR2", signal.SIGTERM)
"""The signal for the main process when the application could not start in a worker. On Windows,
SIGTERM ends the main process at once, and its workers end with it."""


def _end_with_failed_start(failures: list[int]) -> None:
    """Make the main process stop when a worker could not start: the next one could not either.

    Granian 2.8 stops when a worker has ended less than 5.5 s after its start, twice. An application
    that needs more time to fail is started again and again.
    """
    stop: Any = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # One stop is enough for all workers.
        failures.append(number)
        stop(signal.SIGTERM, frame)

    signal.signal(_FAILED_START, handle)


def patch_set_loop_signals() -> None:
    """Make a worker of Granian close its WebSockets before it stops.

    Granian 2.8 waits for requests, and leaves WebSockets as they are: no `disconnect()` is called,
    the signal `disconnected` is not sent, and clients see no close frame. The function that is
    patched has no public name; nothing is done in a version of Granian without that function, and
    in a process without Granian.
    """
    if "granian" not in sys.modules:
        return
    signals = import_module("granian._signals")
    its_own: Callable[[Any], Any] | None = getattr(signals, "set_loop_signals", None)
    if its_own is not None:
        signals.set_loop_signals = _Stop(its_own).set_loop_signals  # type: ignore[attr-defined]


class _Stop:
    def __init__(self, set_loop_signals: Callable[[Any], Any]) -> None:
        self._set_loop_signals = set_loop_signals
        self._task: asyncio.Task[None] | None = None

    def set_loop_signals(self, loop: asyncio.AbstractEventLoop) -> Any:
        event = self._set_loop_signals(loop)
        for number in SIGNALS:
            if isinstance(loop, asyncio.BaseEventLoop):
                # asyncio learns of signals through a socket, into which Granian's threads write as
                # well: when that socket is full, a signal is lost.
                loop.remove_signal_handler(number)
            else:
                # uvloop has a socket for signals alone, and calls this handler when it runs.
                loop.add_signal_handler(number, self._begin, loop, event)
            # uvloop 0.23 forgets a signal that comes while it does not run: before the lifespan,
            # and between its start and the requests.
            signal.signal(number, partial(self._begin_soon, loop, event))
        if isinstance(loop, asyncio.BaseEventLoop):
            wake_at_signals(loop)
        return event

    def _begin_soon(self, loop: asyncio.AbstractEventLoop, event: Any, *_: object) -> None:
        loop.call_soon_threadsafe(self._begin, loop, event)

    def _begin(self, loop: asyncio.AbstractEventLoop, event: Any) -> None:
        # At Ctrl-C, the worker gets two signals: from the terminal and from the main process.
        if self._task is None:
            self._task = loop.create_task(self._stop(event))

    async def _stop(self, event: Any) -> None:
        if Application.is_starting:
            # Granian looks at the event only when the lifespan has started, which may never happen.
            os._exit(0)
        stop = Stop(get_options().shutdown_timeout, is_worker=True)
        stop.begin()
        await stop.say_goodbye()
        event.set()
