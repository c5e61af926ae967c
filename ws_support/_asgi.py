"""Checks for ASGI messages of an application, and for the scopes of servers (ASGI 2.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ws_support.close_codes import MAX_REASON, may_be_sent

UNANSWERED: Final = "ws_support.unanswered"
"""The key in the scope of a handshake whose application has raised before it answered."""


def check_accept(scope: Mapping[str, Any], message: Mapping[str, Any]) -> None:
    """Check a `websocket.accept`.

    Raises `ValueError` for a sub-protocol that the client did not offer. The client would have to
    fail such a connection (RFC 6455, section 4.1), and servers would send it, cut the client off,
    or hang.
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


def check_close(message: Mapping[str, Any]) -> None:
    """Check a `websocket.close`.

    Raises `ValueError` for a code that may not be sent, or a reason of more than 123 bytes. Servers
    would send something else, without an error.
    """
    code = message.get("code")
    if code is not None and not (isinstance(code, int) and may_be_sent(code)):
        raise ValueError(
            f"A connection cannot be closed with {code!r:.100}: use 1000 or a code from 3000 to"
            " 4999."
        )
    reason = message.get("reason") or ""
    size = len(reason.encode())
    if size > MAX_REASON:
        raise ValueError(
            f"The reason has {size} bytes, and {MAX_REASON} are the most: {reason!r:.60}..."
        )


def is_served(scope: Mapping[str, Any]) -> bool:
    """Return True if `scope` comes from a server, and not from a test.

    Servers put the version of ASGI into the scope. The communicators of Channels and asgiref, with
    which projects test, do not.
    """
    return "asgi" in scope
