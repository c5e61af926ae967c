"""Connection tokens: signed, safe in a URL, and enough to know who owns a connection.

`negotiate` keeps nothing. What the server has to know later stands in the token.
"""

from __future__ import annotations

import secrets
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from hmac import compare_digest
from time import time
from typing import Final, NamedTuple

from django.conf import settings
from django.utils.crypto import salted_hmac

_WORKER_SIZE: Final = 6
_ID_SIZE: Final = 18
_MAC_SIZE: Final = 16
_BODY: Final = struct.Struct(f"!{_ID_SIZE}sIB")

_MAX_LENGTH: Final = 1000
"""Characters of the longest text that is looked at."""

_IS_OLD: Final = 1
"""The flag of a token for a client of version 0, which knows no other id."""

_IS_STATEFUL: Final = 2
"""The flag of a token for a stateful reconnect."""

WORKER_LENGTH: Final = 8
"""Characters that the name of a worker has. Every id of a connection begins with such a name."""


def new_worker() -> str:
    """Return a random name for an event loop that runs hubs."""
    return _text(secrets.token_bytes(_WORKER_SIZE))


def new_id(worker: str) -> str:
    """Return a random id for a connection, of 24 characters."""
    return worker + _text(secrets.token_bytes(_ID_SIZE - _WORKER_SIZE))


class Token(NamedTuple):
    """What stands in a connection token."""

    id: str
    """The id of the connection, which others may know."""
    created_at: int
    """When the token was handed out, in seconds since 1970."""
    is_old: bool = False
    """True for a client of version 0, which has no token but the id."""
    is_stateful: bool = False
    """True if the connection may be carried on after a lost WebSocket."""

    @property
    def worker(self) -> str:
        """The name of the event loop that has handed out the token."""
        return self.id[:WORKER_LENGTH]

    @property
    def age(self) -> float:
        """The seconds since the token was handed out."""
        return time() - self.created_at

    def sign(self, hub: str) -> str:
        """Return the token as text, for the hub of that name only."""
        flags = self.is_old * _IS_OLD | self.is_stateful * _IS_STATEFUL
        body = _BODY.pack(_bytes(self.id), self.created_at, flags)
        return _signed(body, f"token.{hub}")


def read_token(text: str, hub: str) -> Token | None:
    """Return the token, or None if it is none that we have signed for the hub of that name."""
    body = _read(text, f"token.{hub}")
    if body is None or len(body) != _BODY.size:
        return None
    id_, created_at, flags = _BODY.unpack(body)
    return Token(_text(id_), created_at, bool(flags & _IS_OLD), bool(flags & _IS_STATEFUL))


def new_token(connection_id: str, *, is_old: bool = False, is_stateful: bool = False) -> Token:
    """Return a token for a new connection."""
    return Token(connection_id, int(time()), is_old, is_stateful)


class Ticket(NamedTuple):
    """What stands in an access token that negotiate hands out: it opens one connection."""

    id: str
    """The id of the connection."""
    created_at: int
    """When the ticket was handed out, in seconds since 1970."""
    user: str
    """The primary key of the user."""

    @property
    def age(self) -> float:
        """The seconds since the ticket was handed out."""
        return time() - self.created_at

    def sign(self, hub: str) -> str:
        """Return the ticket as text, for the hub of that name only."""
        body = _BODY.pack(_bytes(self.id), self.created_at, 0) + self.user.encode()
        return _signed(body, f"ticket.{hub}")


def new_ticket(connection_id: str, user: str) -> Ticket:
    """Return a ticket for a new connection of a user."""
    return Ticket(connection_id, int(time()), user)


def read_ticket(text: str, hub: str) -> Ticket | None:
    """Return the ticket, or None if it is none that we have signed for the hub of that name."""
    body = _read(text, f"ticket.{hub}")
    if body is None:
        return None
    id_, created_at, _ = _BODY.unpack(body[: _BODY.size])
    return Ticket(_text(id_), created_at, body[_BODY.size :].decode())


def _signed(body: bytes, purpose: str) -> str:
    return _text(body + _mac(purpose, body, settings.SECRET_KEY))


def _read(text: str, purpose: str) -> bytes | None:
    """Return what was signed for a purpose, or None."""
    if len(text) > _MAX_LENGTH:
        return None
    try:
        data = _bytes(text)
    except (Error, ValueError):
        return None
    # Base64 in Python ignores what does not belong there, and old clients know the text as the id.
    if len(data) < _BODY.size + _MAC_SIZE or _text(data) != text:
        return None
    body, mac = data[:-_MAC_SIZE], data[-_MAC_SIZE:]
    for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        if compare_digest(mac, _mac(purpose, body, key)):
            return body
    return None


def _mac(purpose: str, body: bytes, key: str | bytes) -> bytes:
    mac = salted_hmac(f"ws_support.hubs.{purpose}", body, secret=key, algorithm="sha256")
    return mac.digest()[:_MAC_SIZE]


def _text(data: bytes) -> str:
    """Return base64 for URLs, without padding: clients put a token into the URL as it is."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
