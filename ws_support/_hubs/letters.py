"""Letters: what one process asks of another one for a connection, over the topics of workers."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import msgspec
from msgspec import Struct


class Kind(IntEnum):
    SEND = 0
    """Send a message to a connection."""
    ADD = 1
    """Add a connection to a group."""
    REMOVE = 2
    """Remove a connection from a group."""
    INVOKE = 3
    """Invoke a method of a client, and send a RESULT."""
    TAKEN = 4
    """The receiver of an INVOKE or OPEN owns the connection, and goes on."""
    RESULT = 5
    """The answer of a client."""
    OPEN = 6
    """Serve a request. Its ASGI scope and first message are the body."""
    MESSAGES = 7
    """ASGI messages of a request, in either direction."""
    RECEIVED = 8
    """The other side has taken messages, up to a number."""
    ALIVE = 9
    """Nothing is new, but the sender is still there."""
    END = 10
    """The request is over for the sender."""
    LAST = 11
    """The last messages, and the end."""
    FORGET = 12
    """Nobody waits any more for the RESULT of an INVOKE."""


class Letter(Struct, array_like=True):
    """What goes from one process to another."""

    kind: Kind
    id: str
    """The id of a connection, of a call, or of a request that is forwarded."""
    sender: str = ""
    """The worker that has sent it, for an answer."""
    number: int = 0
    text: str = ""
    """The name of a group or of a protocol, or an error."""
    data: dict[str, bytes] = {}
    """A message, by protocol."""
    body: bytes = b""


encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(Letter)
_values: Final = msgspec.msgpack.Decoder()


def read_letter(data: bytes) -> Letter | None:
    """Return the letter, or None for what is none."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError:
        return None


def read_messages(body: bytes) -> list[dict[str, Any]]:
    """Return ASGI scopes or messages. MessagePack has no tuples, which ASGI wants for headers."""
    messages: list[dict[str, Any]] = _values.decode(body)
    for message in messages:
        if "headers" in message:
            message["headers"] = [(name, value) for name, value in message["headers"]]
    return messages
