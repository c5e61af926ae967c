"""Granian, and what it leaves undone when it stops."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
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
from ws_support.servers.application import load
from ws_support.servers.base import ASGIServer, Plan
from ws_support.servers.listening import BACKLOG, UDS_MODE, check, watch_open_files
from ws_support.servers.stopping import SIGNALS, Stop

_MAX_CONNECTIONS: Final = 2**20
"""For each worker. Granian counts open WebSockets as requests, and by default lets 1,024 in."""


class Granian(ASGIServer):
    name = "granian"
    title = "Granian"
    requirements: ClassVar = {"granian": "2.5"}
    extra = "granian"
    merit = "fast, but without pings"

    def refusals(self, plan: Plan) -> Iterator[str]:
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

    def differences(self, plan: Plan) -> dict[str, str]:
        options = plan.options
        size = options.max_message_size
        differences = {
            "messages": f"up to {size} bytes, looked at when they have come: Granian has no limit"
        }
        if options.keep_alive_interval:
            advice = (
                "the heartbeat does" if options.heartbeat_interval else "HEARTBEAT_INTERVAL does"
            )
            differences["keep-alive"] = f"off: Granian sends no pings; {advice} their work"
        return differences

    def websocket_options(self, options: Options) -> dict[str, Any]:
        return {}

    def run(self, plan: Plan) -> None:
        import granian
        from granian.constants import Interfaces, SSLProtocols

        check(plan)
        # What is wrong with it is said once, and not by workers that are replaced again and again.
        load(plan)
        # Granian forks by default, also when threads run already, which may hold locks.
        multiprocessing.set_start_method("spawn", force=True)
        server = granian.Granian(
            # Only a name for its log: the loader below knows what to load.
            "ws_support",
            address=plan.host,
            port=plan.port,
            uds=Path(plan.uds) if plan.uds else None,
            uds_permissions=UDS_MODE,
            interface=Interfaces.ASGI,
            workers=plan.workers,
            backlog=BACKLOG,
            backpressure=_MAX_CONNECTIONS,
            respawn_failed_workers=True,
            workers_kill_timeout=ceil(plan.options.shutdown_timeout),
            ssl_cert=Path(plan.certfile) if plan.certfile else None,
            ssl_key=Path(plan.keyfile) if plan.keyfile else None,
            ssl_protocol_min=SSLProtocols.tls12,  # As on the other servers.
            log_dictconfig=_LOGGING,
        )
        server.on_startup(_end_at_second_signal)
        server.serve(target_loader=partial(_load, plan), wrap_loader=False)


_LOGGING: Final = {
    "handlers": {},
    # Django's LOGGING decides.
    "loggers": {"_granian": {"propagate": True}, "granian.access": {"propagate": True}},
}


def _load(plan: Plan) -> Any:
    """The application, in a worker, which imports this module to find it."""
    # Until Granian handles it. What Ctrl-C means, the main process decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch_open_files()
    limit = MessageSizeLimit(load(plan), plan.options.max_message_size)

    def application(scope: Any, receive: Any, send: Any) -> Any:
        for key in ("client", "server"):
            # Granian 2.8 has the port as text.
            if scope.get(key):
                host, port = scope[key]
                scope[key] = (host, int(port))
        return limit.limited(scope, receive, send)

    return application


def _end_at_second_signal() -> None:
    """In the main process, which has set its handlers. They do nothing but stop in good order."""
    stop: Any = signal.getsignal(signal.SIGTERM)
    is_stopping = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping:
            for worker in multiprocessing.active_children():
                worker.kill()
            os._exit(128 + number)
        is_stopping = True
        stop(number, frame)

    for number in SIGNALS:
        signal.signal(number, handle)


def say_goodbye_when_it_stops() -> None:
    """In a worker of Granian, close its WebSockets before it stops.

    Granian 2.8 waits for requests, and leaves WebSockets as they are: no `disconnect()` is called,
    the signal `disconnected` is not sent, and clients see no close frame. What it stops with has no
    public name; in a version without it, this does nothing.
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
                # What asyncio knows of signals it reads from a socket, which Granian's threads
                # write into as well: when that is full, the signal is lost.
                loop.remove_signal_handler(number)
                signal.signal(number, partial(self._begin_soon, loop, event))
            else:
                # uvloop has a socket for signals only, and runs no other handlers.
                loop.add_signal_handler(number, self._begin, loop, event)
        return event

    def _begin_soon(self, loop: asyncio.AbstractEventLoop, event: Any, *_: object) -> None:
        loop.call_soon_threadsafe(self._begin, loop, event)

    def _begin(self, loop: asyncio.AbstractEventLoop, event: Any) -> None:
        # Ctrl-C sends a signal to the worker, and Granian's main process another.
        if self._task is None:
            self._task = loop.create_task(self._stop(event))

    async def _stop(self, event: Any) -> None:
        stop = Stop(get_options().shutdown_timeout, is_worker=True)
        stop.begin()
        await stop.say_goodbye()
        event.set()
