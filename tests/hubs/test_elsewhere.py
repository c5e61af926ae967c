"""Connections that another event loop owns: messages, groups, answers, and requests for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from tests.hubs.clients import Poller, Socket, Stream, User, Web, rest, router, until
from tests.hubs.recording import Recording, new_hub
from ws_support._connection.registry import open_connections
from ws_support._hubs import calls, endpoint, forwarding, manager
from ws_support._hubs.letters import Kind, Letter, read_letter
from ws_support._hubs.manager import PublishError
from ws_support._hubs.messages import Completion, Invocation
from ws_support._hubs.tokens import new_id, new_token, new_worker
from ws_support._topics.brokers.base import BrokerError
from ws_support._topics.brokers.local import LocalBroker
from ws_support._topics.registry import TopicRegistry
from ws_support.hubs import HubException, HubRouter, description_of, hub_context
from ws_support.testing import BOUND


class Elsewhere:
    """An event loop in a thread of its own, with the connections that are made there."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return await asyncio.wait_for(asyncio.wrap_future(future), BOUND)

    async def _leave(self) -> None:
        """Leave nothing in the statistics of this process."""
        TopicRegistry.of_this_loop()._topics.clear()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._leave(), self.loop).result(BOUND)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(BOUND)
        self.loop.close()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    elsewhere = Elsewhere()
    yield elsewhere
    elsewhere.stop()


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Wait for an answer of the other event loop also on a busy machine."""
    monkeypatch.setattr(calls, "_TAKEN_HERE", BOUND)


@pytest.fixture
def between(monkeypatch):
    """A broker that is said to reach other processes: here it reaches other loops."""
    for module in (calls, manager, endpoint):
        monkeypatch.setattr(module, "is_between_processes", lambda: True)


@pytest.fixture
def hub():
    return new_hub(Recording)


async def open_socket(hub: Any, query: str = "") -> Socket:
    socket = Socket(router(hub), query)
    await socket.__aenter__()
    await socket.shake_hands()
    return socket


async def test_a_message_reaches_a_connection_elsewhere(hub, elsewhere, problems):
    async with await open_socket(hub) as socket:
        id_ = (await socket.result("who"))["id"]
        clients = hub_context(hub).clients
        await elsewhere.run(clients.client(id_).send("Told", 1))
        await elsewhere.run(clients.clients([id_, "gone"]).send("Told", 2))
        await elsewhere.run(clients.all.send("Told", 3))
        assert [await socket.next() for _ in range(3)] == [
            Invocation("Told", [number]) for number in (1, 2, 3)
        ]


async def test_groups_are_joined_and_left_from_elsewhere(hub, elsewhere, problems):
    async with await open_socket(hub) as socket:
        id_ = (await socket.result("who"))["id"]
        context = hub_context(hub)
        [connection] = description_of(hub).manager().connections.values()
        before = len(connection.topics)
        await elsewhere.run(context.groups.add("room", id_))
        await until(lambda: len(connection.topics) == before + 1)
        await elsewhere.run(context.clients.group("room").send("Told", "in"))
        assert await socket.next() == Invocation("Told", ["in"])
        await elsewhere.run(context.groups.remove("room", id_))
        await until(lambda: len(connection.topics) == before)


async def test_a_client_elsewhere_is_asked(hub, elsewhere, problems):
    async with await open_socket(hub) as socket:
        id_ = (await socket.result("who"))["id"]

        def ask(type_: Any) -> asyncio.Future[Any]:
            client = hub_context(hub).clients.client(id_)
            return asyncio.ensure_future(elsewhere.run(client.invoke(type_, "Ask", "you")))

        asked = ask(int)
        message = await socket.next()
        assert (message.target, message.arguments) == ("Ask", ["you"])
        await socket.put_message(Completion(message.id, 42, has_result=True))
        assert await asked == 42

        asked = ask(int)
        message = await socket.next()
        await socket.put_message(Completion(message.id, None, "no idea"))
        with pytest.raises(HubException, match="no idea"):
            await asked

        asked = ask(int)
        message = await socket.next()
        await socket.put_message(Completion(message.id, "a text", has_result=True))
        with pytest.raises(HubException, match="Error trying to deserialize result to"):
            await asked

        asked = ask(None)
        message = await socket.next()
        await socket.put_message(Completion(message.id))
        assert await asked is None


async def test_a_client_that_goes_while_it_is_asked_from_elsewhere_has_disconnected(
    hub, elsewhere, problems
):
    async with await open_socket(hub) as socket:
        id_ = (await socket.result("who"))["id"]
        client = hub_context(hub).clients.client(id_)
        asked = asyncio.ensure_future(elsewhere.run(client.invoke(int, "Ask")))
        await socket.next()
    with pytest.raises(HubException, match=f"Connection '{id_}' disconnected"):
        await asked


async def test_a_client_that_is_no_longer_asked_from_elsewhere_is_forgotten_by_its_owner(
    hub, elsewhere, problems
):
    async with await open_socket(hub) as socket:
        id_ = (await socket.result("who"))["id"]
        [connection] = description_of(hub).manager().connections.values()
        before = len(connection._tasks)
        client = hub_context(hub).clients.client(id_)
        with pytest.raises(asyncio.TimeoutError, match=r"not answered within 0\.2 s"):
            await elsewhere.run(client.invoke(int, "Ask", timeout=0.2))
        question = await socket.next()
        await until(lambda: len(connection._tasks) == before)
        assert not connection._results
        # An answer that comes after all is nobody's.
        await socket.put_message(Completion(question.id, 42, has_result=True))
        assert await socket.result("echo", 1) == 1


async def test_its_owner_is_told_before_the_loop_of_a_command_ends(hub, problems, monkeypatch):
    publish = LocalBroker.publish

    async def publish_slowly(self: Any, topic: str, message: Any) -> None:
        await asyncio.sleep(0.02)
        await publish(self, topic, message)

    async with await open_socket(hub) as socket:
        id_ = (await socket.result("who"))["id"]
        [connection] = description_of(hub).manager().connections.values()
        before = len(connection._tasks)
        monkeypatch.setattr(LocalBroker, "publish", publish_slowly)
        client = hub_context(hub).clients.client(id_)

        def command() -> None:
            with pytest.raises(asyncio.TimeoutError):
                asyncio.run(client.invoke(int, "Ask", timeout=0.3))

        await asyncio.to_thread(command)
        await socket.next()
        await until(lambda: len(connection._tasks) == before)


async def test_that_nobody_waits_any_more_may_be_unknown_to_the_broker(
    hub, elsewhere, problems, monkeypatch
):
    publish = LocalBroker.publish

    async def publish_all_but_that(self: Any, topic: str, message: Any) -> None:
        letter = read_letter(message["bytes"])
        if letter is not None and letter.kind is Kind.FORGET:
            raise BrokerError("it is full")
        await publish(self, topic, message)

    async with await open_socket(hub) as socket:
        id_ = (await socket.result("who"))["id"]
        monkeypatch.setattr(LocalBroker, "publish", publish_all_but_that)
        client = hub_context(hub).clients.client(id_)
        with pytest.raises(asyncio.TimeoutError):
            await elsewhere.run(client.invoke(int, "Ask", timeout=0.2))
        await socket.next()
        assert await socket.result("echo", 1) == 1
        description_of(hub).manager().receive(Letter(Kind.FORGET, id_, text="unknown"))


async def test_a_client_that_nobody_has_does_not_exist(hub, elsewhere, problems, monkeypatch):
    monkeypatch.setattr(calls, "_TAKEN_HERE", 0.05)
    client = hub_context(hub).clients.client("x" * 24)
    with pytest.raises(HubException, match=f"Connection '{'x' * 24}' does not exist"):
        await elsewhere.run(client.invoke(int, "Ask"))


async def test_an_owner_that_falls_silent_is_taken_for_gone(hub, elsewhere, problems, monkeypatch):
    monkeypatch.setattr(calls, "_ALIVE_INTERVAL", 0.02)
    monkeypatch.setattr(calls, "_SILENCE", 0.2)
    async with await open_socket(hub) as socket:
        id_ = (await socket.result("who"))["id"]
        client = hub_context(hub).clients.client(id_)
        asked = asyncio.ensure_future(elsewhere.run(client.invoke(int, "Ask")))
        message = await socket.next()
        await asyncio.sleep(0.3)  # Signs of life keep it.
        assert not asked.done()
        monkeypatch.setattr(calls, "_ALIVE_INTERVAL", 60)
        with pytest.raises(HubException, match="disconnected"):
            await asked
        await socket.put_message(Completion(message.id, 42, has_result=True))
        assert await socket.result("echo", 1) == 1


async def test_a_sign_of_life_that_the_broker_does_not_take_ends_no_question(
    hub, elsewhere, problems, monkeypatch
):
    monkeypatch.setattr(calls, "_ALIVE_INTERVAL", 0.02)
    monkeypatch.setattr(calls, "_SILENCE", 0.3)
    signs = []
    publish = LocalBroker.publish

    async def publish_often(self: Any, topic: str, message: Any) -> None:
        letter = read_letter(message["bytes"])
        if letter is not None and letter.kind is Kind.TAKEN:
            signs.append(letter)
            if len(signs) == 2:
                raise BrokerError("it is full")
        await publish(self, topic, message)

    async with await open_socket(hub) as socket:
        id_ = (await socket.result("who"))["id"]
        monkeypatch.setattr(LocalBroker, "publish", publish_often)
        asked = asyncio.ensure_future(
            elsewhere.run(hub_context(hub).clients.client(id_).invoke(int, "Ask"))
        )
        question = await socket.next()
        await until(lambda: len(signs) > 30)
        await socket.put_message(Completion(question.id, 42, has_result=True))
        assert await asked == 42


async def test_what_is_no_letter_is_dropped(hub, problems):
    async with await open_socket(hub) as socket:
        here = description_of(hub).manager()
        for data in (b"\xc1", b""):
            await here._publish(here.topic_of_worker(here.worker), data)
            await here._publish(here.topic_of_all, data)
        here.receive(Letter(Kind.SEND, "unknown"))
        here.receive(Letter(Kind.RESULT, "unknown"))
        assert await socket.result("echo", 1) == 1


async def test_an_id_that_is_no_text_is_an_error(hub):
    with pytest.raises(TypeError, match="The id of a connection is a string: got 3"):
        await hub_context(hub).clients.client(3).send("Told")


async def test_a_broker_that_fails_is_an_error_of_the_publisher(hub, monkeypatch):
    async def publish(self, topic, message):
        raise BrokerError("it is full")

    monkeypatch.setattr(LocalBroker, "publish", publish)
    with pytest.raises(PublishError, match=r"of the hub .*Recording was not taken by .*full"):
        await hub_context(hub).clients.all.send("Told")


# Requests


async def test_a_websocket_is_accepted_where_it_comes(hub, elsewhere, problems, between):
    token = await elsewhere.run(Web(router(hub)).token())
    async with await open_socket(hub, f"?id={token}") as socket:
        there = await elsewhere.run(_worker_of(hub))
        id_ = (await socket.result("who"))["id"]
        assert id_.startswith(there)
        client = hub_context(hub).clients.client(id_)
        # Its name says who has negotiated, and not who has it.
        await elsewhere.run(client.send("Told", 1))
        assert await socket.next() == Invocation("Told", [1])
        asked = asyncio.ensure_future(elsewhere.run(client.invoke(int, "Ask")))
        message = await socket.next()
        await socket.put_message(Completion(message.id, 42, has_result=True))
        assert await asked == 42


async def _worker_of(hub: Any) -> str:
    return description_of(hub).manager().worker


async def test_long_polling_goes_on_in_any_process(hub, elsewhere, problems, between):
    web = Web(router(hub))
    token = await elsewhere.run(web.token())
    poller = await Poller.connected(web, token=token)
    await poller.shake_hands()
    assert (await poller.result("who"))["transport"] == "LongPolling"
    assert not description_of(hub).manager().connections
    response = await web.request("DELETE", poller.query)
    assert response.status == 202
    await until(lambda: hub.events == ["connected", "disconnected"])


@pytest.mark.parametrize(("shakes_hands", "status"), [(True, 200), (False, 204)])
async def test_a_poll_is_answered_when_the_process_that_forwards_it_stops(
    hub, elsewhere, problems, between, shakes_hands, status
):
    web = Web(router(hub))
    poller = await Poller.connected(web, token=await elsewhere.run(web.token()))
    if shakes_hands:
        await poller.shake_hands()
    polling = asyncio.ensure_future(poller.poll())
    await until(lambda: any(each.is_poll for each in forwarded()))
    for each in forwarded():
        await each.drain(1012, "The server is stopping")
    response = await asyncio.wait_for(polling, BOUND)
    # An empty answer in front of that to the handshake would break clients.
    assert (response.status, response.body) == (status, b"")
    if shakes_hands:
        assert await poller.result("echo", 1) == 1
    assert (await web.request("DELETE", poller.query)).status == 202


async def test_a_request_ends_when_a_letter_was_lost(hub, elsewhere, problems, between):
    web = Web(router(hub))
    poller = await Poller.connected(web, token=await elsewhere.run(web.token()))
    await poller.shake_hands()
    polling = asyncio.ensure_future(poller.poll())
    await until(lambda: any(each.is_poll for each in forwarded()))
    description_of(hub).manager()._mailbox.miss()
    assert (await asyncio.wait_for(polling, BOUND)).status == 502
    problems.expect("Messages of other processes for single clients of a hub were lost.")
    assert (await web.request("DELETE", poller.query)).status == 202


def forwarded() -> list[Any]:
    return [each for each in tuple(open_connections._connections) if hasattr(each, "is_poll")]


async def test_each_request_of_a_client_with_a_bearer_token_may_come_to_another_process(
    hub, elsewhere, problems, between
):
    async def authenticate(token: str) -> User:
        return User(token)

    web = Web(HubRouter(rest, {"hub": hub}, authenticate=authenticate, get_user=User))

    def bearing(token: str) -> dict[str, Any]:
        return {"headers": {"authorization": f"Bearer {token}"}}

    ticket = (await elsewhere.run(web.negotiate(**bearing("ann"))))["accessToken"]
    token = (await web.negotiate(**bearing(ticket)))["connectionToken"]
    # The one that has the token of the user checked owns the connection.
    poller = await Poller.connected(web, f"&access_token={ticket}", token)
    await poller.shake_hands()
    assert (await poller.result("who"))["user"] == "ann"
    assert not description_of(hub).manager().connections
    assert (await web.request("DELETE", poller.query)).status == 202
    await close_mailbox(description_of(hub).manager())


async def test_an_event_stream_goes_on_in_any_process(hub, elsewhere, problems, between):
    web = Web(router(hub))
    token = await elsewhere.run(web.token())
    async with Stream(web, token) as stream:
        await stream.shake_hands()
        assert (await stream.result("who"))["transport"] == "ServerSentEvents"
        assert not description_of(hub).manager().connections
        assert len(await stream.result("large", 100_000)) == 100_000
    await until(lambda: hub.events == ["connected", "disconnected"])


async def test_a_stateful_reconnect_may_come_to_any_process(elsewhere, problems, between):
    hub = new_hub(Recording, ALLOW_STATEFUL_RECONNECTS=True)
    web = Web(router(hub))
    query = "negotiateVersion=1&useStatefulReconnect=true"
    token = (await elsewhere.run(web.negotiate(query)))["connectionToken"]
    async with Socket(router(hub), f"?id={token}") as socket:
        await socket.shake_hands(version=2)
        id_ = (await socket.result("who"))["id"]
        assert not description_of(hub).manager().connections
        await socket.put(b'{"type":7}\x1e')
        await socket.until_end()
    assert id_ in token or id_
    await until(lambda: hub.events == ["connected", "disconnected"])


@pytest.mark.parametrize("is_fresh", [True, False])
async def test_a_websocket_whose_owner_has_gone_is_accepted_here_or_refused(
    problems, between, monkeypatch, is_fresh
):
    monkeypatch.setattr(forwarding, "_OPEN_TIMEOUT", 0.05)
    hub = new_hub(Recording, ALLOW_STATEFUL_RECONNECTS=True)
    token = new_token(new_id(new_worker()), is_stateful=True)
    if not is_fresh:
        token = token._replace(created_at=token.created_at - 1000)
    query = f"?id={token.sign(description_of(hub).name)}"
    if is_fresh:
        async with Socket(router(hub), query) as socket:
            await socket.shake_hands(version=2)
            assert await socket.result("echo", 1) == 1
            await socket.put(b'{"type":7}\x1e')
            await socket.until_end()
    else:
        async with Socket.refused(router(hub), query) as refused:
            assert refused.status == 404


async def test_a_stateful_reconnect_may_come_where_its_connection_is_whoever_has_negotiated(
    problems, between, monkeypatch
):
    monkeypatch.setattr(forwarding, "_OPEN_TIMEOUT", 0.05)
    hub = new_hub(Recording, ALLOW_STATEFUL_RECONNECTS=True)
    token = new_token(new_id(new_worker()), is_stateful=True)
    query = f"?id={token.sign(description_of(hub).name)}"
    connections = description_of(hub).manager().connections
    async with Socket(router(hub), query) as socket:
        await socket.shake_hands(version=2)
        monkeypatch.setattr(forwarding, "_OPEN_TIMEOUT", 2 * BOUND)  # Nobody else is asked.
        async with Socket(router(hub), query) as again:
            assert len(connections) == 1
            await again.put(b'{"type":9,"sequenceId":1}\x1e{"type":7}\x1e')
            await again.until_end()


async def test_without_an_owner_a_connection_is_unknown(
    hub, elsewhere, problems, between, monkeypatch
):
    from ws_support._hubs import forwarding

    monkeypatch.setattr(forwarding, "_OPEN_TIMEOUT", 0.05)
    web = Web(router(hub))
    # Somebody else has signed it with our key, and is not there.
    from ws_support._hubs import tokens

    token = tokens.new_token(tokens.new_id(tokens.new_worker())).sign(description_of(hub).name)
    for method in ("GET", "POST", "DELETE"):
        response = await web.request(method, f"?id={token}")
        assert (response.status, response.body) == (404, b"No Connection with that ID")


async def test_a_mailbox_is_open_for_as_long_as_an_offer_is_good(hub, problems, between, clock):
    here = description_of(hub).manager()
    topics = TopicRegistry.of_this_loop()._topics
    web = Web(router(hub))
    await web.negotiate()
    await clock.forward(10)
    await web.negotiate()
    await clock.forward(10)
    assert here.topic_of_worker(here.worker) in topics
    await clock.forward(10)
    assert here.topic_of_worker(here.worker) not in topics


async def test_a_mailbox_stays_open_for_a_reason_that_comes_while_it_is_closed(hub, problems):
    mine = description_of(hub).manager()
    await mine.open_mailbox()
    closing = asyncio.create_task(mine._close_mailbox())
    opening = asyncio.create_task(mine.open_mailbox(60))
    await asyncio.gather(closing, opening)
    topic = mine.topic_of_worker(mine.worker)
    assert TopicRegistry.of_this_loop()._topics.keys() == {topic}
    await close_mailbox(mine)


async def close_mailbox(mine: Any) -> None:
    """Leave nothing in the statistics of this process."""
    mine._timer.cancel()
    mine._open_until = 0
    await mine._close_mailbox()
    assert not TopicRegistry.of_this_loop()._topics


async def test_without_a_broker_between_processes_nothing_is_forwarded(hub, elsewhere, problems):
    web = Web(router(hub))
    token = await elsewhere.run(web.token())
    response = await web.request("POST", f"?id={token}")
    assert (response.status, response.body) == (404, b"No Connection with that ID")


async def test_a_broker_that_fails_leaves_a_request_unknown(
    hub, elsewhere, problems, between, monkeypatch
):
    async def publish(self, topic, message):
        raise BrokerError("it is full")

    web = Web(router(hub))
    token = await elsewhere.run(web.token())
    monkeypatch.setattr(LocalBroker, "publish", publish)
    response = await web.request("POST", f"?id={token}")
    assert response.status == 404
    problems.expect("A request could not be forwarded: A message of the hub")


async def test_what_cannot_be_done_for_another_process_is_one_line_in_the_log(
    hub, elsewhere, problems, settings
):
    settings.WS_SUPPORT = {"MAX_SUBSCRIPTIONS": 2}
    async with await open_socket(hub) as socket:
        id_ = (await socket.result("who"))["id"]
        groups = hub_context(hub).groups
        for name in ("red", "blue"):
            await elsewhere.run(groups.add(name, id_))
        await until(lambda: problems.found)
        assert await socket.result("echo", 1) == 1
    problems.expect("What another process has asked for was not done: A connection may")
