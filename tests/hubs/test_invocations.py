"""What a client invokes, and what it is answered, in both protocols."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from tests.hubs.test_protocols import decoded
from ws_support._hubs.errors import HubException
from ws_support._hubs.invocations import Invocations, Limits
from ws_support._hubs.messages import (
    Ack,
    CancelInvocation,
    Completion,
    Invocation,
    Message,
    StreamInvocation,
    StreamItem,
)
from ws_support._hubs.methods import methods_of
from ws_support._hubs.protocols import PROTOCOLS
from ws_support._hubs.protocols.base import HubProtocol, ProtocolError
from ws_support.testing import BOUND

FAILED = "Failed to invoke '{}' due to an error on the server."
RAISED = "An unexpected error occurred invoking '{}' on the server."


class Hub:
    """The base, whose methods cannot be called."""


class Chat(Hub):
    def __init__(self, client: Client) -> None:
        self.client = client

    def add(self, one: int, two: int) -> int:
        return one + two

    async def echo(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    async def nothing(self) -> None: ...

    async def fail(self) -> None:
        raise LookupError("the secret")

    async def refuse(self) -> None:
        raise HubException("Not now")

    async def await_cancelled(self) -> None:
        task = asyncio.ensure_future(asyncio.sleep(BOUND))
        task.cancel()
        await task

    async def unsendable(self) -> object:
        return object()

    async def broken(self) -> Any:
        return BrokenModel()

    async def in_time(self) -> str:
        # As asyncio.timeout() does it: the method has to be in the task that it began in.
        task = asyncio.current_task()
        asyncio.get_running_loop().call_later(0.01, task.cancel)
        try:
            await asyncio.sleep(BOUND)
        except asyncio.CancelledError:
            getattr(task, "uncancel", int)()
            return "in time"
        return "too late"

    async def wait(self, name: str) -> str:
        self.client.began.append(name)
        try:
            await self.client.gate(name).wait()
        except asyncio.CancelledError:
            self.client.cancelled.append(name)
            raise
        return name

    async def stubborn(self) -> None:
        self.client.began.append("stubborn")
        while not self.client.gate("stubborn").is_set():
            with suppress(asyncio.CancelledError):
                await self.client.gate("stubborn").wait()
        await asyncio.sleep(0)

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    async def endless(self) -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
                await asyncio.sleep(0)
        finally:
            self.client.closed.append("endless")

    async def busy(self) -> AsyncIterator[int]:
        while True:
            self.client.produced += 1
            yield 1

    async def cleaning(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(BOUND)
        finally:
            self.client.began.append("cleaning up")
            try:
                await self.client.gate("cleaned").wait()
            except asyncio.CancelledError:
                self.client.closed.append("cut off")
                raise
            self.client.closed.append("cleaned up")

    async def lend(self, ask: str) -> str:
        """Let a task ask the client after this method is over."""

        async def ask_later() -> None:
            await self.client.gate(ask).wait()
            self.client.invocations.release_slot()
            self.client.began.append("asked")

        self.client.task = asyncio.ensure_future(ask_later())
        return ask

    async def read_later(self, parts: AsyncIterator[str]) -> None:
        """Let a task read on after this method is over."""

        async def read() -> None:
            try:
                self.client.closed.extend([part async for part in parts])
                self.client.closed.append("end")
            except HubException as error:
                self.client.closed.append(str(error))

        self.client.task = asyncio.ensure_future(read())
        await self.client.gate("read").wait()

    async def silent(self) -> AsyncIterator[int]:
        self.client.began.append("silent")
        await asyncio.sleep(BOUND)
        yield 1

    async def made(self, to: int) -> AsyncIterator[int]:
        return self.count(to)

    def numbers(self) -> AsyncIterator[int]:
        return Numbers(self.client)

    def plain(self) -> AsyncIterator[str]:
        return Letters()

    async def breaks(self) -> AsyncIterator[int]:
        yield 1
        raise LookupError("the secret")

    async def stops(self) -> AsyncIterator[Any]:
        yield object()

    async def no_stream(self) -> AsyncIterator[int]:
        return 5

    async def stream_of_cancelled(self) -> AsyncIterator[int]:
        yield 1
        await self.await_cancelled()

    async def join(self, first: str, parts: AsyncIterator[str], last: str) -> str:
        self.client.began.append("join")
        return first + "".join([part async for part in parts]) + last

    async def join_when_told(self, name: str, parts: AsyncIterator[str]) -> int:
        await self.client.gate(name).wait()
        return sum([len(part) async for part in parts])

    async def doubled(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    async def join_twice(self, parts: AsyncIterator[str]) -> list[Any]:
        first = await anext(parts)
        try:
            await anext(parts)
        except HubException as error:
            return [first, str(error), [part async for part in parts]]

    async def picky(self, items: AsyncIterator[Picky]) -> None:
        await anext(items)

    async def read_twice(self, parts: AsyncIterator[str]) -> None:
        await asyncio.gather(anext(parts), anext(parts))

    async def take_one(self, parts: AsyncIterator[str]) -> str:
        return await anext(parts)

    async def take_none(self, parts: AsyncIterator[Any]) -> str:
        self.client.began.append("take_none")
        await self.client.gate("take_none").wait()
        return "none"


class BrokenModel:
    __pydantic_validator__ = None

    def model_dump(self) -> Any:
        raise KeyError("a bug of the project")


@dataclass
class Picky:
    name: str

    def __post_init__(self) -> None:
        raise LookupError(self.name)


class Numbers:
    """No generator, but an iterator that wants to know when it is over."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __aiter__(self) -> Numbers:
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(0)
        return 1

    async def aclose(self) -> None:
        self.client.closed.append("numbers")


