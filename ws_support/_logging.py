"""What a log record says of a connection: never a message, a cookie or a query string."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fields(
    scope: Mapping[str, Any], *, code: int | None = None, duration: float | None = None
) -> dict[str, Any]:
    """The `extra` of a log record: `client`, `path`, `origin`, `code`, `duration` (seconds)."""
    return {
        "client": client(scope),
        "path": scope["path"],
        "origin": ", ".join(origins(scope)) or None,
        "code": code,
        "duration": duration,
    }


def client(scope: Mapping[str, Any]) -> str | None:
    """The address of the peer, `host:port`; `None` where the server knows none (Unix sockets)."""
    address = scope.get("client")
    return f"{address[0]}:{address[1]}" if address else None


def origins(scope: Mapping[str, Any]) -> list[str]:
    """The values of all `Origin` headers; a handshake should hold one at most."""
    return [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
