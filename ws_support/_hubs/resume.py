"""The message buffer of a stateful reconnect: what has to be repeated on the next WebSocket.

Both sides count the messages of types 1 to 5, each direction by itself and from 1 on. A message is
kept until the other side acknowledges it. On a new WebSocket both sides first send the number of
the message that comes next, and then all that is not acknowledged. The source is MessageBuffer.cs
of ASP.NET Core.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from ws_support._hubs.messages import (
    CancelInvocation,
    Completion,
    Invocation,
    Message,
    Sequence,
    StreamInvocation,
    StreamItem,
)
from ws_support._hubs.protocols.base import ProtocolError

ACK_SIZE: Final = 32 * 1024
"""Bytes after which messages are acknowledged at once. .NET does so once a second only, which holds
a client with a buffer of 100,000 bytes to that many in a second."""

ACK_INTERVAL: Final = 1.0
"""Seconds within which messages are acknowledged."""

_COUNTED: Final[frozenset[type]] = frozenset(
    {Invocation, StreamInvocation, StreamItem, Completion, CancelInvocation}
)


def is_counted(message: Message) -> bool:
    """Return True for a message that has a number."""
    return message.__class__ in _COUNTED


class MessageBuffer:
    """The messages of one connection that are counted, in both directions. It does no I/O."""

    def __init__(self) -> None:
        self._kept: deque[bytes] = deque()
        self._first = 1
        """The number of the first message that is kept, or of the next one."""
        self.size = 0
        """Bytes that are kept."""
        self._next = 1
        """The number of the next message of the client."""
        self._latest = 0
        """The highest number of a message that has been taken."""
        self._acknowledged = 0
        self._unacknowledged_size = 0
        self._awaits_sequence = False

    # To the client

    def keep(self, data: bytes) -> None:
        """Keep a message that is sent now, or as soon as there is a WebSocket again."""
        self._kept.append(data)
        self.size += len(data)

    def acknowledge(self, number: int) -> None:
        """Drop what the client has received, up to a number."""
        while self._kept and self._first <= number:
            self.size -= len(self._kept.popleft())
            self._first += 1

    def resume(self) -> tuple[int, Iterator[bytes]]:
        """Begin with a new WebSocket. Return the number of the next message, and what to repeat."""
        self._awaits_sequence = True
        return self._first, iter(tuple(self._kept))

    # From the client

    def takes(self, message: Message, size: int) -> bool:
        """Return True if a message of the client is to be handled, and count it.

        It has come before if not, or it belongs to nothing. Raises `ProtocolError` for a number
        that cannot be.
        """
        if isinstance(message, Sequence):
            # Not `_next`, as in .NET: the last WebSocket may have been lost during a repetition.
            if message.sequence_id > self._latest + 1:
                raise ProtocolError("Sequence ID greater than amount of messages we've received.")
            self._next = message.sequence_id
            # The client knows of no Ack beyond: a later one was lost with the last WebSocket.
            self._acknowledged = message.sequence_id - 1
            self._awaits_sequence = False
            return False
        if self._awaits_sequence:
            return False
        if not is_counted(message):
            return True
        number = self._next
        self._next += 1
        self._unacknowledged_size += size
        if number <= self._latest:
            return False
        self._latest = number
        return True

    @property
    def is_ack_due(self) -> bool:
        """True if so much has come that it has to be acknowledged now."""
        return self._unacknowledged_size >= ACK_SIZE

    def next_ack(self, waiting: int = 0) -> int | None:
        """Return the number to acknowledge, or None if the client knows it already.

        The last messages, `waiting` of them, are not acknowledged yet.
        """
        self._unacknowledged_size = 0
        number = self._latest - waiting
        if number <= self._acknowledged:
            return None
        self._acknowledged = number
        return number
