"""What `make fuzz` does for as long as is wanted, for some seconds; and what it has found."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fuzz.chaos import Unasked, fuzz_echo, fuzz_everything
from tests.fuzz.connection import REQUEST, Connection, Records, check_echo, echo
from tests.fuzz.requests import fuzz_requests
from tests.harness import RawClient, examples


class DrawnChoices:
    """Choices that Hypothesis makes, and can make smaller."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self._left = data.draw(st.integers(0, 120), "steps")

    def number(self, least: int, most: int) -> int:
        self._left -= 1
        return self._data.draw(st.integers(least, most))

    def data(self, most: int) -> bytes:
        self._left -= 1
        return self._data.draw(st.binary(max_size=most))

    @property
    def is_done(self) -> bool:
        return self._left <= 0


@contextmanager
def new_loop():
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.run_until_complete(_end(asyncio.all_tasks(loop)))
        loop.close()


async def _end(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def loop():
    with new_loop() as loop:
        yield loop


@pytest.fixture(autouse=True)
def records():
    """What was logged as an error, which is nothing."""
    records = Records()
    records.addFilter(Unasked())
    names = ("uvicorn.error", "ws_support.servers", "asyncio")
    for name in names:
        logging.getLogger(name).addHandler(records)
    yield records.records
    for name in names:
        logging.getLogger(name).removeHandler(records)
    assert not [record.getMessage() for record in records.records]


@settings(max_examples=examples(150))
@given(st.data())
def test_whatever_a_client_sends_is_told_as_it_is(data):
    with new_loop() as loop:
        fuzz_echo(loop, DrawnChoices(data))


@settings(max_examples=examples(150))
@given(st.data())
def test_whatever_both_sides_do_ends_lawfully(data):
    with new_loop() as loop:
        fuzz_everything(loop, DrawnChoices(data))


@settings(max_examples=examples(150))
@given(st.data())
def test_whatever_requests_a_client_sends_are_answered_in_their_order(data):
    with new_loop() as loop:
        fuzz_requests(loop, DrawnChoices(data))


frames = st.builds(
    RawClient.frame_of,
    st.sampled_from([0, 1, 2, 8, 9, 10]),
    st.sampled_from([b"", b"text", "ä𝄞".encode(), b"\xc3", b"\xa4", b"\x03\xe8", bytes(200)]),
    fin=st.booleans(),
)


class Conversation(RuleBasedStateMachine):
    """A client that sends frames, lawful or not, to an application that echoes."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.loop = self.stack.enter_context(new_loop())
        self.connection = Connection(self.loop, echo)
        self.connection.feed(REQUEST)
        self.connection.turn()
        self.connection.fed = b""

    @precondition(lambda self: not self.connection.is_ended)
    @rule(frames=st.lists(frames, min_size=1, max_size=4), cut=st.integers(0, 50))
    def send(self, frames: list[bytes], cut: int) -> None:
        data = b"".join(frames)
        self.connection.feed(data[:cut])
        self.connection.feed(data[cut:])

    @precondition(lambda self: not self.connection.is_ended)
    @rule(data=st.binary(min_size=1, max_size=20))
    def send_anything(self, data: bytes) -> None:
        self.connection.feed(data)

    @rule()
    def lose(self) -> None:
        self.connection.transport.lose()

    @invariant()
    def all_is_as_the_protocol_says(self) -> None:
        self.connection.turn(8)
        check_echo(self.connection, is_lost=self.connection.transport.is_lost)

    def teardown(self) -> None:
        self.connection.transport.lose()
        self.connection.turn(8)
        assert not self.connection.state.tasks
        self.stack.close()


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=examples(60), stateful_step_count=12)


# What was found


def text(data: bytes) -> bytes:
    return RawClient.frame_of(1, data)


def test_two_readers_take_turns_where_others_have_theirs(loop):
    """The second one took the last message while the first one let others have their turn."""

    async def application(connection: Connection) -> None:
        await connection.next()
        await connection.send({"type": "websocket.accept"})
        await asyncio.sleep(0)

        async def read() -> None:
            while len(connection.received) < 63:
                await connection.next()

        await asyncio.gather(read(), read(), return_exceptions=True)

    connection = Connection(loop, application)
    connection.feed(REQUEST + b"".join(text(b"%d" % number) for number in range(63)), turns=0)
    connection.turn(100)
    assert sorted(map(int, connection.received)) == list(range(63))


def test_a_message_that_has_come_when_its_reader_is_cancelled_is_the_next_ones(loop):
    async def application(connection: Connection) -> None:
        await connection.next()
        await connection.send({"type": "websocket.accept"})
        reader = asyncio.ensure_future(connection.next())
        connection.readers = [reader]
        await asyncio.wait([reader])
        await connection.next()

    connection = Connection(loop, application)
    connection.feed(REQUEST)
    connection.turn(8)
    connection.feed(text(b"not lost"), turns=0)
    connection.readers[0].cancel()
    connection.turn(8)
    assert connection.received == ["not lost"]


def test_two_tasks_that_wait_for_a_message_are_an_error_that_says_so(loop):
    async def application(connection: Connection) -> None:
        await connection.next()
        await connection.send({"type": "websocket.accept"})
        reader = asyncio.ensure_future(connection.next())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task waits for a message"):
            await connection.next()
        await reader

    connection = Connection(loop, application)
    connection.feed(REQUEST)
    connection.turn(8)
    connection.feed(text(b"for the first"))
    assert connection.received == ["for the first"]
