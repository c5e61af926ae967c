"""The close of old database connections, without a thread hop for each message."""

from __future__ import annotations

import threading
import time
from typing import Any, Final
from weakref import ref

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from ws_support._asyncio import PerLoop

_References = tuple[ref[BaseDatabaseWrapper], ...]

_opened: dict[int | None, _References] = {}
"""The open database connections of each thread: only that thread may close them.

The tuples are replaced and never changed, so that they can be read without the lock."""

_lock: Final = threading.Lock()


class OldConnections:
    """Django's `close_old_connections` for the coroutines of one event loop.

    Channels calls that function in a thread before every message. Here, `are_due()` first checks,
    in the event loop, if there is something to do: a database connection has outlived
    `CONN_MAX_AGE`, has seen an error, was left in another autocommit mode, or needs a health check
    (`CONN_HEALTH_CHECKS`). Only then, `close()` runs in the thread of the asynchronous ORM, which
    opened the connection. A connection in an atomic block is left alone.
    """

    def __init__(self) -> None:
        # The thread of `sync_to_async`. Unknown until the first `close()`.
        self._thread: int | None = None

    @classmethod
    def of_this_loop(cls) -> OldConnections:
        """Return the object of the running event loop."""
        if SyncToAsync.thread_sensitive_context.get(None) or getattr(
            AsyncToSync.executors, "current", None
        ):
            return cls()  # This WebSocket has a thread of its own, or the thread of its caller.
        return _of_loops.get()

    def are_due(self) -> bool:
        """Return True if `close()` has something to do."""
        # A plain loop is the fastest: this runs for each message.
        references = _opened.get(self._thread)
        if references is None:
            return True
        for reference in references:
            connection = reference()
            if connection is not None and connection.connection is not None and _is_due(connection):
                return True
        return False

    async def close(self) -> None:
        """Close old connections in their thread."""
        self._thread = await sync_to_async(_close_those_of_this_thread)()


_of_loops: Final = PerLoop(OldConnections)


def _is_due(connection: Any) -> bool:
    """Return True if `BaseDatabaseWrapper.close_if_unusable_or_obsolete` has something to do."""
    # This runs for each message: the second line is `_is_obsolete()`, without the cost of a call.
    return not connection.in_atomic_block and bool(
        connection.errors_occurred
        or (connection.close_at is not None and time.monotonic() >= connection.close_at)
        or (connection.health_check_enabled and connection.health_check_done)
        or connection.autocommit != connection.settings_dict["AUTOCOMMIT"]
    )


def _is_obsolete(connection: Any) -> bool:
    """Return True if `connection` has outlived `CONN_MAX_AGE`."""
    return connection.close_at is not None and time.monotonic() >= connection.close_at


def _close_those_of_this_thread() -> int:
    for connection in connections.all(initialized_only=True):
        # Django's `close_old_connections` also closes connections in an atomic block: a test that
        # runs in a transaction (`TestCase`) would lose it.
        if connection.connection is None or not _is_due(connection):
            continue
        # Django's method would first ask the connection for its mode. pytest-django forbids that
        # in a test without a database, to which another test may have left a connection.
        if _is_obsolete(connection):
            connection.close()
        else:
            connection.close_if_unusable_or_obsolete()
    thread = threading.get_ident()
    with _lock:
        # The entry is replaced by the connections that Django knows in this thread. That includes
        # connections that were opened before this module was imported, and those whose opening will
        # fail half-way, which sends no signal. It excludes connections that Django would not close,
        # and those of an ended thread with the same identifier.
        _opened[thread] = tuple(map(ref, connections.all()))
    return thread


def _remember(connection: BaseDatabaseWrapper, **_: Any) -> None:
    with _lock:
        for thread, references in list(_opened.items()):
            alive = tuple(each for each in references if each() not in (None, connection))
            if alive:
                _opened[thread] = alive
            else:
                del _opened[thread]
        thread = threading.get_ident()
        _opened[thread] = (*_opened.get(thread, ()), ref(connection))


connection_created.connect(_remember, dispatch_uid="ws_support.database")
