"""ASGI 2.5: checks for messages of an application, and what scopes of servers say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from ws_support.close_codes import MAX_REASON, may_be_sent

UNANSWERED: Final = "ws_support.unanswered"
"""The key in the scope of a handshake whose application has raised before it answered."""

DIRECT: Final = "ws_support.direct"
"""The extension of a server whose `send()` may be called in any task, not only in one of the
application. Its value has the attribute `send`, the callable that the server has passed to the
application, and may have `write_frame(frame)`, which returns False if that was not possible."""

_SERVERS: Final = frozenset({"daphne", "granian", "hypercorn", "uvicorn"})
"""Packages of servers that need no extension: `send()` of Daphne 4.2, Granian 2.8, Hypercorn 0.18
and Uvicorn 0.54 may be called in any task. Started by their own commands, they run no code of this
package that could add the extension, and broadcasts would need a task for each message."""


class DirectSend:
    """The value of `DIRECT` for a server that has nothing but `send`."""

    __slots__ = ("send",)

    def __init__(self, send: Callable[[Any], Awaitable[None]]) -> None:
        self.send = send


def add_direct(scope: Any, value: Any) -> None:
    """Add the extension `DIRECT` to `scope`, unless a server has added its own."""
    extensions = scope.get("extensions") or {}
    if DIRECT not in extensions:
        # Granian may use one dictionary for many scopes.
        scope["extensions"] = {**extensions, DIRECT: value}


def remove_direct(scope: Any) -> None:
    """Remove the extension, when the application has ended.

    A server that keeps the scope would otherwise wait for the garbage collector.
    """
    (scope.get("extensions") or {}).pop(DIRECT, None)


def direct_of(scope: Mapping[str, Any], send: Callable[[Any], Awaitable[None]]) -> Any:
    """Return the value of `DIRECT` if `send` is the server's own, else `None`.

    A `send` that a middleware has wrapped may depend on its task, for example for a timeout.
    """
    value = (scope.get("extensions") or {}).get(DIRECT)
    if value is not None:
        return value if send == value.send else None
    while isinstance(send, partial):
        send = send.func
    owner = getattr(send, "__self__", None)
    return DirectSend(send) if type(owner).__module__.partition(".")[0] in _SERVERS else None


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