class Letters:
    def __init__(self) -> None:
        self.left = ["a", "b"]

    def __aiter__(self) -> Letters:
        return self

    async def __anext__(self) -> str:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)


class Client:
    """Sends messages to a hub as bytes, and has its answers as objects."""

    def __init__(self, protocol: HubProtocol, **options: Any) -> None:
        self.protocol = protocol
        self.answers: list[Message] = []
        self.began: list[str] = []
        self.cancelled: list[str] = []
        self.closed: list[str] = []
        self.produced = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self.gates: dict[str, asyncio.Event] = {}
        self.invocations = Invocations(
            protocol, methods_of(Chat, Hub), lambda: Chat(self), self.write, **options
        )

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    def write(self, message: Message) -> Awaitable[None]:
        return self.hear(self.protocol.write(message))

    async def hear(self, frame: bytes) -> None:
        await self.reads.wait()
        [frame] = self.protocol.splitter(len(frame)).feed(frame)
        self.answers.append(decoded(self.protocol, self.protocol.parse(frame)))

    def sends(self, *messages: Message) -> None:
        data = b"".join(map(self.protocol.write, messages))
        for frame in self.protocol.splitter(len(data)).feed(data):
            self.invocations.take(self.protocol.parse(frame))

    async def until(self, is_so: Any) -> None:
        deadline = time.monotonic() + BOUND
        while not is_so():
            assert time.monotonic() < deadline, (self.answers, self.began)
            await asyncio.sleep(0.001)

    async def hears(self, count: int = 1) -> list[Message]:
        await self.until(lambda: len(self.answers) >= count)
        answers, self.answers = self.answers, []
        return answers

    async def asks(self, message: Message) -> Message:
        self.sends(message)
        [answer] = await self.hears()
        return answer


@asynccontextmanager
async def client_of(protocol: HubProtocol, **options: Any) -> AsyncIterator[Client]:
    client = Client(protocol, **options)
    client.invocations.start()
    try:
        yield client
    finally:
        assert await client.invocations.end(BOUND)


@pytest.fixture(params=PROTOCOLS)
def protocol(request) -> HubProtocol:
    return PROTOCOLS[request.param]


@pytest.fixture(params=[False, True], ids=["brief", "detailed"])
def is_detailed(request) -> bool:
    return request.param


def result(value: Any) -> Completion:
    return Completion("1", value, has_result=True)


# Invocations


@pytest.mark.parametrize(
    ("target", "arguments", "value"),
    [
        ("Add", [1, 2], 3),
        ("echo", [{"a": [None, "b"]}], {"a": [None, "b"]}),
        ("NOTHING", [], None),
        ("in_time", [], "in time"),
    ],
)
async def test_a_method_is_answered_with_its_result(protocol, target, arguments, value):
    async with client_of(protocol) as client:
        assert await client.asks(Invocation(target, arguments, "1")) == result(value)


