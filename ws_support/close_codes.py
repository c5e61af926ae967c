"""The close codes, which say why a connection has ended."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = ["CloseCode"]


class CloseCode(IntEnum):
    """The close codes of RFC 6455, section 7.4.1, and of IANA's registry.

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

MAX_REASON: Final = 123
"""The most bytes that the reason in a close frame can have (RFC 6455, section 5.5)."""


def may_be_sent(code: int) -> bool:
    """Return True if a close frame may carry `code` (RFC 6455, sections 7.4.1 and 7.4.2).

    All codes from 3000 to 4999 may be sent; below 3000, only registered ones.
    """
    return 3000 <= code <= 4999 or code in _REGISTERED
