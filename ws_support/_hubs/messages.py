"""The messages of a hub connection, in either direction.

A message that was read holds its arguments, its item or its result as the bytes of its protocol
(`Undecoded`), since their types depend on what they are for. One that is to be written holds Python
objects.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Raw, Struct

Undecoded: TypeAlias = Raw


class Invocation(Struct, frozen=True):
    """A call of a method. Without an `id`, nobody waits for its Completion."""

    target: str
    arguments: Any
    """A list of objects; `Undecoded` if it was read."""
    id: str | None = None
    stream_ids: tuple[str, ...] = ()
    """The ids of the streams that the caller is going to send, in the order of the parameters."""


class StreamInvocation(Struct, frozen=True):
    """A call of a method that answers with a stream: with StreamItems, and a Completion."""

    target: str
    arguments: Any
    """A list of objects; `Undecoded` if it was read."""
    id: str
    stream_ids: tuple[str, ...] = ()


class StreamItem(Struct, frozen=True):
    """An item of a stream."""

    id: str
    item: Any
    """An object; `Undecoded` if it was read."""


class Completion(Struct, frozen=True):
    """The end of an invocation or of a stream: with a result, with an error, or with neither."""

    id: str
    result: Any = None
    """An object; `Undecoded` if it was read and there is one, otherwise None."""
    error: str | None = None
    has_result: bool = False


class CancelInvocation(Struct, frozen=True):
    """The wish of the caller that a stream ends."""

    id: str


class Ping(Struct, frozen=True):
    """A sign of life, which is not answered."""


class Close(Struct, frozen=True):
    """The end of the connection."""

    error: str | None = None
    allow_reconnect: bool = False


class Ack(Struct, frozen=True):
    """The number of the last message that has arrived, of the ones that are counted."""

    sequence_id: int


class Sequence(Struct, frozen=True):
    """The number of the message that comes next, on a new transport of a stateful reconnect."""

    sequence_id: int


Message: TypeAlias = (
    Invocation
    | StreamInvocation
    | StreamItem
    | Completion
    | CancelInvocation
    | Ping
    | Close
    | Ack
    | Sequence
)