async def test_without_an_id_nothing_is_answered(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("Add", [1, 2]), Invocation("Fail", []), Invocation("Unknown", []))
        assert await client.asks(Invocation("Add", [2, 3], "1")) == result(5)


ERRORS = [
    (Invocation("Unknown", [], "1"), FAILED, " HubException: Method does not exist.", ""),
    (Invocation("Add", [1], "1"), FAILED, "",
     " InvalidDataException: Invocation provides 1 argument(s) but target expects 2."),
    (Invocation("Add", [1, "x"], "1"), FAILED, "",
     " InvalidDataException: Error binding arguments. Make sure that the types of the provided"
     " values match the types of the hub method being invoked."),
    (Invocation("Fail", [], "1"), RAISED, "", " LookupError: the secret"),
    (Invocation("Refuse", [], "1"), RAISED, " HubException: Not now", ""),
    (Invocation("await_cancelled", [], "1"), RAISED, "", " CancelledError: "),
    (Invocation("unsendable", [], "1"), RAISED, "",
     " InvalidValue: A hub cannot send an object of type object"),
    (Invocation("Count", [1], "1"), "The client attempted to invoke the streaming '{}' method with"
     " a non-streaming invocation.", "", ""),
    (StreamInvocation("Add", [1, 2], "1"), "The client attempted to invoke the non-streaming '{}'"
     " method with a streaming invocation.", "", ""),
    (Invocation("Join", ["a", "b"], "1"), RAISED,
     " HubException: Client sent 0 stream(s), Hub method expects 1.", ""),
    (Invocation("Add", [1, 2], "1", ("2", "3")), RAISED,
     " HubException: Client sent 2 stream(s), Hub method expects 0.", ""),
    (StreamInvocation("Unknown", [], "1"), FAILED, " HubException: Method does not exist.", ""),
    (StreamInvocation("no_stream", [], "1"), RAISED, " HubException: The value returned by the"
     " streaming method 'no_stream' is not an asynchronous iterator.", ""),
]  # fmt: skip


@pytest.mark.parametrize(("message", "text", "always", "detail"), ERRORS)
async def test_an_error_is_told_in_the_words_of_dotnet(
    protocol, is_detailed, message, text, always, detail
):
    limits = Limits(detailed_errors=is_detailed)
    async with client_of(protocol, limits=limits) as client:
        answer = await client.asks(message)
        assert isinstance(answer, Completion)
        assert answer.error == text.format(message.target) + always + detail * is_detailed
        assert await client.asks(Invocation("Add", [1, 2], "1")) == result(3)


@pytest.mark.parametrize("target", ["Fail", "await_cancelled"])
async def test_an_exception_of_a_method_is_logged_without_its_arguments(protocol, caplog, target):
    async with client_of(protocol) as client:
        await client.asks(Invocation(target, [], "1"))
    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "ws_support.hubs")
    assert record.exc_info
    assert target in record.getMessage()


async def test_the_argument_that_does_not_fit_is_in_the_log_of_a_developer(protocol, caplog):
    caplog.set_level(logging.DEBUG, "ws_support.hubs")
    async with client_of(protocol) as client:
        await client.asks(Invocation("Add", [1, "x"], "1"))
    record, _ = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage() == (
        "The arguments of a call to 'Add' do not fit: 'Expected `int`, got `str` - at `$[1]`'"
    )


async def test_what_a_client_is_to_blame_for_is_one_line_without_a_traceback(protocol, caplog):
    async with client_of(protocol) as client:
        await client.asks(Invocation("unsendable", [], "1"))
    [record] = caplog.records
    assert (record.levelno, record.exc_info) == (logging.ERROR, None)
    assert record.getMessage().startswith(
        "The hub method 'unsendable' has raised InvalidValue: 'A hub cannot send an object"
    )


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (Invocation("Add", [1], "1"), "provides 1 argument(s) but target expects 2."),
        (Invocation("Unknown", [], "1"), "Method does not exist."),
        (Invocation("Join", ["a", "b"], "1"), "Client sent 0 stream(s), Hub method expects 1."),
    ],
)
async def test_why_a_call_is_refused_is_in_the_log_of_a_developer(protocol, caplog, message, line):
    caplog.set_level(logging.DEBUG, "ws_support.hubs")
    async with client_of(protocol) as client:
        await client.asks(message)
    [record] = caplog.records
    assert message.target in record.getMessage()
    assert line in record.getMessage()


