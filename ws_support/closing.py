"""Why a connection ends: close codes, and which of them may be sent."""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """The codes of RFC 6455, section 7.4.1, and of IANA's registry.

    https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
    """

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    """The peer closed without a code. Never sent."""
    ABNORMAL_CLOSURE = 1006
    """The connection was lost without a close frame. Never sent."""
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015
    """The TLS handshake failed. Never sent."""
    UNAUTHORIZED = 3000
    FORBIDDEN = 3003
    TIMEOUT = 3008


_NEVER_SENT = frozenset(
    {CloseCode.NO_STATUS_RECEIVED, CloseCode.ABNORMAL_CLOSURE, CloseCode.TLS_HANDSHAKE}
)
_REGISTERED = frozenset(CloseCode) - _NEVER_SENT


def may_be_sent(code: int) -> bool:
    """Whether a close frame may carry `code` (RFC 6455, sections 7.4.1 and 7.4.2).

    Every code from 3000 to 4999 may; below that, those that are registered.
    """
    return 3000 <= code <= 4999 or code in _REGISTERED


class ClientGone(OSError):
    """A message was sent to a client that has gone (an `OSError`, as ASGI 2.4 asks for)."""


def is_client_gone(error: BaseException) -> bool:
    """Whether `error`, or all that it groups, says that the client has gone."""
    grouped = getattr(error, "exceptions", None)
    if grouped:
        return all(map(is_client_gone, grouped))
    return isinstance(error, ClientGone)


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


def invalid_json(error: Exception) -> InvalidMessage:
    """For a text that is no JSON."""
    return InvalidMessage(
        f"The message is not valid JSON: {error}",
        CloseCode.INVALID_DATA,
        "The message is not valid JSON",
    )
