"""Listening sockets, which the servers take over."""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ws_support.servers.base import ServeConfig

logger = logging.getLogger("ws_support.servers")

BACKLOG: Final = 2048
"""Connections that may wait to be accepted, since all clients reconnect after a restart."""

UDS_MODE: Final = 0o666
"""The mode of a Unix socket: a proxy runs as another user. The permissions of the socket's folder
decide who may connect."""

_LOOKING_INTERVAL: Final = 0.5
"""Seconds between two attempts to open a file."""

_LOGGING_INTERVAL: Final = 60.0
"""Seconds between two log lines about failed attempts."""


class AddressError(Exception):
    """Error of an address at which the server cannot listen, with the reason."""


def listen(plan: ServeConfig) -> list[socket.socket]:
    """Return a listening socket for each worker, or the same one for all.

    With sockets of their own (Linux's SO_REUSEPORT), all workers get the same share of the
    connections. With a common socket, the workers that have waited for the longest time get most
    connections, and keep their WebSockets for hours. Raises `AddressError` when the server cannot
    listen at the address.
    """
    with _saying_why():
        bound = _bind(plan)
        for each in set(bound):
            each.listen(BACKLOG)
        return bound


def check(plan: ServeConfig) -> None:
    """Raise `AddressError` if a server that makes its own sockets could not listen."""
    with _saying_why():
        for each in set(_bind(plan)):
            each.close()
    if plan.uds:
        remove_path(plan.uds)


def watch_open_files() -> None:
    """Log a line while this process can open no more files, and so accepts no connections.

    The event loops differ: asyncio logs a traceback for each attempt, 20,000 in a burst; uvloop and
    Twisted log nothing.
    """
    logging.getLogger("asyncio").addFilter(_is_no_accept)
    threading.Thread(target=_look_at_open_files, daemon=True).start()


def _is_no_accept(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("socket.accept() out of system resource")


def _look_at_open_files() -> None:
    while True:
        time.sleep(_LOOKING_INTERVAL)
        try:
            for end in os.pipe():  # Fails only when no more files can be opened.
                os.close(end)
        except OSError as error:
            logger.error(
                "No more files can be opened, and so no connections accepted: %s. Raise the"
                " limit (ulimit -n, LimitNOFILE of systemd).",
                error.strerror,
            )
            time.sleep(_LOGGING_INTERVAL)


def remove_path(path: str) -> None:
    """Remove the file of a Unix socket, if it exists."""
    with suppress(FileNotFoundError):
        Path(path).unlink()


@contextmanager
def _saying_why() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AddressError(error.strerror or error) from error


def _bind(plan: ServeConfig) -> list[socket.socket]:
    """Return bound sockets that do not listen yet, so none is closed with a client in it."""
    if plan.uds:
        return [_bind_to_path(plan.uds)] * plan.workers
    if plan.workers == 1 or sys.platform != "linux":
        return [_bind_to_port(plan.host, plan.port)] * plan.workers
    # A socket without SO_REUSEPORT: binding fails when another server listens, even one with it.
    _bind_to_port(plan.host, plan.port).close()
    return [_bind_to_port(plan.host, plan.port, share=True) for _ in range(plan.workers)]


def _bind_to_port(host: str, port: int, *, share: bool = False) -> socket.socket:
    family, *_, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Old connections of a server that has stopped must not prevent a restart. (On Windows,
        # SO_REUSEADDR would let two servers have the same port.)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, sys.platform != "win32")
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # Granian makes its own sockets, on which "::" includes IPv4, so all servers do that.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    # Twisted does not set this itself, and would wait in accept() for ever.
    bound.setblocking(False)
    return bound


def _bind_to_path(path: str) -> socket.socket:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise OSError("there is a file, which is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                remove_path(path)  # Left behind by a server that was killed.
            else:
                raise OSError("another server listens there")
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(path)
        Path(path).chmod(UDS_MODE)
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound
