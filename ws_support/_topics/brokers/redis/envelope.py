"""A message on its way through Redis, as bytes."""

from __future__ import annotations

import os
import struct
from struct import Struct
from typing import Any, Final, NamedTuple

from ws_support._topics.messages import EXCLUDE, JSONText
from ws_support._topics.positions import Position, is_position

_HEAD: Final = Struct("!c12sIQQ")
"""What the message is, the publisher and its process, its number and the base."""

_LENGTH: Final = Struct("!H")
"""The length of who is excluded, in front of that."""

_EXCLUDING: Final = {b"t": b"T", b"b": b"B", b"j": b"J"}
_KINDS: Final = {**{kind: kind for kind in _EXCLUDING}, **{b: a for a, b in _EXCLUDING.items()}}
"""Text, bytes and JSON; a capital letter for a message that somebody does not get."""

KEPT: Final = b"h"
"""What a message begins with that has a place in a history."""


class Received(NamedTuple):
    """A message that has come."""

    publisher: str
    number: int
    base: int
    """The number of the last message that Redis had taken before: those up to it were published."""
    message: dict[str, Any]


class Kept(NamedTuple):
    """A message that has come, and has a place in the history of its topic."""

    position: Position
    previous: Position
    message: dict[str, Any]


class Envelope(NamedTuple):
    """A message that is to be published."""

    topic: str
    message: dict[str, Any]

    @property
    def size(self) -> int:
        """How much there is of text or bytes."""
        return len(self.message.get("text") or self.message.get("bytes") or "")

    def write(self, publisher: bytes, number: int, base: int) -> bytes:
        """Return the message as bytes. `publisher` has 12."""
        kind, content = _write(self.message)
        return _HEAD.pack(kind, publisher, os.getpid(), number, base) + content


def read(data: bytes) -> Received | Kept | None:
    """Return the message in `data`, or None if it holds none."""
    if data[:1] == KEPT:
        return _read_kept(data)
    if len(data) < _HEAD.size:
        return None
    kind, publisher, process, number, base = _HEAD.unpack_from(data)
    message = _read(kind, data[_HEAD.size :])
    if message is None:
        return None
    return Received(f"{publisher.hex()}.{process}", number, base, message)


def write_entry(message: dict[str, Any]) -> bytes:
    """Return the message as the bytes that a history keeps."""
    kind, content = _write(message)
    return kind + content


def read_entry(data: bytes) -> dict[str, Any] | None:
    """Return the message that a history has kept as `data`, or None if it holds none."""
    return _read(data[:1], data[1:])


def _read_kept(data: bytes) -> Kept | None:
    parts = data.split(b" ", 3)
    if len(parts) != 4 or not (is_position(parts[1]) and is_position(parts[2])):
        return None
    message = read_entry(parts[3])
    return None if message is None else Kept(parts[1].decode(), parts[2].decode(), message)


def _write(message: dict[str, Any]) -> tuple[bytes, bytes]:
    text = message.get("text")
    if text is None:
        kind, content = b"b", message["bytes"]
    else:
        kind, content = b"j" if type(text) is JSONText else b"t", text.encode()
    if EXCLUDE in message:
        excluded = message[EXCLUDE].encode()
        return _EXCLUDING[kind], _LENGTH.pack(len(excluded)) + excluded + content
    return kind, content


def _read(kind: bytes, content: bytes) -> dict[str, Any] | None:
    plain = _KINDS.get(kind)
    if plain is None:
        return None
    message: dict[str, Any] = {"type": "websocket.send"}
    try:
        if plain != kind:
            end = _LENGTH.size + _LENGTH.unpack_from(content)[0]
            message[EXCLUDE] = content[_LENGTH.size : end].decode()
            content = content[end:]
        if plain == b"b":
            message["bytes"] = content
        elif plain == b"j":
            message["text"] = JSONText(content.decode())
        else:
            message["text"] = content.decode()
    except (UnicodeDecodeError, struct.error):
        return None
    return message
