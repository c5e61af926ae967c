"""The supervisor of several processes that serve one address: start, replacement, shutdown."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from math import ceil
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Final

from ws_support.servers import get_server
from ws_support.servers._run.application import load
from ws_support.servers._run.shutdown import (
    SIGNALS,
    Stop,
    leave_signals_to_main_process,
    stop_signals,
    unix_sockets,
)
from ws_support.servers._run.sockets import listen, remove_path, watch_open_files
from ws_support.servers.base import ASGIServer, ServeConfig

logger = logging.getLogger("ws_support.servers")

CANNOT_START: Final = 3
"""The exit code of a worker whose replacement would fail, too. Uvicorn uses the same code."""

_LEAST_LIFE: Final = 1.0
"""Seconds between two starts of the same worker: a backoff for one that dies at once."""

_GRACE: Final = 1.0
"""Seconds between the end of a worker's shutdown time and its kill."""


class SocketServer(ASGIServer):
    """A server that takes a listening socket, and so can run in several processes."""

    @abstractmethod
    def serve(
        self, application: Any, plan: ServeConfig, listener: socket.socket, stop: Stop
    ) -> None:
        """Serve `application` at `listener` in this process until `stop` has ended."""

    def run(self, plan: ServeConfig) -> None:
        listeners = listen(plan)
        if plan.uds:
            unix_sockets.add(plan.uds)
        try:
            if plan.workers == 1:
                watch_open_files()
                stop = Stop(plan.options.shutdown_timeout, uds=plan.uds)
                self.serve(load(plan), plan, listeners[0], stop)
            else:
                sys.exit(Workers(self.name, plan, listeners).run())
        finally:
            if plan.uds:
                remove_path(plan.uds)


@dataclass
class _Worker:
    number: int
    listener: socket.socket
    process: BaseProcess
    started_at: float


class Workers:
    """The main process, which supervises the workers and serves nothing itself.

    The main process keeps the listening sockets open: a client that connects while a worker is
    being replaced waits for the new one.
    """

    def __init__(self, server: str, plan: ServeConfig, listeners: Sequence[socket.socket]) -> None:
        self._server = server
        self._plan = plan
        self._listeners = listeners
        self._is_stopping = False
        self._is_asked = False
        self._workers: list[_Worker] = []

    def run(self) -> int:
        """Supervise the workers until a signal. Return the exit code: 1 if one cannot start."""
        wake, waker = socket.socketpair()
        with closing(wake), closing(waker):
            waker.setblocking(False)
            signal.set_wakeup_fd(waker.fileno())
            for number in stop_signals():
                signal.signal(number, self._handle)
            self._workers = [
                self._start(number, listener)
                for number, listener in enumerate(self._listeners, start=1)
            ]
            try:
                while not self._is_stopping:
                    connection.wait([wake, *(each.process.sentinel for each in self._workers)])
                    if not self._is_stopping and not self._replace_dead():
                        return 1
                return 0
            finally:
                self._stop()
                signal.set_wakeup_fd(-1)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._is_asked and number in SIGNALS:
            self._kill()
            if self._plan.uds:
                remove_path(self._plan.uds)
            os._exit(128 + number)
        self._is_asked = self._is_asked or number in SIGNALS
        self._is_stopping = True

    def _start(self, number: int, listener: socket.socket) -> _Worker:
        process = get_context("spawn").Process(
            target=_work,
            args=(self._server, self._plan, listener),
            name=f"worker {number}",
        )
        process.start()
        return _Worker(number, listener, process, time.monotonic())

    def _replace_dead(self) -> bool:
        """Replace workers that have ended. Return False if one of them could not start."""
        for index, worker in enumerate(self._workers):
            code = worker.process.exitcode
            if code is None:
                continue
            if code == CANNOT_START:
                logger.error("Worker %d could not start.", worker.number)
                return False
            logger.error(
                "Worker %d (process %s) has ended with exit code %d and is replaced.",
                worker.number,
                worker.process.pid,
                code,
            )
            time.sleep(max(worker.started_at + _LEAST_LIFE - time.monotonic(), 0))
            if not self._is_stopping:
                self._workers[index] = self._start(worker.number, worker.listener)
        return True

    def _stop(self) -> None:
        self._is_stopping = True
        for listener in self._listeners:
            listener.close()
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + self._plan.options.shutdown_timeout + _GRACE
        for worker in self._workers:
            worker.process.join(max(deadline - time.monotonic(), 0))
        self._kill()

    def _kill(self) -> None:
        for worker in self._workers:
            worker.process.kill()


def _work(server: str, plan: ServeConfig, listener: socket.socket) -> None:
    """Run a worker, from its start to its end."""
    leave_signals_to_main_process()
    end_with_main_process(plan.options.shutdown_timeout)
    try:
        application = load(plan)
    except Exception:
        logger.exception("The application cannot be loaded.")
        sys.exit(CANNOT_START)
    watch_open_files()
    stop = Stop(plan.options.shutdown_timeout, is_worker=True)
    get_server(server).serve(application, plan, listener, stop)  # type: ignore[attr-defined]


def end_with_main_process(timeout: float) -> None:
    """Stop this worker in good order when its main process ends, even by SIGKILL.

    A worker that takes longer than `timeout` seconds is killed.
    """
    _be_killed_after_main_process(timeout + _GRACE)
    threading.Thread(target=_stop_after_main_process, args=(timeout,), daemon=True).start()


def _stop_after_main_process(timeout: float) -> None:
    main: Any = parent_process()
    main.join()
    os.kill(os.getpid(), signal.SIGTERM)
    # Python runs no signal handler while the main thread hangs in C code, so SIGTERM has no effect.
    time.sleep(timeout + _GRACE)
    os.kill(os.getpid(), signal.SIGKILL)  # pragma: no cover  # Ends before coverage is saved.


_PR_SET_PDEATHSIG: Final = 1
_UNUSED_SIGNAL: Final = 16
"""SIGSTKFLT on most machines, which Linux never sends."""


def _be_killed_after_main_process(timeout: float) -> None:
    """Have the Linux kernel kill this worker after its main process, even without the GIL.

    While C code holds the GIL, no thread and no signal handler written in Python runs. So the
    kernel sends a signal when the main process ends (prctl(2)), and the handler of that signal is
    alarm() of the C library. alarm() gets the number of the signal as its argument: so many seconds
    later the process ends with SIGALRM.
    """
    if sys.platform != "linux":
        return
    number = _UNUSED_SIGNAL if timeout <= _UNUSED_SIGNAL else max(ceil(timeout), signal.SIGRTMIN)
    if number <= signal.SIGRTMAX:
        library = ctypes.CDLL(None)
        library.signal.restype = ctypes.c_void_p
        library.signal(number, ctypes.cast(library.alarm, ctypes.c_void_p))
        library.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
