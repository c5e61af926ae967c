"""What an application may answer a handshake with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_accept(scope: Mapping[str, Any], message: Mapping[str, Any]) -> None:
    """Check a `websocket.accept`: servers would send it, cut the client off, or hang.

    Raises `ValueError` for a sub-protocol that the client did not offer, with which it has to fail
    the connection (RFC 6455, section 4.1).
    """
    subprotocol = message.get("subprotocol")
    if subprotocol is None:
        return
    offered = list(scope.get("subprotocols") or ())
    if subprotocol not in offered:
        raise ValueError(
            f"The client did not offer the sub-protocol {subprotocol!r:.100}, but"
            f" {offered!r:.200}: accept one of these, or None."
        )
