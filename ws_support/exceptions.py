"""The exceptions that consumers and views raise and catch."""

from __future__ import annotations

from ws_support.close_codes import CloseCode

__all__ = ["ClientGone", "ConnectionClosed", "InvalidMessage"]


class ClientGone(OSError):
    """A message was sent to a client that has gone (an `OSError`, as ASGI 2.4 asks for)."""


class ConnectionClosed(ClientGone):
    """The connection has ended: with `code` (int, 1006 for one that was lost) and `reason` (str)
    of whoever closed first."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(
            f"The connection was closed with {code}" + (f": {reason}" if reason else "")
        )
        self.code = code
        self.reason = reason


class InvalidMessage(ValueError):
    """A client sent what the application cannot read.

    A consumer that raises it closes with `code` and `reason`; `WebSocketSupport` logs that in one
    line.
    """

    def __init__(self, message: str, code: CloseCode, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


def is_client_gone(error: BaseException) -> bool:
    """Return True if `error`, or all that it groups, says that the client has gone."""
    grouped = getattr(error, "exceptions", None)
    if grouped:
        return all(map(is_client_gone, grouped))
    return isinstance(error, ClientGone)


def invalid_json(error: Exception) -> InvalidMessage:
    """Return what a consumer raises for a text that is no JSON."""
    return InvalidMessage(
        f"The message is not valid JSON: {error}",
        CloseCode.INVALID_DATA,
        "The message is not valid JSON",
    )