async def test_what_the_project_is_to_blame_for_has_a_traceback(protocol, caplog):
    async with client_of(protocol) as client:
        await client.asks(Invocation("broken", [], "1"))
    [record] = caplog.records
    assert record.exc_info


async def test_a_client_forges_no_line_of_the_log(protocol, caplog):
    caplog.set_level(logging.DEBUG, "ws_support.hubs")
    async with client_of(protocol) as client:
        await client.asks(Invocation("x\nERROR forged", [], "1"))
    assert "\n" not in caplog.records[0].getMessage()


async def test_an_expected_error_is_not_logged(protocol, caplog):
    async with client_of(protocol) as client:
        for target in ("Refuse", "Unknown"):
            await client.asks(Invocation(target, [], "1"))
    assert not caplog.records


@pytest.mark.parametrize(
    "message", [Invocation("Add", [1, 2], "1"), StreamInvocation("Count", [1], "1")]
)
async def test_who_may_not_invoke_a_method_is_told_so(protocol, message, caplog):
    async def may_invoke(method: Any) -> bool:
        return False

    caplog.set_level(logging.DEBUG, "ws_support.hubs")
    async with client_of(protocol, may_invoke=may_invoke) as client:
        answer = await client.asks(message)
    assert answer.error == f"Failed to invoke '{message.target}' because user is unauthorized"
    [record] = caplog.records
    assert record.getMessage() == f"{answer.error!a}: it does not meet @authorize() of the method."


@pytest.mark.parametrize(
    "message", [Invocation("Add", [1, 2], "1"), StreamInvocation("Count", [1], "1")]
)
async def test_a_check_that_raises_is_no_permission(protocol, message):
    async def may_invoke(method: Any) -> bool:
        raise LookupError("no database")

    async with client_of(protocol, may_invoke=may_invoke) as client:
        assert (await client.asks(message)).error == RAISED.format(message.target)


# Cleaning up


@pytest.mark.parametrize("times", [1, 2])
async def test_a_stream_that_is_cancelled_may_wait_while_it_cleans_up(protocol, times):
    async with client_of(protocol) as client:
        client.sends(StreamInvocation("cleaning", [], "1"))
        await client.until(lambda: client.answers)
        for _ in range(times):
            client.sends(CancelInvocation("1"))
            await client.until(lambda: client.began == ["cleaning up"])
        client.gate("cleaned").set()
        await client.until(lambda: client.answers[-1] == Completion("1"))
        assert client.closed == ["cleaned up"]


@pytest.mark.parametrize("cancels", [False, True])
async def test_a_stream_whose_client_leaves_may_wait_while_it_cleans_up(protocol, cancels):
    client = Client(protocol)
    client.invocations.start()
    client.sends(StreamInvocation("cleaning", [], "1"))
    await client.until(lambda: client.answers)
    if cancels:
        client.sends(CancelInvocation("1"))
        await client.until(lambda: client.began == ["cleaning up"])
    ending = asyncio.ensure_future(client.invocations.end(BOUND))
    await client.until(lambda: client.began == ["cleaning up"])
    for _ in range(10):
        await asyncio.sleep(0)
    client.gate("cleaned").set()
    assert await ending
    assert client.closed == ["cleaned up"]


async def test_a_stream_that_does_not_end_is_cancelled_once_more_after_the_time_for_that(protocol):
    client = Client(protocol)
    client.invocations.start()
    client.sends(StreamInvocation("cleaning", [], "1"))
    await client.until(lambda: client.answers)
    assert not await client.invocations.end(0.05)
    await client.until(lambda: client.closed == ["cut off"])


# Order


async def test_plain_invocations_run_one_after_the_other(protocol):
    async with client_of(protocol) as client:
        client.sends(*(Invocation("Wait", [name], name) for name in "abc"))
        for name, began in (("a", "a"), ("b", "ab"), ("c", "abc")):
            await client.until(lambda began=began: client.began == list(began))
            await asyncio.sleep(0.01)
            assert client.began == list(began)
            client.gate(name).set()
            assert await client.hears() == [Completion(name, name, has_result=True)]


