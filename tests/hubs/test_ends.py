"""How connections end: what the client is told, what the hub is, and in which order."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from tests.hubs.clients import (
    CLOSED,
    Clock,
    Poller,
    Socket,
    Stream,
    Web,
    router,
    shake,
    turns,
    until,
)
from tests.hubs.recording import Recording, new_hub
from ws_support._connection.registry import open_connections
from ws_support._hubs import connection
from ws_support._hubs.messages import Close, Invocation, Ping
from ws_support.exceptions import ConnectionClosed
from ws_support.hubs import HubException, description_of
from ws_support.signals import connected
from ws_support.testing import BOUND

pytestmark = pytest.mark.usefixtures("problems")


async def drain() -> None:
    """Do what a server does that stops."""
    for each in tuple(open_connections._connections):
        await each.drain(1012, "The server is stopping")


async def open_socket(hub: Any, **more: Any) -> Socket:
    socket = await Socket(router(hub), **more).__aenter__()
    assert await socket.shake_hands() == {}
    return socket


class Raising(Recording):
    error: Any = LookupError("the secret")

    async def on_connected(self) -> None:
        self.events.append("connected")
        raise self.error


# on_connected()


async def test_on_connected_that_has_raised_ends_the_connection_without_on_disconnected(problems):
    hub = new_hub(Raising)
    async with Socket(router(hub)) as socket:
        await socket.shake_hands()
        assert await socket.until_end() == [Close(CLOSED)]
    assert hub.events == ["connected"]
    problems.expect("on_connected() of a hub has raised LookupError")


@pytest.mark.parametrize(
    ("error", "options", "text"),
    [
        (LookupError("the secret"), {"ENABLE_DETAILED_ERRORS": True}, " LookupError: the secret"),
        (HubException("Full"), {}, " HubException: Full"),
    ],
)
async def test_the_client_reads_why_on_connected_has_raised_if_it_may(
    error, options, text, problems
):
    hub = new_hub(Raising, **options)
    hub.error = error
    async with Socket(router(hub)) as socket:
        await socket.shake_hands()
        assert await socket.until_end() == [Close(CLOSED + text)]
    # What is for the client needs no traceback.
    [line] = problems.warnings if isinstance(error, HubException) else problems.found
    assert line.startswith("on_connected() of a hub has raised")
    problems.found.clear()


async def test_an_error_of_on_connected_that_cannot_be_sent_ends_the_connection_too(problems):
    hub = new_hub(Raising)
    hub.error = HubException("half \ud800")
    async with Socket(router(hub)) as socket:
        await socket.shake_hands()
        [close] = await socket.until_end()
        assert close.error.startswith(f"{CLOSED} HubException: half ")
    assert len(problems.warnings) == 1


async def test_on_connected_that_awaits_what_others_have_cancelled_has_raised(problems):
    class Cancelled(Recording):
        async def on_connected(self) -> None:
            self.events.append("connected")
            task = asyncio.ensure_future(asyncio.sleep(60))
            task.cancel()
            await task

    hub = new_hub(Cancelled)
    async with Socket(router(hub)) as socket:
        await socket.shake_hands()
        assert await socket.until_end() == [Close(CLOSED)]
    assert hub.events == ["connected"]
    problems.expect("on_connected() of a hub has raised CancelledError")


class SlowToConnect(Recording):
    async def on_connected(self) -> None:
        await self.wait("connecting")
        self.events.append("connected")


async def test_a_client_that_leaves_during_on_connected_is_told_to_the_hub_after_it():
    hub = new_hub(SlowToConnect)
    socket = await open_socket(hub)
    leaving = asyncio.ensure_future(socket.peer.close())
    await until(lambda: open_connections and "connecting began" in hub.events)
    await turns()
    assert hub.events == ["connecting began"]
    hub.gate("connecting").set()
    await leaving
    assert hub.events == ["connecting began", "connected", "disconnected"]


async def test_on_connected_that_takes_too_long_after_the_end_is_cancelled(clock: Clock):
    hub = new_hub(SlowToConnect)
    socket = await open_socket(hub)
    leaving = asyncio.ensure_future(socket.peer.close())
    await until(lambda: hub.events)
    await clock.forward(5.1)
    await leaving
    assert hub.events == ["connecting began", "connecting cancelled", "disconnected"]


async def test_what_comes_during_on_connected_is_read_after_it():
    hub = new_hub(SlowToConnect)
    socket = await open_socket(hub)
    await socket.send("note", "early")
    await until(lambda: hub.events)
    await turns()
    assert hub.events == ["connecting began"]
    hub.gate("connecting").set()
    assert await socket.result("echo", 1) == 1
    assert hub.events == ["connecting began", "connected", "early"]
    await socket.peer.close()


# The close table: what the client is told, and what the hub


async def test_abort_is_told_without_an_error_and_without_a_way_back():
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.send("abort")
        assert await socket.until_end() == [Close()]
        assert await socket.peer.wait_closed() == 1000
    assert hub.events == ["connected", "disconnected"]


async def test_after_abort_nothing_is_sent():
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.send("abort_and_look")
        assert await socket.until_end() == [Close()]
    assert hub.events == ["connected", "aborted: True", "disconnected"]


@pytest.mark.parametrize(
    ("error", "told"), [(None, "disconnected"), ("Bye", "disconnected: HubException: Bye")]
)
async def test_the_close_of_the_client_ends_the_connection(error, told):
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        await socket.put_message(Close(error))
        assert await socket.until_end() == [Close()]
    assert hub.events == ["connected", told]


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, None])
async def test_a_socket_that_has_gone_ends_the_connection_without_an_error(code):
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        await socket.peer.send_input({"type": "websocket.disconnect", "code": code})
        await socket.peer.wait()
    assert hub.events == ["connected", "disconnected"]


BROKEN = [
    (b"{", "Input data was truncated"),
    (b"[]", "Expected `object`, got `array`"),
    (b'"text"', "Expected `object`, got `str`"),
    (b"{}", "Object missing required field `type`"),
    (b'{"type":"1"}', "Expected `int`, got `str`"),
    (b'{"type":1}', "Missing required property 'target'."),
    (b'{"type":1,"target":"echo"}', "Missing required property 'arguments'."),
    (b'{"type":1,"target":"echo","arguments":{}}', "The property 'arguments' has to be an array."),
    (b'{"type":1,"target":"echo","arguments":[],"invocationId":null}', "Expected `str`, got"),
    (b'{"type":2,"invocationId":"1"}', "Missing required property 'item'."),
    (b'{"type":3}', "Missing required property 'invocationId'."),
    (b'{"type":3,"invocationId":"1","result":1,"error":"e"}', "The 'error' and 'result'"),
    (b'{"type":4,"target":"counter","arguments":[1]}', "Missing required property 'invocationId'"),
    (b"\xff", "JSON is malformed"),
    (b"[" * 5000, ""),
    (b'{"type":6,"x":' + b"[" * 5000, ""),
]


@pytest.mark.parametrize(("data", "text"), BROKEN)
async def test_a_broken_message_is_told_to_both(data, text, problems):
    hub = new_hub(ENABLE_DETAILED_ERRORS=True)
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        await socket.peer.send(data + b"\x1e")
        [close] = await socket.until_end()
        assert close.allow_reconnect
        assert close.error.startswith(f"{CLOSED} InvalidDataException: {text}")
        assert await socket.peer.wait_closed() == 1011
    [_, told] = hub.events
    assert told.startswith(f"disconnected: ProtocolError: {text}")
    [warning] = problems.warnings
    assert warning.startswith("A client has broken the protocol of hubs")
    assert len(warning) < 500


async def test_without_detailed_errors_the_client_reads_nothing_of_what_is_broken():
    async with await open_socket(new_hub()) as socket:
        await socket.put(b"{\x1e")
        assert await socket.until_end() == [Close(CLOSED, True)]


@pytest.mark.parametrize("size", [200, 1000])
async def test_a_message_that_is_too_large_is_told_to_both(size):
    hub = new_hub(MAXIMUM_RECEIVE_MESSAGE_SIZE=200, ENABLE_DETAILED_ERRORS=True)
    text = "The maximum message size of 200B was exceeded."
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        await socket.put(b"x" * size + b"\x1e")
        [close] = await socket.until_end()
        assert close.allow_reconnect
        assert 'WS_SUPPORT["HUBS"]["MAXIMUM_RECEIVE_MESSAGE_SIZE"]' in close.error
        assert close.error.startswith(f"{CLOSED} InvalidDataException: {text}")
    [_, told] = hub.events
    assert told.startswith(f"disconnected: MessageTooLarge: {text}")


async def test_a_message_that_is_too_large_need_not_be_whole():
    hub = new_hub(MAXIMUM_RECEIVE_MESSAGE_SIZE=200)
    async with await open_socket(hub) as socket:
        for _ in range(3):
            await socket.put(b" " * 100)
        assert await socket.until_end() == [Close(CLOSED, True)]


async def test_many_small_messages_in_one_frame_may_be_larger_than_one_message():
    hub = new_hub(MAXIMUM_RECEIVE_MESSAGE_SIZE=200)
    async with await open_socket(hub) as socket:
        await socket.put_message(*[Invocation("note", [str(each)]) for each in range(100)])
        assert await socket.result("echo", 1) == 1
    assert hub.events[1:101] == [str(each) for each in range(100)]


async def test_no_limit_for_messages_allows_large_ones():
    hub = new_hub(MAXIMUM_RECEIVE_MESSAGE_SIZE=None)
    async with await open_socket(hub) as socket:
        assert await socket.result("echo", "x" * 2**20) == "x" * 2**20


async def test_half_a_message_at_the_end_is_told_to_the_hub():
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        await socket.put(b'{"type":1')
    assert hub.events == [
        "connected",
        "disconnected: ProtocolError: Connection terminated while reading a message.",
    ]


async def test_what_was_sent_just_before_the_end_is_still_handled():
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        await socket.put_message(Invocation("note", ["last"]), Close())
        await socket.until_end()
    assert hub.events == ["connected", "last", "disconnected"]


async def test_what_was_sent_just_before_the_socket_has_gone_is_still_handled():
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        await socket.send("note", "last")
    assert hub.events == ["connected", "last", "disconnected"]


async def test_a_drain_lets_the_client_come_back():
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        await drain()
        assert await socket.until_end() == [Close(None, True)]
        assert await socket.peer.wait_closed() == 1012
    assert hub.events == ["connected", "disconnected"]


async def test_a_cancelled_server_task_ends_the_connection():
    hub = new_hub()
    socket = await open_socket(hub)
    await socket.result("echo", 1)
    socket.peer.cancel()
    await until(lambda: "disconnected" in hub.events and socket.peer._task.done())
    assert socket.peer.was_cancelled
    assert hub.events == ["connected", "disconnected"]


@pytest.mark.parametrize("pause", [0, 1, 20])
async def test_on_disconnected_runs_also_when_the_server_cancels_what_is_left(pause):
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        await socket.send("stubborn")
        await until(lambda: "stubborn" in hub.events)
        await drain()
        await turns(pause)
        open_connections.cancel()
        hub.gate("stubborn").set()
        await until(lambda: not open_connections)
    assert hub.events == ["connected", "stubborn", "disconnected"]


async def test_a_server_that_cancels_at_once_ends_a_connection_that_is_opening():
    hub = new_hub(SlowToConnect)
    async with await open_socket(hub) as socket:
        await until(lambda: hub.events)
        await drain()
        open_connections.cancel()
        await until(lambda: not open_connections)
        assert await socket.until_end() == [Close(None, True)]
    assert hub.events == ["connecting began", "connecting cancelled", "disconnected"]


async def test_a_server_that_cancels_ends_a_connection_before_its_handshake():
    hub = new_hub()
    async with Socket(router(hub)):
        await drain()
        open_connections.cancel()
        await until(lambda: not open_connections)
    assert hub.events == []


async def test_a_server_that_cancels_does_not_wait_for_on_connected():
    class Stubborn(Recording):
        async def on_connected(self) -> None:
            await self.stubborn()

    hub = new_hub(Stubborn)
    async with await open_socket(hub):
        await until(lambda: hub.events)
        await drain()
        open_connections.cancel()
        await until(lambda: not open_connections)
    assert hub.events == ["stubborn"]


async def test_a_server_that_cancels_without_a_drain_ends_the_connection():
    hub = new_hub()
    async with await open_socket(hub) as socket:
        assert await socket.result("echo", 1) == 1
        for each in tuple(open_connections._connections):
            each.cancel()
        await until(lambda: not open_connections)
    assert hub.events == ["connected", "disconnected"]


async def test_a_silent_client_is_given_up_once_it_has_sent_a_ping(clock: Clock):
    hub = new_hub(CLIENT_TIMEOUT_INTERVAL=30, KEEP_ALIVE_INTERVAL=1000)
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        await clock.forward(100)
        await socket.put_message(Ping(), Ping())
        await clock.forward(29)
        await socket.result("echo", 1)
        await clock.forward(29)
        await socket.result("echo", 1)
        await clock.forward(31)
        assert await socket.until_end() == [Close(CLOSED, True)]
    assert hub.events == [
        "connected",
        "disconnected: Silent: The client has sent nothing for 30 s.",
    ]


async def keep_waiting(socket: Socket, hub: Any, *notes: str) -> None:
    """Send notes behind a method that waits for a gate."""
    await socket.send("wait", "gate")
    for each in notes:
        await socket.send("note", each)
    await until(lambda: "gate began" in hub.events)


async def test_a_client_is_not_silent_while_what_it_has_sent_waits(clock: Clock):
    hub = new_hub(CLIENT_TIMEOUT_INTERVAL=30, KEEP_ALIVE_INTERVAL=1000)
    async with await open_socket(hub) as socket:
        await socket.put_message(Ping())
        await keep_waiting(socket, hub, "behind")
        await clock.forward(31)
        await clock.forward(31)
        hub.gate("gate").set()
        assert await socket.result("echo", 1) == 1


async def test_a_client_that_is_silent_for_long_is_given_up_also_while_what_it_has_sent_waits(
    clock: Clock,
):
    hub = new_hub(CLIENT_TIMEOUT_INTERVAL=30, KEEP_ALIVE_INTERVAL=1000)
    async with await open_socket(hub) as socket:
        await socket.put_message(Ping())
        await keep_waiting(socket, hub, "behind")
        for _ in range(4):
            await clock.forward(31)
        assert await socket.until_end() == [Close(CLOSED, True)]
    assert hub.events[-1].startswith("disconnected: Silent")


async def test_a_client_of_which_nothing_can_be_read_for_long_is_given_up(clock: Clock, problems):
    # It may have gone: on some servers nobody would notice.
    hub = new_hub(CLIENT_TIMEOUT_INTERVAL=30, KEEP_ALIVE_INTERVAL=1000)
    async with await open_socket(hub) as socket:
        await keep_waiting(socket, hub, *5 * ["x" * 30_000])
        for _ in range(3):
            await clock.forward(31)
            assert open_connections
        await clock.forward(31)
        assert await socket.until_end() == [Close(CLOSED, True)]
    assert hub.events[-1].startswith("disconnected: Unread: What the client has sent has not been")
    [warning] = problems.warnings
    assert warning.startswith("Closed: no method of the client has ended for 120 s")


async def test_a_client_whose_methods_end_is_read_however_long_that_takes(clock: Clock):
    # What has come in one piece counts until its last message has been taken.
    hub = new_hub(CLIENT_TIMEOUT_INTERVAL=30, KEEP_ALIVE_INTERVAL=1000)
    names = [str(number) for number in range(9)]
    async with await open_socket(hub) as socket:
        calls = [Invocation("wait", [name]) for name in names]
        notes = [Invocation("note", ["x" * 20_000]) for _ in range(5)]
        await socket.put_message(Ping(), *calls, *notes)
        for name in names:
            await until(lambda name=name: f"{name} began" in hub.events)
            await clock.forward(31)
            hub.gate(name).set()
        assert await socket.result("echo", 1) == 1


async def test_an_end_before_on_connected_is_not_told_to_the_hub(problems):
    hub = new_hub()

    async def wait(**_: Any) -> None:
        await asyncio.sleep(60)

    connected.connect(wait)
    try:
        web = Web(router(hub))
        async with Stream(web, await web.token()) as stream:
            await web.request("POST", stream.query, shake())
            await turns()
        await until(lambda: not open_connections)
    finally:
        connected.disconnect(wait)
    assert hub.events == []


async def test_a_client_of_which_nothing_could_be_read_for_a_while_is_not_silent(clock: Clock):
    hub = new_hub(CLIENT_TIMEOUT_INTERVAL=30, KEEP_ALIVE_INTERVAL=1000)
    async with await open_socket(hub) as socket:
        await socket.put_message(Ping())
        await keep_waiting(socket, hub, *5 * ["x" * 30_000])
        for _ in range(3):
            await clock.forward(31)
        hub.gate("gate").set()
        assert await socket.result("echo", 1) == 1


async def test_the_server_sends_pings(clock: Clock):
    hub = new_hub(KEEP_ALIVE_INTERVAL=15)
    async with await open_socket(hub) as socket:
        for _ in range(2):
            await clock.forward(14)
            assert await socket.peer.receive_nothing(0)
            await clock.forward(2)
            assert await socket.next() == Ping()


async def test_there_is_no_ping_while_others_wait_for_a_client_that_reads_nothing(clock: Clock):
    hub = new_hub(TRANSPORT_SEND_TIMEOUT=1000)
    async with await open_socket(hub) as socket:
        assert await socket.result("echo", 1) == 1
        socket.peer.pause_reading()
        for each in ("7", "8"):
            await socket.put_message(Invocation("echo", [each], each))
            await turns()
        for _ in range(3):
            await clock.forward(16)
        socket.peer.resume_reading()
        assert [(await socket.next()).id for _ in range(2)] == ["7", "8"]
        assert await socket.result("echo", 1) == 1


# A method that runs


async def test_a_method_that_has_begun_may_finish_before_on_disconnected(monkeypatch):
    monkeypatch.setattr(connection, "_GRACE", BOUND)
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.send("wait", "gate")
        await until(lambda: "gate began" in hub.events)
        await socket.put(b'{"type":7}\x1e')
        await turns()
        hub.gate("gate").set()
    assert hub.events == ["connected", "gate began", "disconnected"]


async def test_a_method_that_runs_for_longer_is_cancelled_before_on_disconnected():
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.send("wait", "gate")
        await until(lambda: "gate began" in hub.events)
    assert hub.events == ["connected", "gate began", "gate cancelled", "disconnected"]


async def test_streams_in_both_directions_end_before_on_disconnected():
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.put(
            b'{"type":4,"target":"endless","arguments":[],"invocationId":"1"}\x1e'
            b'{"type":1,"target":"join","arguments":[],"invocationId":"2","streamIds":["3"]}\x1e'
        )
        await until(lambda: "join began" in hub.events)
        await socket.next()
    assert sorted(hub.events[2:-1]) == ["endless ended", "join ended"]
    assert hub.events[-1] == "disconnected"


async def test_a_method_that_ignores_its_end_delays_on_disconnected_for_5_s_at_most(
    clock: Clock, problems
):
    hub = new_hub()
    socket = await open_socket(hub)
    await socket.send("stubborn")
    await until(lambda: "stubborn" in hub.events)
    leaving = asyncio.ensure_future(socket.peer.close())
    await turns()
    assert hub.events == ["connected", "stubborn"]
    await clock.forward(5.1)
    await leaving
    assert hub.events == ["connected", "stubborn", "disconnected"]
    problems.expect("A hub method has not ended 5 s after its cancellation: path '/hub'.")
    hub.gate("stubborn").set()


async def test_on_disconnected_may_raise(problems):
    class Failing(Recording):
        async def on_disconnected(self, error: Exception | None) -> None:
            await super().on_disconnected(error)
            raise LookupError("the secret")

    hub = new_hub(Failing)
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
    assert hub.events == ["connected", "disconnected"]
    problems.expect("on_disconnected() of a hub has raised LookupError")


async def test_groups_still_hold_the_connection_during_on_disconnected():
    class Group(Recording):
        async def on_connected(self) -> None:
            await self.groups.add("room")

        async def on_disconnected(self, error: Exception | None) -> None:
            await self.clients.group("room").send("Left", self.context.connection_id)
            await self.clients.caller.send("TooLate")
            await self.groups.add("too late")
            await super().on_disconnected(error)

    hub = new_hub(Group)
    async with await open_socket(hub) as stays:
        async with Socket(stays.peer._application) as leaves:
            await leaves.shake_hands()
            id_ = await leaves.result("who")
        assert await stays.next() == Invocation("Left", [id_["id"]])
    assert hub.events == ["disconnected", "disconnected"]


# Errors of methods


@pytest.mark.parametrize("text", ["half \ud800", "\udfff"])
async def test_an_error_that_cannot_be_sent_is_answered_all_the_same(text):
    class Failing(Recording):
        async def fail(self) -> None:
            raise HubException(text)

        async def stream(self) -> Any:
            raise HubException(text)
            yield

    async with await open_socket(new_hub(Failing)) as socket:
        assert (await socket.call("fail")).error
        assert await socket.result("echo", 1) == 1
        await socket.put(b'{"type":4,"target":"stream","arguments":[],"invocationId":"9"}\x1e')
        assert (await socket.next()).error


async def test_an_exception_without_a_text_is_answered_all_the_same(problems):
    class Wordless(Exception):
        def __str__(self) -> str:
            raise LookupError("no words")

    class Failing(Recording):
        async def fail(self) -> None:
            raise Wordless

    async with await open_socket(new_hub(Failing, ENABLE_DETAILED_ERRORS=True)) as socket:
        assert (await socket.call("fail")).error
        assert await socket.result("echo", 1) == 1
    problems.expect("The hub method 'fail' has raised Wordless")


# A client that reads nothing


async def test_a_write_that_waits_too_long_ends_the_connection(clock: Clock):
    hub = new_hub(TRANSPORT_SEND_TIMEOUT=10, CLOSE_TIMEOUT=5)
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        socket.peer.pause_reading()
        await socket.put_message(Invocation("echo", [1], "7"))
        await clock.forward(10.1)
        await clock.forward(5.1)
        await clock.forward(1)
        await until(lambda: len(hub.events) == 2)
    assert hub.events == [
        "connected",
        "disconnected: TimeoutError: A write has waited 10 s for the client.",
    ]


async def test_methods_wait_for_a_client_that_reads_nothing():
    hub = new_hub(TRANSPORT_MAX_BUFFER_SIZE=1000)
    async with await open_socket(hub) as socket:
        await socket.result("echo", 1)
        socket.peer.pause_reading()
        for size in (100, 900, 900, 100):
            await socket.send("large", size)
            await socket.put_message(Invocation("large", [size], "7"))
        await socket.send("note", "all read")
        await turns(50)
        assert "all read" not in hub.events
        socket.peer.resume_reading()
        assert await socket.result("echo", 1) == 1
        assert "all read" in hub.events


class Sending(Recording):
    async def send_to_caller(self) -> None:
        for _ in range(5):
            await self.clients.caller.send("Told", "x" * 900)
        self.events.append("all sent")


async def test_methods_that_send_to_their_caller_wait_as_well():
    hub = new_hub(
        Sending, TRANSPORT_MAX_BUFFER_SIZE=1000, MAXIMUM_PARALLEL_INVOCATIONS_PER_CLIENT=2
    )
    async with await open_socket(hub) as socket:
        assert await socket.result("echo", 1) == 1
        socket.peer.pause_reading()
        for _ in range(2):
            await socket.send("send_to_caller")
        await turns(50)
        assert "all sent" not in hub.events
        socket.peer.resume_reading()
        for _ in range(10):
            assert await socket.next() == Invocation("Told", ["x" * 900])
        await until(lambda: hub.events.count("all sent") == 2)


async def test_methods_that_wait_for_a_client_end_with_its_connection():
    hub = new_hub(Sending, TRANSPORT_MAX_BUFFER_SIZE=1000, CLOSE_TIMEOUT=0.01)
    async with await open_socket(hub) as socket:
        assert await socket.result("echo", 1) == 1
        socket.peer.pause_reading()
        await socket.send("send_to_caller")
        await turns(50)
        await drain()
        await until(lambda: "disconnected" in hub.events)
        socket.peer.resume_reading()


async def test_a_client_that_reads_nothing_is_given_up_for_a_broadcast():
    hub = new_hub(TRANSPORT_MAX_BUFFER_SIZE=1000, CLOSE_TIMEOUT=0.01)

    class Telling(hub):
        async def tell(self, size: int) -> None:
            await self.clients.others.send("Told", "x" * size)

    Telling.events = hub.events
    async with await open_socket(Telling) as reads:
        slow = await Socket(reads.peer._application).__aenter__()
        await slow.shake_hands()
        await slow.result("echo", 1)
        slow.peer.pause_reading()
        for _ in range(5):
            await reads.result("tell", 600)
        await until(lambda: len(hub.events) == 3)
        assert hub.events[2] == (
            "disconnected: TooSlow: The client was too slow for what was sent to it."
        )
        assert await reads.result("echo", 1) == 1
        slow.peer.cancel()
        await turns()


async def test_a_send_that_fails_ends_the_connection():
    hub = new_hub()
    socket = await open_socket(hub)
    await socket.result("echo", 1)
    socket.peer.fail_sends(OSError("gone"))
    await socket.put_message(Invocation("echo", [1], "1"))
    await until(lambda: "disconnected" in hub.events)
    assert hub.events == ["connected", "disconnected"]


# Each transport, and each moment


@pytest.mark.parametrize("transport", ["Socket", "Poller", "Stream"])
async def test_a_connection_without_a_handshake_is_unknown_to_the_hub(transport, clock: Clock):
    hub = new_hub(HANDSHAKE_TIMEOUT=15)
    web = Web(router(hub))
    client: Any
    if transport == "Poller":
        client = await Poller.connected(web)
    elif transport == "Stream":
        client = await Stream(web, await web.token()).__aenter__()
    else:
        client = await Socket(web.application).__aenter__()
    await clock.forward(14.9)
    assert open_connections
    await clock.forward(0.2)
    assert await client.next() == {"error": "Handshake was canceled."}
    with pytest.raises(ConnectionClosed):
        await client.next()
    assert hub.events == []
    if transport != "Poller":
        await client.__aexit__(None, None, None)


async def test_a_handshake_that_is_too_large_is_refused():
    hub = new_hub(MAXIMUM_RECEIVE_MESSAGE_SIZE=100)
    async with Socket(router(hub)) as socket:
        await socket.put(b"x" * 60)
        await socket.put(b"x" * 60)
        assert await socket.next() == {"error": "Handshake was canceled."}
    assert hub.events == []


async def test_a_handshake_may_come_in_pieces_with_messages_behind_it():
    hub = new_hub()
    async with Socket(router(hub)) as socket:
        for byte in shake()[:-1]:
            await socket.put(bytes((byte,)))
        await socket.put(b"\x1e" + b'{"type":1,"target":"note","arguments":["behind"]}\x1e')
        assert await socket.next() == {}
        assert await socket.result("echo", 1) == 1
    assert hub.events == ["connected", "behind", "disconnected"]


HANDSHAKES = [
    (b'{"protocol":"xml","version":1}', "The protocol 'xml' is not supported."),
    (
        b'{"protocol":"json","version":9}',
        "The server does not support version 9 of the 'json' protocol.",
    ),
    (b"{", "An unexpected error occurred during connection handshake."),
    (b"", "An unexpected error occurred during connection handshake."),
    (b'{"version":1}', "An unexpected error occurred during connection handshake."),
    (b'{"protocol":"json"}', "An unexpected error occurred during connection handshake."),
    (b"\xff", "An unexpected error occurred during connection handshake."),
]


@pytest.mark.parametrize(("request_", "text"), HANDSHAKES)
async def test_a_refused_handshake_is_answered_without_a_close_message(request_, text):
    hub = new_hub()
    async with Socket(router(hub)) as socket:
        await socket.peer.send(request_ + b"\x1e")
        assert await socket.until_end() == [{"error": text}]
        assert await socket.peer.wait_closed() == 1000
    assert hub.events == []


async def test_a_refused_handshake_says_why_with_detailed_errors():
    async with Socket(router(new_hub(ENABLE_DETAILED_ERRORS=True))) as socket:
        await socket.put(b"{}\x1e")
        [answer] = await socket.until_end()
        assert answer["error"].startswith(
            "An unexpected error occurred during connection handshake. InvalidDataException: "
        )


async def test_a_client_that_leaves_without_a_handshake_is_unknown_to_the_hub():
    hub = new_hub()
    async with Socket(router(hub)):
        assert open_connections
    assert hub.events == []


@pytest.mark.parametrize("version", [-1, 0, 1, 2])
async def test_a_handshake_of_each_version_is_accepted(version):
    async with Socket(router(new_hub())) as socket:
        assert await socket.shake_hands(version=version) == {}
        assert await socket.result("echo", 1) == 1


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_unknown_types_of_messages_are_ignored(protocol):
    async with Socket(router(new_hub())) as socket:
        await socket.shake_hands(protocol)
        data = b'{"type":77}\x1e' if protocol == "json" else bytes.fromhex("02914d")
        await socket.put(data)
        assert await socket.result("echo", 1) == 1


async def test_what_comes_in_many_pieces_while_a_method_runs_is_read_in_order():
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.send("wait", "gate")
        await until(lambda: "gate began" in hub.events)
        texts = [str(number) for number in range(20)]
        data = b"".join(
            b'{"type":1,"target":"note","arguments":["%b"]}\x1e' % text.encode() for text in texts
        )
        for at in range(len(data)):
            await socket.put(data[at : at + 1])
        hub.gate("gate").set()
        await until(lambda: hub.events[-1] == texts[-1])
    assert hub.events[2:-1] == texts


async def test_what_belongs_to_a_stateful_reconnect_is_nothing_without_one():
    hub = new_hub()
    async with await open_socket(hub) as socket:
        await socket.put(b'{"type":8,"sequenceId":1}\x1e{"type":9,"sequenceId":1}\x1e')
        assert await socket.result("echo", 1) == 1
        [record] = description_of(hub).manager().connections.values()
        assert record.detach(None)  # It is another transport that carries it.
    record.release_slot()  # There is none any more.
    with pytest.raises(HubException, match="does not exist"):
        await record.ask("1", b"")


async def test_all_who_wait_for_the_end_hear_of_it(problems):
    hub = new_hub()
    async with await open_socket(hub):
        [record] = description_of(hub).manager().connections.values()
        waiting = [asyncio.ensure_future(record.wait_closed()) for _ in range(2)]
        await turns()
        assert not any(each.done() for each in waiting)
    await asyncio.wait_for(asyncio.gather(*waiting), BOUND)
    await record.wait_closed()


async def test_a_method_that_asks_after_its_cancellation_leaves_no_task(problems, monkeypatch):
    class Stubborn(Recording):
        async def stay(self) -> None:
            self.events.append("stays")
            try:
                await asyncio.sleep(BOUND)
            except asyncio.CancelledError:
                with suppress(HubException):
                    await self.clients.caller.invoke(int, "Ask")
                self.events.append("asked")

    monkeypatch.setattr(connection, "_GRACE", 0.01)
    hub = new_hub(Stubborn)
    async with await open_socket(hub) as socket:
        await socket.put_message(Invocation("stay", [], "1"))
        await until(lambda: "stays" in hub.events)
    await until(lambda: "asked" in hub.events)


async def test_all_who_wait_for_room_go_on_at_the_end(monkeypatch):
    hub = new_hub()
    async with await open_socket(hub) as socket:
        [record] = description_of(hub).manager().connections.values()
        monkeypatch.setattr(connection.HubConnection, "is_full", True)
        waiting = [asyncio.ensure_future(record.room()) for _ in range(2)]
        await turns()
        await socket.put(b'{"type":7}\x1e')
        assert [await each for each in waiting] == [False, False]
