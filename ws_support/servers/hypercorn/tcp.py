"""Hypercorn's side of a TCP connection (0.18): its socket, its wait for more, and its end."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any, Final

from hypercorn.asyncio import run, tcp_server, worker_context
from hypercorn.config import Config, Sockets

_CLOSE_TIMEOUT: Final = 10.0
"""Seconds that a client has for reading what is left when its connection is closed."""

_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def install() -> None:
    run.TCPServer = TCPServer  # type: ignore[attr-defined]


class ListeningConfig(Config):
    """Listens with sockets of `Listener`."""

    def create_sockets(self) -> Sockets:
        sockets = super().create_sockets()
        for each in (sockets.secure_sockets, sockets.insecure_sockets):
            each[:] = [Listener(fileno=one.detach()) for one in each]
        return sockets


class Listener(socket.socket):
    """Accepts nobody more in one go when there are no more files.

    asyncio (3.14) tries again in a second, and so it did for each of the 2,048 connections that
    could wait: these attempts took all of the CPU, and 20 s until somebody was accepted.
    """

    _has_failed = False

    def accept(self) -> tuple[socket.socket, Any]:
        if self._has_failed:
            self._has_failed = False
            raise BlockingIOError(errno.EAGAIN, "Tried again later.")
        try:
            return super().accept()
        except OSError as error:
            self._has_failed = error.errno in _NO_FILES
            raise


class TCPServer(tcp_server.TCPServer):
    """Does not wait for a client that reads nothing. Hypercorn did so for ever."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.idle_task = IdleTask()

    async def _close(self) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(_CLOSE_TIMEOUT, self.writer.transport.abort)
        try:
            await super()._close()
        finally:
            timer.cancel()


class IdleTask(worker_context.AsyncioSingleTask):
    """What ends a connection on which nothing is under way."""

    async def restart(self, task_group: Any, action: Callable[[], Any]) -> None:
        coroutine = action()
        try:
            await super().restart(task_group, lambda: coroutine)
        except RuntimeError:
            # The connection is cancelled, and takes no more tasks. Hypercorn logged a traceback.
            coroutine.close()