async def test_a_task_of_a_method_that_is_over_gives_up_no_slot_of_another(protocol):
    async with client_of(protocol) as client:
        await client.asks(Invocation("lend", ["ask"], "1"))
        client.sends(Invocation("Wait", ["a"], "a"), Invocation("Wait", ["b"], "b"))
        await client.until(lambda: client.began == ["a"])
        client.gate("ask").set()
        await client.until(lambda: client.began == ["a", "asked"])
        await asyncio.sleep(0.01)
        assert client.began == ["a", "asked"]
        client.gate("a").set()
        client.gate("b").set()
        assert await client.hears(2)


async def test_as_many_run_together_as_have_slots(protocol):
    async with client_of(protocol, limits=Limits(parallel=2)) as client:
        client.sends(*(Invocation("Wait", [name], name) for name in "abc"))
        await client.until(lambda: client.began == ["a", "b"])
        client.gate("b").set()
        await client.until(lambda: client.began == ["a", "b", "c"])


async def test_a_slot_is_not_lost_when_another_one_becomes_free_at_the_same_moment(protocol):
    async with client_of(protocol, limits=Limits(parallel=2)) as client:
        client.sends(Invocation("Wait", ["a"], "a"))
        await client.until(lambda: client.began == ["a"])
        client.gate("a").set()
        client.sends(Invocation("Add", [1, 2], "1"))
        assert result(3) in await client.hears(2)
        client.sends(Invocation("Wait", ["b"], "b"), Invocation("Wait", ["c"], "c"))
        await client.until(lambda: client.began == ["a", "b", "c"])


async def test_what_is_behind_a_waiting_invocation_waits_with_it(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("Wait", ["a"], "a"), Invocation("Wait", ["b"], "b"))
        client.sends(StreamInvocation("Count", [1], "1"))
        await client.until(lambda: client.began == ["a"])
        assert client.invocations.waiting
        assert client.answers == []
        client.gate("a").set()
        await client.until(lambda: not client.invocations.waiting)
        heard = await client.hears(3)
        assert {each.id for each in heard} == {"a", "1"}


async def test_many_invocations_in_one_read_leave_others_their_turn(protocol):
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with client_of(protocol) as client:
        others = asyncio.create_task(count())
        client.sends(*[Invocation("Add", [1, 2])] * 2000, Invocation("Add", [1, 2], "1"))
        assert await client.hears() == [result(3)]
        others.cancel()
    assert turns >= 30


async def test_streams_take_no_slot(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("Wait", ["a"], "a"), StreamInvocation("Count", [2], "1"))
        assert await client.hears(3) == [StreamItem("1", 0), StreamItem("1", 1), Completion("1")]
        assert client.began == ["a"]


async def test_other_messages_are_nothing_to_invoke(protocol):
    async with client_of(protocol) as client:
        client.sends(Ack(1), CancelInvocation("9"), StreamItem("9", 1), Completion("9"))
        assert await client.asks(Invocation("Add", [1, 2], "1")) == result(3)


# Streams to the client


@pytest.mark.parametrize(("target", "values"), [("Count", [0, 1, 2]), ("made", [0, 1, 2])])
async def test_a_stream_is_its_items_and_a_completion_without_result(protocol, target, values):
    async with client_of(protocol) as client:
        client.sends(StreamInvocation(target, [3], "1"))
        expected = [*(StreamItem("1", value) for value in values), Completion("1")]
        assert await client.hears(4) == expected


async def test_a_stream_may_be_empty_and_of_any_iterator(protocol):
    async with client_of(protocol) as client:
        assert await client.asks(StreamInvocation("Count", [0], "1")) == Completion("1")
        client.sends(StreamInvocation("Plain", [], "2"))
        expected = [StreamItem("2", "a"), StreamItem("2", "b"), Completion("2")]
        assert await client.hears(3) == expected


@pytest.mark.parametrize(
    ("target", "count", "detail"),
    [
        ("Breaks", 2, " LookupError: the secret"),
        ("Stops", 1, " InvalidValue: A hub cannot send an object of type object"),
        ("stream_of_cancelled", 2, " CancelledError: "),
    ],
)
async def test_an_error_ends_a_stream_and_is_told(protocol, is_detailed, target, count, detail):
    limits = Limits(detailed_errors=is_detailed)
    async with client_of(protocol, limits=limits) as client:
        client.sends(StreamInvocation(target, [], "1"))
        *_, last = await client.hears(count)
    text = "An error occurred on the server while streaming results."
    assert last == Completion("1", error=text + detail * is_detailed)


