"""Sockets to listen at, which the servers take over."""

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

from ws_support.servers.base import Plan

logger = logging.getLogger("ws_support.servers")

BACKLOG: Final = 2048
"""Connections that may wait to be accepted: as many as come at once after a restart."""

UDS_MODE: Final = 0o666
"""Proxies run as other users. Whom the folder of the socket lets through may connect."""

_LOOKING_INTERVAL: Final = 0.5
"""Seconds between two looks at whether a file could be opened."""

_LOGGING_INTERVAL: Final = 60.0
"""Seconds between two lines that say that none could."""


class AddressError(Exception):
    """Nobody can listen there; why."""


def listen(plan: Plan) -> list[socket.socket]:
    """A listening socket for each worker, or one for all where that is not possible.

    With one of its own (Linux's SO_REUSEPORT), each gets the same share of the connections. With
    a common one, those who wait for the longest time get most of them, and keep WebSockets for
    hours. Raises `AddressError` when the address cannot be had.
    """
    with _saying_why():
        bound = _bind(plan)
        for each in set(bound):
            each.listen(BACKLOG)
        return bound


def check(plan: Plan) -> None:
    """For servers that listen by themselves: raises `AddressError` when that cannot work."""
    with _saying_why():
        for each in set(_bind(plan)):
            each.close()
    if plan.uds:
        remove_path(plan.uds)


def watch_open_files() -> None:
    """Log a line when this process cannot open any more files, and so accepts nobody.

    Each server has its own words: asyncio a traceback for each attempt, 20,000 in a burst; uvloop
    and Twisted none.
    """
    logging.getLogger("asyncio").addFilter(_is_no_accept)
    threading.Thread(target=_look_at_open_files, daemon=True).start()


def _is_no_accept(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("socket.accept() out of system resource")


def _look_at_open_files() -> None:
    while True:
        time.sleep(_LOOKING_INTERVAL)
        try:
            for end in os.pipe():  # It fails for no other reason.
                os.close(end)
        except OSError as error:
            logger.error(
                "No more files can be opened, and so no connections accepted: %s. Raise the"
                " limit (ulimit -n, LimitNOFILE of systemd).",
                error.strerror,
            )
            time.sleep(_LOGGING_INTERVAL)


def remove_path(path: str) -> None:
    """What is left of a Unix socket."""
    with suppress(FileNotFoundError):
        Path(path).unlink()


@contextmanager
def _saying_why() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AddressError(error.strerror or error) from error


def _bind(plan: Plan) -> list[socket.socket]:
    """Sockets that do not listen yet: nobody gets into one that is closed again."""
    if plan.uds:
        return [_bind_to_path(plan.uds)] * plan.workers
    if plan.workers == 1 or sys.platform != "linux":
        return [_bind_to_port(plan.host, plan.port)] * plan.workers
    # This one fails when somebody listens there, also when they are ready to share.
    _bind_to_port(plan.host, plan.port).close()
    return [_bind_to_port(plan.host, plan.port, share=True) for _ in range(plan.workers)]


def _bind_to_port(host: str, port: int, *, share: bool = False) -> socket.socket:
    family, *_, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of a server that was there before do not count. (Windows means more by this.)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, sys.platform != "win32")
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # On Granian, which listens by itself, "::" is 0.0.0.0 as well, and so it is on all.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    # Twisted does not do this itself, and waits in accept() for ever.
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
                remove_path(path)  # Of a server that was killed.
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
