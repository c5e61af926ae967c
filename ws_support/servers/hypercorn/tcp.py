"""TCP connections in Hypercorn (0.18): the listening socket, the idle timeout and the close."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any, Final

from hypercorn.asyncio import run, tcp_server, worker_context
from hypercorn.config import Config, Sockets

_CLOSE_TIMEOUT: Final = 10.0
"""Seconds that a client has to read what is left when its connection is closed."""

_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def install() -> None:
    run.TCPServer = TCPServer  # type: ignore[attr-defined]


class ListeningConfig(Config):
    """Configuration whose listening sockets are of the class `Listener`."""

    def create_sockets(self) -> Sockets:
        sockets = super().create_sockets()
        for each in (sockets.secure_sockets, sockets.insecure_sockets):
            each[:] = [Listener(fileno=one.detach()) for one in each]
        return sockets


class Listener(socket.socket):
    """A listening socket that ends a series of `accept()` calls when no more files can be opened.

    asyncio (Python 3.14) calls `accept()` up to 2,048 times in a row, once for each connection that
    may wait, and plans a retry in a second for each failure. These attempts took all of the CPU,
    and 20 s passed until a connection was accepted.
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
    """A connection whose close has a time limit: Hypercorn waits for a client that does not read.

    That wait has no end.
    """

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
    """The task that closes an idle connection."""

    async def restart(self, task_group: Any, action: Callable[[], Any]) -> None:
        coroutine = action()
        try:
            await super().restart(task_group, lambda: coroutine)
        except RuntimeError:
            # The connection is cancelled, and its task group takes no more tasks. Hypercorn 0.18
            # logs a traceback.
            coroutine.close()