@pytest.mark.parametrize("target", ["Endless", "Silent", "Busy"])
async def test_a_stream_that_is_cancelled_ends_without_an_error(protocol, target):
    async with client_of(protocol) as client:
        client.sends(StreamInvocation(target, [], "1"))
        await client.until(lambda: client.answers or client.began)
        client.sends(CancelInvocation("1"))
        await client.until(lambda: Completion("1") in client.answers)
        answers = await client.hears()
        assert answers[-1] == Completion("1")
        assert client.closed == ["endless"] * (target == "Endless")
        assert await client.asks(Invocation("Add", [1, 2], "1")) == result(3)


@pytest.mark.parametrize("target", ["Endless", "Numbers"])
async def test_a_stream_is_closed_also_while_its_client_reads_nothing(protocol, target):
    async with client_of(protocol) as client:
        client.sends(StreamInvocation(target, [], "1"))
        await client.until(lambda: client.answers)
        client.reads.clear()
        await asyncio.sleep(0.01)
        client.sends(CancelInvocation("1"))
        await client.until(lambda: client.closed == [target.lower()])
        client.reads.set()
        await client.until(lambda: client.answers[-1] == Completion("1"))


async def test_a_stream_that_is_cancelled_at_once_is_answered(protocol):
    async with client_of(protocol) as client:
        client.sends(StreamInvocation("Endless", [], "1"), CancelInvocation("1"))
        assert await client.hears() == [Completion("1")]


async def test_the_id_of_a_stream_cannot_be_used_twice_at_once(protocol):
    async with client_of(protocol) as client:
        client.sends(StreamInvocation("Silent", [], "1"))
        answer = await client.asks(StreamInvocation("Count", [1], "1"))
        assert answer.error == "Invocation ID '1' is already in use."
        assert await client.asks(CancelInvocation("1")) == Completion("1")
        assert await client.asks(StreamInvocation("Count", [0], "1")) == Completion("1")


async def test_a_slow_client_holds_up_its_own_stream(protocol):
    async with client_of(protocol) as client:
        client.reads.clear()
        client.sends(StreamInvocation("Busy", [], "1"))
        await client.until(lambda: client.produced)
        await asyncio.sleep(0.02)
        assert client.produced == 1
        client.reads.set()
        assert (await client.hears(2))[:2] == [StreamItem("1", 1)] * 2


async def test_more_streams_than_a_client_may_have_end_its_connection(protocol):
    async with client_of(protocol, limits=Limits(tasks=2)) as client:
        client.sends(StreamInvocation("Silent", [], "1"), StreamInvocation("Silent", [], "2"))
        with pytest.raises(ProtocolError, match="at most 2 streams"):
            client.sends(StreamInvocation("Silent", [], "3"))


async def test_streams_that_wait_for_their_turn_are_counted(protocol):
    async with client_of(protocol, limits=Limits(tasks=2)) as client:
        client.sends(Invocation("Wait", ["a"]), Invocation("Wait", ["b"]))
        client.sends(StreamInvocation("Count", [0], "1"), StreamInvocation("Count", [0], "2"))
        with pytest.raises(ProtocolError, match="at most 2 streams"):
            client.sends(StreamInvocation("Count", [0], "3"))
        client.gate("a").set()
        assert len(await client.hears(2)) == 2
        assert await client.asks(StreamInvocation("Count", [0], "3")) == Completion("3")


async def test_a_refused_stream_leaves_no_upload_behind(protocol):
    async with client_of(protocol) as client:
        client.sends(StreamInvocation("Silent", [], "1"))
        refused = await client.asks(StreamInvocation("Doubled", [], "1", ("2",)))
        assert refused.error == "Invocation ID '1' is already in use."
        client.sends(Invocation("Join", ["", ""], "3", ("2",)))
        client.sends(*(StreamItem("2", "x") for _ in range(20)), Completion("2"))
        assert await client.hears() == [Completion("3", "x" * 20, has_result=True)]


async def test_answers_that_nobody_reads_are_counted(protocol):
    async with client_of(protocol, limits=Limits(tasks=5)) as client:
        client.reads.clear()
        client.sends(StreamInvocation("Silent", [], "1"))
        with pytest.raises(ProtocolError, match="at most 5 streams"):
            client.sends(*[StreamInvocation("Silent", [], "1")] * 30)
        client.reads.set()
        assert len(await client.hears(5)) >= 5


