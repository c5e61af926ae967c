"""The fields of log records, which never hold a message, a cookie or a query string."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

_IS_LOGGED: Final = "_ws_support_is_logged"


def fields(
    scope: Mapping[str, Any], *, code: int | None = None, duration: float | None = None
) -> dict[str, Any]:
    """Return the `extra` of a log record: client, path, origin, code and duration (seconds)."""
    return {
        "client": client(scope),
        "path": scope["path"],
        "origin": ", ".join(origins(scope)) or None,
        "code": code,
        "duration": duration,
    }


def client(scope: Mapping[str, Any]) -> str | None:
    """Return the address of the peer, `host:port`, or `None` for a Unix socket."""
    address = scope.get("client")
    return f"{address[0]}:{address[1]}" if address else None


def origins(scope: Mapping[str, Any]) -> list[str]:
    """Return the values of all `Origin` headers; a handshake should have at most one."""
    return [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]


def mark_as_logged(error: BaseException) -> None:
    """Note that `error` is in the log, with its traceback."""
    with suppress(AttributeError):  # A class with `__slots__` may not allow it.
        setattr(error, _IS_LOGGED, True)


def is_logged(error: BaseException) -> bool:
    """Return True if `error` is in the log already."""
    return getattr(error, _IS_LOGGED, False)
