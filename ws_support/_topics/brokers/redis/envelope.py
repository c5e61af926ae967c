"""A message on its way through Redis, as bytes."""

from __future__ import annotations

import os
from struct import Struct
from typing import Any, Final, NamedTuple

_HEAD: Final = Struct("!c12sIQQ")
"""What the message is, the publisher and its process, its number and the base."""

_FORMS: Final = {b"t": "text", b"b": "bytes"}


class Received(NamedTuple):
    """A message that has come."""

    publisher: str
    number: int
    base: int
    """The number of the last message that Redis had taken before: those up to it were published."""
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
        text = self.message.get("text")
        kind = b"b" if text is None else b"t"
        data: bytes = self.message["bytes"] if text is None else text.encode()
        return _HEAD.pack(kind, publisher, os.getpid(), number, base) + data


def read(data: bytes) -> Received | None:
    """Return the message in `data`, or None if it holds none."""
    if len(data) < _HEAD.size:
        return None
    kind, publisher, process, number, base = _HEAD.unpack_from(data)
    form = _FORMS.get(kind)
    if form is None:
        return None
    content: str | bytes = data[_HEAD.size :]
    if form == "text":
        try:
            content = data[_HEAD.size :].decode()
        except UnicodeDecodeError:
            return None
    message = {"type": "websocket.send", form: content}
    return Received(f"{publisher.hex()}.{process}", number, base, message)
