"""Several processes that serve one address: started, replaced when they die, and stopped."""

from __future__ import annotations

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
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Final

from ws_support.servers import get_server
from ws_support.servers.application import load
from ws_support.servers.base import ASGIServer, Plan
from ws_support.servers.listening import listen, remove_path, watch_open_files
from ws_support.servers.stopping import SIGNALS, Stop

logger = logging.getLogger("ws_support.servers")

CANNOT_START: Final = 3
"""The exit code of a worker that another one in its place would end with, too. Uvicorn's own."""

_LEAST_LIFE: Final = 1.0
"""Seconds between two starts of the same worker, so that one that dies at once does no harm."""

_GRACE: Final = 1.0
"""Seconds for workers to end after the time they were given."""


class SocketServer(ASGIServer):
    """A server that takes a listening socket, and so runs in as many processes as are wanted."""

    @abstractmethod
    def serve(self, application: Any, plan: Plan, listener: socket.socket, stop: Stop) -> None:
        """Serve `application` at `listener` in this process, until `stop` begins."""

    def run(self, plan: Plan) -> None:
        listeners = listen(plan)
        try:
            if plan.workers == 1:
                watch_open_files()
                self.serve(load(plan), plan, listeners[0], Stop(plan.options.shutdown_timeout))
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
    """The main process, which serves nothing itself.

    It holds the listening sockets: who connects while a worker is being replaced waits for the new
    one.
    """

    def __init__(self, server: str, plan: Plan, listeners: Sequence[socket.socket]) -> None:
        self._server = server
        self._plan = plan
        self._listeners = listeners
        self._is_stopping = False
        self._workers: list[_Worker] = []

    def run(self) -> int:
        """Until a signal says to stop. The exit code: 1 when a worker cannot start."""
        wake, waker = socket.socketpair()
        with closing(wake), closing(waker):
            waker.setblocking(False)
            signal.set_wakeup_fd(waker.fileno())
            for number in SIGNALS:
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
        if self._is_stopping:
            self._kill()
            os._exit(128 + number)
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
        """Whether all run again."""
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


def _work(server: str, plan: Plan, listener: socket.socket) -> None:
    """A worker, from its start to its end."""
    # Ctrl-C reaches every process of a terminal. What it means, the main process decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_main_process, daemon=True).start()
    try:
        application = load(plan)
    except Exception:
        logger.exception("The application cannot be loaded.")
        sys.exit(CANNOT_START)
    watch_open_files()
    stop = Stop(plan.options.shutdown_timeout, is_worker=True)
    get_server(server).serve(application, plan, listener, stop)  # type: ignore[attr-defined]


def _end_with_main_process() -> None:
    main: Any = parent_process()
    main.join()
    os.kill(os.getpid(), signal.SIGTERM)