# Streams from the client


async def test_a_method_reads_the_stream_of_its_client(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("Join", ["<", ">"], "1", ("2",)))
        client.sends(StreamItem("2", "a"), StreamItem("2", "b"), Completion("2"))
        assert await client.hears() == [result("<ab>")]


async def test_a_stream_may_go_both_ways(protocol):
    async with client_of(protocol) as client:
        client.sends(StreamInvocation("Doubled", [], "1", ("2",)))
        for number in (1, 2):
            assert await client.asks(StreamItem("2", number)) == StreamItem("1", 2 * number)
        assert await client.asks(Completion("2")) == Completion("1")


async def test_the_error_of_an_upload_is_raised_in_the_method(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("Join", ["<", ">"], "1", ("2",)))
        answer = await client.asks(Completion("2", error="Something bad"))
    assert answer.error == RAISED.format("Join") + " HubException: Something bad"


async def test_an_item_of_another_type_ends_its_stream(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("Join", ["<", ">"], "1", ("2",)))
        answer = await client.asks(StreamItem("2", 5))
        client.sends(StreamItem("2", "late"), Completion("2"))
    assert answer.error == RAISED.format("Join") + " HubException: Failed to bind Stream message."


async def test_an_item_whose_class_raises_ends_its_stream(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("picky", [], "1", ("2",)))
        answer = await client.asks(StreamItem("2", {"name": "x"}))
    assert answer.error == RAISED.format("picky") + " HubException: Failed to bind Stream message."


async def test_only_one_task_may_read_an_upload(protocol):
    limits = Limits(detailed_errors=True)
    async with client_of(protocol, limits=limits) as client:
        answer = await client.asks(Invocation("read_twice", [], "1", ("2",)))
    assert answer.error.endswith(
        "RuntimeError: Only one task may read a stream of the client at a time."
    )


async def test_items_behind_the_end_of_a_method_are_dropped(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("take_one", [], "1", ("2",)))
        assert await client.asks(StreamItem("2", "a")) == result("a")
        client.sends(*(StreamItem("2", "b") for _ in range(100)), Completion("2"))
        assert await client.asks(Invocation("Add", [1, 2], "1")) == result(3)


async def test_a_full_upload_holds_up_what_is_behind_it(protocol):
    async with client_of(protocol, limits=Limits(stream_buffer=2)) as client:
        client.sends(Invocation("take_none", [], "1", ("2",)))
        client.sends(*(StreamItem("2", "a") for _ in range(3)), Invocation("Add", [1, 2], "3"))
        await asyncio.sleep(0.01)
        assert client.answers == []
        client.gate("take_none").set()
        heard = await client.hears(2)
    assert {each.id for each in heard} == {"1", "3"}


async def test_who_reads_an_upload_when_its_method_is_over_hears_of_the_end(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("read_later", [], "1", ("2",)), StreamItem("2", "a"))
        client.gate("read").set()
        await client.hears()
        await asyncio.wait_for(client.task, BOUND)
    assert client.closed[-1] == "end"


async def test_who_reads_an_upload_when_its_client_leaves_is_told_so(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("read_later", [], "1", ("2",)))
        await client.until(lambda: hasattr(client, "task"))
    await asyncio.wait_for(client.task, BOUND)
    assert client.closed == ["The underlying connection was closed."]


async def test_an_item_that_waits_takes_no_more_than_its_bytes(protocol):
    # As values, they would take a hundred times more.
    async with client_of(protocol) as client:
        client.sends(Invocation("take_none", [], "1", ("2",)))
        await client.until(lambda: client.began == ["take_none"])
        gc.collect()
        before = len(gc.get_objects())
        client.sends(StreamItem("2", [[[]] for _ in range(1000)]))
        assert len(gc.get_objects()) - before < 100
        client.gate("take_none").set()
        await client.hears()


async def test_an_upload_that_is_read_makes_way(protocol):
    async with client_of(protocol, limits=Limits(stream_buffer=2)) as client:
        client.sends(Invocation("Join", ["", ""], "1", ("2",)))
        client.sends(*(StreamItem("2", "x") for _ in range(50)), Completion("2"))
        assert await client.hears() == [result("x" * 50)]


