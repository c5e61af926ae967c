"""Stateful reconnects: another WebSocket carries a connection on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.hubs.clients import ORIGIN, Socket, Web, router, turns, until
from tests.hubs.recording import Recording, new_hub
from ws_support._hubs import connection as connections
from ws_support._hubs import resume
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
from ws_support.hubs import description_of, hub_context
from ws_support.testing import BOUND, HandshakeRefused, websocket_scope

STATEFUL = "negotiateVersion=1&useStatefulReconnect=true"


class Chatty(Recording):
    async def tell(self, count: int, size: int) -> int:
        """Send much, and wait while the client is slow."""
        for number in range(count):
            await self.clients.caller.send("Told", number, size * "x")
            self.events.append(number)
        return count


@pytest.fixture
def hub():
    return new_hub(Chatty, ALLOW_STATEFUL_RECONNECTS=True)


class Client:
    """A client with one WebSocket after the other, which can be lost."""

    def __init__(self, hub: Any, token: str) -> None:
        self.hub = hub
        self.token = token

    @classmethod
    async def negotiated(cls, hub: Any) -> Client:
        answer = await Web(router(hub)).negotiate(STATEFUL)
        return cls(hub, answer["connectionToken"])

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[Socket]:
        async with Socket(router(self.hub), f"?id={self.token}") as socket:
            yield socket

    async def lose(self, socket: Socket, code: int | None = 1006) -> None:
        await socket.peer.send_input({"type": "websocket.disconnect", "code": code})
        await turns()

    @property
    def connection(self) -> Any:
        [connection] = description_of(self.hub).manager().connections.values()
        return connection

    @asynccontextmanager
    async def lost(self) -> AsyncIterator[Socket]:
        """A connection whose WebSocket has just been lost. Its first invocation was counted."""
        async with self.socket() as socket:
            await socket.shake_hands(version=2)
            await socket.result("echo", 1)
            await self.lose(socket)
            yield socket

    async def resume(self, socket: Socket, number: int) -> Any:
        """Begin on a new WebSocket, and return the Sequence of the server."""
        socket.parser._is_new = False
        await socket.put_message(Sequence(number))
        return await socket.next()


@pytest.fixture
async def client(hub, problems):
    answer = await Web(router(hub)).negotiate(STATEFUL)
    assert answer["useStatefulReconnect"] is True
    return Client(hub, answer["connectionToken"])


@pytest.mark.parametrize(
    "query", ["negotiateVersion=1", f"{STATEFUL}x", "useStatefulReconnect=true"]
)
async def test_who_does_not_ask_for_it_is_not_promised_it(hub, problems, query):
    assert "useStatefulReconnect" not in await Web(router(hub)).negotiate(query)


async def test_a_hub_that_does_not_allow_it_does_not_promise_it(problems):
    answer = await Web(router(new_hub(Recording))).negotiate(STATEFUL)
    assert "useStatefulReconnect" not in answer


async def test_a_lost_websocket_is_no_end_for_the_hub(client, hub, problems):
    async with client.lost(), client.socket() as socket:
        # The answer to the first invocation has not been acknowledged.
        assert await client.resume(socket, 2) == Sequence(1)
        assert await socket.next() == Completion("1", 1, has_result=True)
        assert await socket.result("echo", 2) == 2
        assert hub.events == ["connected"]
        await socket.put(b'{"type":7}\x1e')
        assert await socket.until_end() == [Close()]
    assert hub.events == ["connected", "disconnected"]


async def test_what_is_sent_meanwhile_comes_then_and_what_was_acknowledged_does_not(
    client, hub, problems
):
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.result("echo", 1)
        await socket.put_message(Ack(1))
        await client.lose(socket)
        await hub_context(hub).clients.all.send("Told", "meanwhile")
        async with client.socket() as again:
            assert await client.resume(again, 2) == Sequence(2)
            assert await again.next() == Invocation("Told", ["meanwhile"])


async def test_what_comes_twice_is_done_once(client, hub, problems):
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.send("note", "one")
        await socket.send("note", "two")
        await until(lambda: "two" in hub.events)
        await client.lose(socket)
        async with client.socket() as again:
            await client.resume(again, 1)
            for text in ("one", "two", "three"):
                await again.send("note", text)
            await until(lambda: "three" in hub.events)
    assert hub.events == ["connected", "one", "two", "three", "disconnected"]


async def test_before_its_sequence_nothing_of_a_new_websocket_counts(client, hub, problems):
    async with client.lost(), client.socket() as socket:
        await socket.put(b'{"type":1,"target":"note","arguments":["too early"]}\x1e')
        await client.resume(socket, 2)
        assert await socket.next() == Completion("1", 1, has_result=True)
        assert await socket.result("echo", 2) == 2
    assert "too early" not in hub.events


async def test_half_a_message_of_the_old_websocket_is_dropped(client, hub, problems):
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.put(b'{"type":1,"target":"no')
        await client.lose(socket)
        async with client.socket() as again:
            await client.resume(again, 1)
            assert await again.result("echo", 2) == 2


async def test_an_old_websocket_that_looks_alive_is_dropped_first(client, hub, problems):
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.result("echo", 1)
        async with client.socket() as again:
            assert await client.resume(again, 2) == Sequence(1)
            assert await again.next() == Completion("1", 1, has_result=True)
            assert await socket.until_end() == []
            assert await again.result("echo", 2) == 2
    assert hub.events == ["connected", "disconnected"]


async def test_with_version_1_a_lost_websocket_is_the_end(client, hub, problems):
    async with client.socket() as socket:
        await socket.shake_hands(version=1)
        await client.lose(socket)
        await until(lambda: hub.events == ["connected", "disconnected"])


@pytest.mark.parametrize("code", [1000, 1001, 3000])
async def test_a_close_frame_with_a_code_is_the_end(client, hub, problems, code):
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.result("echo", 1)
        await client.lose(socket, code)
        await until(lambda: hub.events == ["connected", "disconnected"])


@pytest.mark.parametrize("code", [None, 1005, 1006])
async def test_who_does_not_come_back_in_time_has_left(client, hub, clock, problems, code):
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.result("echo", 1)
        await client.lose(socket, code)
        await clock.forward(14)
        assert hub.events == ["connected"]
        await clock.forward(2)
        await until(lambda: hub.events == ["connected", "disconnected"])
        with pytest.raises(HandshakeRefused, match="404: No Connection with that ID"):
            async with client.socket():
                pass


@pytest.mark.parametrize("is_resumed", [True, False])
async def test_a_connection_that_ends_during_a_handshake_is_not_carried_on(
    client, hub, problems, is_resumed
):
    comes = asyncio.Event()
    sent = []

    async def receive() -> Any:
        await comes.wait()
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async with AsyncExitStack() as stack:
        if is_resumed:
            await stack.enter_async_context(client.lost())
        scope = websocket_scope(f"/hub?id={client.token}", origin=ORIGIN)
        handshake = asyncio.create_task(router(hub)(scope, receive, send))
        await until(lambda: description_of(hub).manager().connections)
        await turns()
        await client.connection.drain(1012, "")
        await until(lambda: not description_of(hub).manager().connections)
        comes.set()
        await asyncio.wait_for(handshake, BOUND)
    assert sent[0]["status"] == 404


async def test_once_a_close_message_is_queued_nobody_resumes(client, hub, problems):
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.put(b'{"type":7}\x1e')
        assert await socket.next() == Close()
        with pytest.raises(HandshakeRefused, match="404"):
            async with client.socket():
                pass


async def test_a_second_websocket_of_another_connection_is_refused(problems):
    hub = new_hub(Recording)
    token = await Web(router(hub)).token()
    async with Socket(router(hub), f"?id={token}") as socket:
        await socket.shake_hands()
        with pytest.raises(HandshakeRefused, match="409"):
            async with Socket(router(hub), f"?id={token}"):
                pass


async def test_much_is_acknowledged_at_once_and_little_in_a_second(client, clock, problems):
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.result("echo", 1)
        await clock.forward(1.1)
        assert await socket.next() == Ack(1)
        await socket.put_message(Ping())
        await clock.forward(1.1)  # Nothing new has come.
        await socket.put_message(Invocation("echo", [20_000 * "x"]))
        await socket.put_message(Invocation("echo", [20_000 * "x"]))
        assert await socket.next() == Ack(3)


async def test_all_kinds_of_messages_are_counted_and_no_others(client, clock, problems):
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.put_message(
            Ping(),
            StreamInvocation("counter", [0], "1"),
            CancelInvocation("1"),
            StreamItem("unknown", 1),
            Completion("unknown"),
            Invocation("note", ["x"]),
            Ack(0),
        )
        assert await socket.next() == Completion("1")
        await clock.forward(1.1)
        assert await socket.next() == Ack(5)


async def test_a_method_waits_when_too_much_is_not_acknowledged(problems):
    hub = new_hub(Chatty, ALLOW_STATEFUL_RECONNECTS=True, STATEFUL_RECONNECT_BUFFER_SIZE=1000)
    client = await Client.negotiated(hub)
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.put_message(Invocation("tell", [20, 100], "1"))
        for _ in range(5):
            await socket.next()
        await turns()
        told = len(hub.events)
        assert told < 15
        await socket.put_message(Ack(5))
        await until(lambda: len(hub.events) > told)
        # Also when an invocation waits for its slot in front of the Ack.
        await socket.put_message(Invocation("echo", [1], "2"), Ping(), Ack(12))
        await until(lambda: len(hub.events) > told + 6)
        await socket.put_message(Invocation("note", ["behind"]), Ack(100))
        await until(lambda: "behind" in hub.events)


async def test_an_ack_is_read_behind_all_that_a_client_may_send_without_one(problems):
    hub = new_hub(
        Chatty,
        ALLOW_STATEFUL_RECONNECTS=True,
        STATEFUL_RECONNECT_BUFFER_SIZE=1000,
        APPLICATION_MAX_BUFFER_SIZE=100,
    )
    client = await Client.negotiated(hub)
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.put_message(Invocation("tell", [10, 100], "1"))
        for number in range(18):
            await socket.put_message(Invocation("note", [f"behind {number}"]))
        await until(lambda: len(hub.events) > 5)
        # None of them is acknowledged: the client would send more of them in front of its Ack.
        assert Ack(2) not in socket.parser.messages
        await socket.put_message(Ack(100))
        await until(lambda: "behind 17" in hub.events)
        await socket.put_message(Ping())
        messages = []
        while Ack(19) not in messages:
            messages.append(await socket.next())
        assert [each for each in messages if isinstance(each, Ack)] == [Ack(19)]


async def test_a_large_message_is_acknowledged_at_once(problems, monkeypatch):
    monkeypatch.setattr(resume, "ACK_SIZE", 1000)
    hub = new_hub(Chatty, ALLOW_STATEFUL_RECONNECTS=True)
    client = await Client.negotiated(hub)
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.put_message(Invocation("note", [1000 * "x"]))
        assert await socket.next() == Ack(1)


async def test_of_messages_behind_one_that_waits_only_so_many_are_read(problems, monkeypatch):
    monkeypatch.setattr(connections, "_MOST_AHEAD", 10)
    hub = new_hub(Chatty, ALLOW_STATEFUL_RECONNECTS=True)
    client = await Client.negotiated(hub)
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.put_message(Invocation("wait", ["go"]))
        await socket.put_message(Invocation("note", ["waits"]))
        await socket.put_message(*(50 * [Ping()]), *(50 * [CancelInvocation("1")]))
        await socket.put_message(Invocation("note", ["behind"]))
        await until(lambda: "go began" in hub.events)
        await turns()
        assert len(client.connection._ahead) == 10
        hub.gate("go").set()
        await until(lambda: "behind" in hub.events)
        assert client.connection._ahead is None


async def test_a_message_of_an_unknown_type_behind_one_that_waits_is_ignored(problems):
    hub = new_hub(Chatty, ALLOW_STATEFUL_RECONNECTS=True)
    client = await Client.negotiated(hub)
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        for name in ("first", "second"):
            await socket.send("wait", name)
        await socket.put(b'{"type":42}\x1e{"type":6}\x1e')
        await until(lambda: client.connection._ahead is not None)
        assert len(client.connection._ahead) == 1
        for name in ("first", "second"):
            hub.gate(name).set()
        assert await socket.result("echo", 1) == 1
        await socket.put(b'{"type":7}\x1e')
        await socket.until_end()


async def test_while_it_is_away_methods_wait_and_go_on_with_its_return(problems):
    hub = new_hub(Chatty, ALLOW_STATEFUL_RECONNECTS=True, STATEFUL_RECONNECT_BUFFER_SIZE=1000)
    client = await Client.negotiated(hub)
    async with client.socket() as socket:
        await socket.shake_hands(version=2)
        await socket.put_message(Invocation("tell", [20, 100], "1"))
        await client.lose(socket)
        await turns()
        async with client.socket() as again:
            await client.resume(again, 2)
            seen = 0
            while True:
                message = await again.next()
                if isinstance(message, Completion):
                    break
                if isinstance(message, Invocation):
                    assert message.arguments[0] == seen
                    seen += 1
                    await again.put_message(Ack(seen))
            assert seen == 20


async def test_broadcasts_to_a_client_that_acknowledges_nothing_end_it(
    client, hub, problems, monkeypatch
):
    monkeypatch.setattr(connections, "_MOST_UNACKNOWLEDGED", 1000)
    async with client.lost():
        for _ in range(20):
            await hub_context(hub).clients.all.send("Told", 100 * "x")
        await until(lambda: len(hub.events) == 2)
    assert hub.events[1].startswith("disconnected: TooSlow")


async def test_a_sequence_that_cannot_be_breaks_the_protocol(client, hub, problems):
    async with client.lost(), client.socket() as socket:
        socket.parser._is_new = False
        await socket.put_message(Sequence(7))
        messages = await socket.until_end()
        assert isinstance(messages[-1], Close)
        assert messages[-1].allow_reconnect


async def test_an_end_while_nothing_is_attached_is_told_to_nobody(client, hub, problems):
    async with client.lost():
        [connection] = description_of(hub).manager().connections.values()
        await connection.drain(1012, "")
        await until(lambda: hub.events == ["connected", "disconnected"])


async def test_of_many_resumes_the_last_one_counts(client, hub, problems):
    async with client.socket() as first:
        await first.shake_hands(version=2)
        sockets = [first]
        for _ in range(5):
            socket = Socket(router(hub), f"?id={client.token}")
            await socket.__aenter__()
            await client.resume(socket, 1)
            sockets.append(socket)
        assert await sockets[-1].result("echo", 1) == 1
        for each in sockets[1:]:
            await each.__aexit__(None, None, None)
    await asyncio.sleep(0)
    assert hub.events == ["connected", "disconnected"]
