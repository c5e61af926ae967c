"""Exceptions that consumers and views raise and catch."""

from __future__ import annotations

from ws_support.close_codes import CloseCode

__all__ = ["BroadcastError", "ClientGone", "ConnectionClosed", "InvalidMessage"]


class BroadcastError(Exception):
    """Redis or the channel layer could not be reached, or did not do what was asked of it.

    Some subscribers, or all, do not get the message; or a history could not be read.
    """


class ClientGone(OSError):
    """A message was sent to a client that has gone (an `OSError`, as ASGI 2.4 asks for)."""


class ConnectionClosed(ClientGone):
    """The connection has ended.

    `code` (int) and `reason` (str) are those of the side that closed first. The code is 1006 for a
    connection that was lost.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(
            f"The connection was closed with {code}" + (f": {reason}" if reason else "")
        )
        self.code = code
        self.reason = reason


class InvalidMessage(ValueError):
    """A client sent a message that the application cannot read.

    When a consumer raises this, the connection is closed with `code` and `reason`, and
    `WebSocketSupport` logs one line.
    """

    def __init__(self, message: str, code: CloseCode, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


def is_client_gone(error: BaseException) -> bool:
    """Return True if `error` says that the client has gone; in a group, if all its errors do."""
    grouped = getattr(error, "exceptions", None)
    if grouped:
        return all(map(is_client_gone, grouped))
    return isinstance(error, ClientGone)


def invalid_json(error: Exception) -> InvalidMessage:
    """Return the exception that a consumer raises for text that is not valid JSON."""
    return InvalidMessage(
        f"The message is not valid JSON: {error}",
        CloseCode.INVALID_DATA,
        "The message is not valid JSON",
    )