async def test_uploads_of_an_unknown_method_are_ignored(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("Unknown", [], "1", ("2",)), StreamItem("2", 1), Completion("2"))
        [answer] = await client.hears()
    assert answer.error == FAILED.format("Unknown") + " HubException: Method does not exist."


async def test_the_id_of_an_upload_that_is_in_use_is_not_taken_over(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("Join", ["<", ">"], "1", ("2",)))
        client.sends(Invocation("take_none", [], "3", ("2",)))
        client.gate("take_none").set()
        assert await client.hears() == [Completion("3", "none", has_result=True)]
        client.sends(StreamItem("2", "a"), Completion("2"), Completion("2", error="late"))
        assert await client.hears() == [result("<a>")]


async def test_an_upload_that_has_ended_stays_at_its_end(protocol):
    async with client_of(protocol) as client:
        client.sends(Invocation("join_twice", [], "1", ("2",)))
        client.sends(StreamItem("2", "a"), Completion("2", error="Something bad"))
        client.sends(StreamItem("2", "late"), Completion("2"))
        assert await client.hears() == [result(["a", "Something bad", []])]


# The end


async def test_the_end_cancels_what_still_runs(protocol, caplog):
    async with client_of(protocol) as client:
        client.sends(
            Invocation("Join", ["<", ">"], "1", ("2",)),
            StreamInvocation("Endless", [], "3"),
            StreamInvocation("Silent", [], "4"),
            Invocation("Wait", ["a"], "a"),
            Invocation("Wait", ["b"], "b"),
        )
        # Any of them may be held up by the closing of old database connections.
        await client.until(lambda: client.answers and {"a", "join", "silent"} <= {*client.began})
    assert (client.cancelled, client.closed) == (["a"], ["endless"])
    assert not caplog.records
    assert not client.invocations.waiting
    ours = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert ours == []
    gc.collect()


async def test_a_method_that_ignores_its_end_does_not_hold_it_up(protocol):
    client = Client(protocol)
    client.invocations.start()
    client.sends(Invocation("stubborn", [], "1"))
    await client.until(lambda: client.began)
    assert not await client.invocations.end(0.01)
    client.gate("stubborn").set()
    assert await client.invocations.end(BOUND)


async def test_what_has_not_begun_ends_at_once(protocol):
    assert await Client(protocol).invocations.end(0)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count cancellations")
@pytest.mark.parametrize(
    "message", [Invocation("Wait", ["a"], "1"), StreamInvocation("Silent", [], "1")]
)
async def test_who_cancels_every_task_of_an_event_loop_is_obeyed(protocol, message, caplog):
    client = Client(protocol)
    client.invocations.start()
    client.sends(message)
    await client.until(lambda: client.began)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    _, running = await asyncio.wait(others, timeout=BOUND)
    assert not running
    client.sends(Invocation("Add", [1, 2], "2"))  # Nobody is there to run it.
    assert not caplog.records


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count cancellations")
async def test_a_stream_that_others_have_cancelled_as_well_ends_like_its_task(protocol):
    client = Client(protocol)
    client.sends(StreamInvocation("Silent", [], "1"))
    await client.until(lambda: client.began)
    [task] = asyncio.all_tasks() - {asyncio.current_task()}
    client.sends(CancelInvocation("1"))
    task.cancel()
    await asyncio.wait([task], timeout=BOUND)
    assert task.cancelled()
    assert client.answers == []


async def test_the_items_of_all_uploads_together_are_bounded_and_none_is_lost(protocol):
    limits = Limits(upload_size=1000)
    async with client_of(protocol, limits=limits) as client:
        for each in ("1", "2"):
            client.sends(Invocation("JoinWhenTold", [each], each, (f"u{each}",)))
        # The first item of each stream has room, whatever waits in others.
        for each in ("1", "2"):
            client.sends(*[StreamItem(f"u{each}", 400 * "x")] * (4 if each == "1" else 1))
        assert client.invocations.waiting
        client.gate("1").set()
        await client.until(lambda: not client.invocations.waiting)
        client.gate("2").set()
        client.sends(Completion("u1"), Completion("u2"))
        answers = {each.id: each.result for each in await client.hears(2)}
        assert answers == {"1": 1600, "2": 400}
