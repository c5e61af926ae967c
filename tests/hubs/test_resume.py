"""What is repeated on the next WebSocket of a stateful reconnect, and what is not."""

from __future__ import annotations

import pytest

from ws_support._hubs.messages import (
    Ack,
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Ping,
    Sequence,
    StreamInvocation,
    StreamItem,
)
from ws_support._hubs.protocols.base import ProtocolError
from ws_support._hubs.resume import ACK_SIZE, MessageBuffer

COUNTED = [
    Invocation("Echo", []),
    StreamInvocation("Count", [], "1"),
    StreamItem("1", 1),
    Completion("1"),
    CancelInvocation("1"),
]


def repeated(buffer: MessageBuffer) -> tuple[int, list[bytes]]:
    number, messages = buffer.resume()
    return number, list(messages)


def test_what_is_not_acknowledged_is_repeated_in_its_order():
    buffer = MessageBuffer()
    for data in (b"one", b"two", b"three"):
        buffer.keep(data)
    assert buffer.size == 11
    buffer.acknowledge(1)
    assert (buffer.size, repeated(buffer)) == (8, (2, [b"two", b"three"]))
    buffer.keep(b"four")
    buffer.acknowledge(4)
    assert (buffer.size, repeated(buffer)) == (0, (5, []))


def test_an_acknowledgement_counts_once_and_not_for_what_was_never_sent():
    buffer = MessageBuffer()
    buffer.keep(b"one")
    for number in (0, 7, 1, 1):
        buffer.acknowledge(number)
    assert repeated(buffer) == (2, [])


@pytest.mark.parametrize("message", COUNTED)
def test_messages_of_these_types_are_counted(message):
    buffer = MessageBuffer()
    assert buffer.takes(message, 10)
    assert buffer.next_ack() == 1


@pytest.mark.parametrize("message", [Ping(), Ack(1), Close()])
def test_other_messages_are_not_counted(message):
    buffer = MessageBuffer()
    assert buffer.takes(message, 10)
    assert buffer.next_ack() is None


def test_before_the_sequence_everything_is_dropped():
    buffer = MessageBuffer()
    buffer.resume()
    assert not buffer.takes(COUNTED[0], 10)
    assert not buffer.takes(Ping(), 10)
    assert not buffer.takes(Sequence(1), 10)
    assert buffer.takes(COUNTED[0], 10)


def test_what_has_come_before_is_not_taken_again():
    buffer = MessageBuffer()
    for _ in range(3):
        buffer.takes(COUNTED[0], 10)
    buffer.resume()
    assert not buffer.takes(Sequence(2), 10)
    assert [buffer.takes(COUNTED[0], 10) for _ in range(3)] == [False, False, True]
    assert buffer.next_ack() == 4


def test_a_loss_in_the_middle_of_a_repetition_is_no_error():
    buffer = MessageBuffer()
    for _ in range(5):
        buffer.takes(COUNTED[0], 10)
    buffer.resume()
    buffer.takes(Sequence(1), 10)
    buffer.takes(COUNTED[0], 10)
    buffer.resume()
    # The client has heard meanwhile that all five have come.
    assert not buffer.takes(Sequence(6), 10)
    assert buffer.takes(COUNTED[0], 10)


def test_a_sequence_beyond_what_has_come_is_an_error():
    buffer = MessageBuffer()
    buffer.takes(COUNTED[0], 10)
    with pytest.raises(ProtocolError, match="Sequence ID greater than amount of messages"):
        buffer.takes(Sequence(3), 10)


def test_much_is_acknowledged_at_once_and_only_what_is_new():
    buffer = MessageBuffer()
    buffer.takes(COUNTED[0], ACK_SIZE - 1)
    assert not buffer.is_ack_due
    buffer.takes(COUNTED[0], 1)
    assert buffer.is_ack_due
    assert buffer.next_ack() == 2
    assert not buffer.is_ack_due
    assert buffer.next_ack() is None


def test_what_is_repeated_is_acknowledged_again_since_the_first_ack_may_be_lost():
    buffer = MessageBuffer()
    for _ in range(3):
        buffer.takes(COUNTED[0], 10)
    assert buffer.next_ack() == 3
    buffer.resume()
    buffer.takes(Sequence(2), 10)
    for _ in range(2):
        buffer.takes(COUNTED[0], 10)
    assert buffer.next_ack() == 3
    buffer.resume()
    buffer.takes(Sequence(4), 10)
    assert buffer.next_ack() is None
