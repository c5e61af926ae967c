"""Who gets a message: the selectors, groups, and hubs from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
import pytest_asyncio
from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured

from tests.hubs.clients import Problems, Socket, User, router, until
from tests.hubs.recording import Recording, new_hub
from ws_support._hubs import connection
from ws_support._hubs.letters import Kind, Letter, encode
from ws_support._hubs.messages import Close, Completion, Invocation
from ws_support._hubs.published import Published
from ws_support._hubs.tokens import new_id, new_token
from ws_support._topics.brokers.base import BrokerError
from ws_support._topics.registry import TopicRegistry
from ws_support.hubs import (
    Hub,
    HubException,
    PublishError,
    description_of,
    hub_context,
    hub_method_name,
)


class Telling(Recording):
    async def tell(self, selector: str, arguments: list[Any], text: Any) -> None:
        chosen = getattr(self.clients, selector)
        if selector not in ("all", "caller", "others"):
            chosen = chosen(*arguments)
        await chosen.send("Told", text)

    async def tell_by_name(self, text: str) -> None:
        await self.clients.caller.receive_message(text)

    async def enter(self, group: str) -> None:
        await self.groups.add(group)

    async def leave(self, group: str) -> None:
        await self.groups.remove(group)

    async def enter_other(self, group: str, id_: str) -> None:
        await self.groups.add(group, id_)

    async def leave_other(self, group: str, id_: str) -> None:
        await self.groups.remove(group, id_)

    async def user(self) -> Any:
        return self.context.user.pk

    async def unsendable(self) -> None:
        await self.clients.all.send("Told", object())

    async def unnamed(self, name: Any) -> None:
        await self.clients.all.send(name)


class Room(SimpleNamespace):
    """Three clients: ann twice, and bob."""

    hub: Any
    sockets: list[Socket]
    ids: list[str]

    async def told(self) -> list[list[Any]]:
        """Return what each client has been told."""
        told = []
        for socket in self.sockets:
            await socket.put_message(Invocation("echo", ["end"], "end"))
            texts: list[Any] = []
            while not getattr(message := await socket.next(), "has_result", False):
                texts += message.arguments
            told.append(texts)
        return told


@pytest_asyncio.fixture
async def room(problems: Problems) -> AsyncIterator[Room]:
    hub = new_hub(Telling)
    application = router(hub)
    sockets, ids = [], []
    for name, protocol in (("ann", "json"), ("ann", "messagepack"), ("bob", "json")):
        socket = await Socket(application, f"?user={name}").__aenter__()
        await socket.shake_hands(protocol)
        ids.append((await socket.result("who"))["id"])
        sockets.append(socket)
    yield Room(hub=hub, sockets=sockets, ids=ids)
    for socket in sockets:
        await socket.peer.close()


SELECTORS = [
    ("all", [], [1, 1, 1]),
    ("caller", [], [1, 0, 0]),
    ("others", [], [0, 1, 1]),
    ("all_except", [[0, 2]], [0, 1, 0]),
    ("client", [1], [0, 1, 0]),
    ("clients", [[0, 1]], [1, 1, 0]),
    ("group", ["red"], [1, 0, 1]),
    ("groups", [["red", "blue"]], [2, 1, 1]),
    ("group_except", ["red", [0]], [0, 0, 1]),
    ("others_in_group", ["red"], [0, 0, 1]),
    ("user", ["ann"], [1, 1, 0]),
    ("users", [["ann", "bob"]], [1, 1, 1]),
    ("user", ["nobody"], [0, 0, 0]),
    ("group", ["Red"], [0, 0, 0]),
    ("client", ["nobody"], [0, 0, 0]),
    ("client", [""], [0, 0, 0]),
    ("client", ["ä" * 5000], [0, 0, 0]),
    ("clients", [["a b", "\x00", "x" * 500, 1]], [0, 1, 0]),
    ("all_except", [["nobody"]], [1, 1, 1]),
]


def with_ids(arguments: Any, ids: list[str]) -> Any:
    if isinstance(arguments, list):
        return [with_ids(each, ids) for each in arguments]
    return ids[arguments] if isinstance(arguments, int) else arguments


@pytest.mark.parametrize(("selector", "arguments", "counts"), SELECTORS)
async def test_each_selector_reaches_its_clients(selector, arguments, counts, room):
    await room.sockets[0].result("enter", "red")
    await room.sockets[0].result("enter", "blue")
    await room.sockets[1].result("enter", "blue")
    await room.sockets[2].result("enter", "red")
    arguments = with_ids(arguments, room.ids)
    await room.sockets[0].send("tell", selector, arguments, "hello")
    assert await room.told() == [count * ["hello"] for count in counts]


@pytest.mark.parametrize(("selector", "arguments", "counts"), SELECTORS)
async def test_from_outside_it_is_the_same(selector, arguments, counts, room):
    if selector in ("caller", "others", "others_in_group"):
        assert not hasattr(hub_context(room.hub).clients, selector)
        return
    outside = hub_context(room.hub)
    for group, number in (("red", 0), ("blue", 0), ("blue", 1), ("red", 2)):
        await outside.groups.add(group, room.ids[number])
    chosen: Any = getattr(outside.clients, selector)
    if selector != "all":
        chosen = chosen(*with_ids(arguments, room.ids))
    await chosen.send("Told", "hello")
    assert await room.told() == [count * ["hello"] for count in counts]


# Groups


async def test_who_has_left_a_group_gets_no_more_of_it(room):
    first = room.sockets[0]
    await first.result("enter", "red")
    await first.result("enter_other", "red", room.ids[1])
    await first.result("enter", "red")
    await first.result("leave", "red")
    await first.result("leave", "never entered")
    await first.result("tell", "group", ["red"], "one")
    await hub_context(room.hub).groups.remove("red", room.ids[1])
    await first.result("tell", "group", ["red"], "two")
    assert await room.told() == [[], ["one"], []]


async def test_a_connection_that_there_is_not_is_no_error(room):
    for id_ in ("nobody", "x" * 300, "\x00", f"{room.ids[0][:8]}gone"):
        await room.sockets[0].result("enter_other", "red", id_)
        await room.sockets[0].result("leave_other", "red", id_)


@pytest.mark.parametrize("name", ["", "x" * 20_000, 5])
async def test_a_wrong_name_of_a_group_is_an_error(name, room):
    outside = hub_context(room.hub)
    with pytest.raises((ValueError, TypeError)):
        await outside.groups.add(name, room.ids[0])
    with pytest.raises((ValueError, TypeError)):
        await outside.clients.group(name).send("Told")


@pytest.mark.parametrize("id_", [5, None, b"id"])
async def test_an_id_that_is_no_text_is_an_error(id_, room):
    with pytest.raises(TypeError, match=rf"The id of a connection is a string: got {id_!r}\."):
        await hub_context(room.hub).clients.client(id_).send("Told")


@pytest.mark.parametrize(
    ("selector", "arguments", "name"),
    [
        ("all_except", ["id"], "ids"),
        ("clients", ["id"], "ids"),
        ("group_except", ["red", "id"], "ids"),
        ("groups", ["red"], "names"),
        ("users", ["ann"], "identifiers"),
    ],
)
def test_a_text_in_place_of_a_list_is_an_error(selector, arguments, name):
    clients = hub_context(new_hub()).clients
    with pytest.raises(TypeError, match=rf"{name} has to be a list of strings: got '\w+'\."):
        getattr(clients, selector)(*arguments)


async def test_a_client_has_a_bound_of_groups(room, settings, problems):
    settings.WS_SUPPORT = {"ALLOWED_ORIGINS": None, "MAX_SUBSCRIPTIONS": 5}
    answers = [await room.sockets[0].call("enter", str(each)) for each in range(10)]
    errors = sum(each.error is not None for each in answers)
    assert 4 < errors < 10
    problems.expect(
        *errors * ["The hub method 'enter' has raised InvalidName: 'A connection may be in 5"]
    )


# What is sent


async def test_a_method_knows_its_user(room):
    assert [await each.result("user") for each in room.sockets] == ["ann", "ann", "bob"]


async def test_a_client_class_may_be_called_by_name(room):
    await room.sockets[0].send("tell_by_name", "hello")
    message = await room.sockets[0].next()
    assert message == Invocation("ReceiveMessage", ["hello"])
    with pytest.raises(AttributeError):
        hub_context(room.hub).clients.all._private  # noqa: B018


async def test_what_cannot_be_sent_is_an_error_of_the_method(room, problems):
    assert (await room.sockets[0].call("unsendable")).error
    assert (await room.sockets[0].call("unnamed", "")).error
    assert (await room.sockets[0].call("unnamed", 5)).error
    assert await room.told() == [[], [], []]
    problems.expect(
        "The hub method 'unsendable' has raised InvalidValue",
        "The hub method 'unnamed' has raised TypeError",
        "The hub method 'unnamed' has raised TypeError",
    )


async def test_a_broker_that_does_not_take_a_message_is_an_error(room, monkeypatch):
    async def publish(topic: str, message: Any) -> None:
        raise BrokerError("full")

    monkeypatch.setattr(TopicRegistry.of_this_loop().broker, "publish", publish)
    with pytest.raises(PublishError, match="was not taken by this process: full"):
        await hub_context(room.hub).clients.all.send("Told")


# What other processes send


async def publish(topic: str, data: bytes) -> None:
    await TopicRegistry.of_this_loop().broker.publish(
        topic, {"type": "websocket.send", "bytes": data}
    )


async def test_letters_of_other_processes_reach_single_connections(room):
    manager = description_of(room.hub).manager()
    topic = manager.topic_of_worker(room.ids[0])
    data = Published.of("Told", ["hello"]).by_protocol
    for letter in (
        Letter(Kind.SEND, room.ids[0], data=data),
        Letter(Kind.SEND, "gone", data=data),
        Letter(Kind.ADD, room.ids[1], text="red"),
        Letter(Kind.ALIVE, room.ids[1]),
    ):
        await publish(topic, encode(letter))
    await until(lambda: any("red" in each for each in manager.connections[room.ids[1]].topics))
    await hub_context(room.hub).clients.group("red").send("Told", "two")
    await publish(topic, encode(Letter(Kind.REMOVE, room.ids[1], text="red")))
    await until(lambda: not any("red" in each for each in manager.connections[room.ids[1]].topics))
    assert await room.told() == [["hello"], ["two"], []]


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91\x01", b"text"])
async def test_what_no_hub_has_published_is_ignored(data, room):
    manager = description_of(room.hub).manager()
    await publish(manager.topic_of_all, data)
    await publish(manager.topic_of_worker(room.ids[0]), data)
    assert await room.told() == [[], [], []]


async def test_lost_messages_end_the_connections_that_have_missed_them(room, problems):
    manager = description_of(room.hub).manager()
    registry = TopicRegistry.of_this_loop()
    registry.miss(manager.topic_of_worker(room.ids[0]), 1, "Lost.")
    await room.sockets[2].result("enter", "red")
    registry.miss(manager.topic_of_group("red"), 1, "Lost.")
    assert await room.sockets[2].until_end() == [Close("Connection closed with an error.", True)]
    assert await room.sockets[0].result("echo", 1) == 1
    await until(
        lambda: "disconnected: Missed: Messages for the client were lost." in room.hub.events
    )
    assert any("single clients" in each for each in problems.found)
    problems.found.clear()


async def test_an_id_of_another_process_is_reached_as_well(problems):
    """As when the process that has answered negotiate is not the one that is connected to."""
    hub = new_hub(Telling)
    application = router(hub)
    token = new_token(new_id("AAAAAAAA"))
    text = token.sign(description_of(hub).name)
    async with Socket(application, f"?id={text}") as socket:
        await socket.shake_hands()
        assert (await socket.result("who"))["id"] == token.id
        manager = description_of(hub).manager()
        letter = Letter(Kind.SEND, token.id, data=Published.of("Told", ["hello"]).by_protocol)
        await publish(manager.topic_of_client(token.id), encode(letter))
        assert await socket.next() == Invocation("Told", ["hello"])
    await hub_context(hub).clients.client(token.id).send("Told")
    assert TopicRegistry.of_this_loop()._topics == {}


# Answers of clients


async def answered(room: Room, answer: str) -> Any:
    first = room.sockets[0]
    await first.put_message(Invocation("ask", ["Question"], "7"))
    question = await first.next()
    assert question == Invocation("Question", [], question.id)
    await first.put(answer.replace("ID", question.id).encode() + b"\x1e")
    return await first.next()


@pytest.mark.parametrize(
    ("answer", "result", "error"),
    [
        ('{"type":3,"invocationId":"ID","result":[1]}', [1], None),
        ('{"type":3,"invocationId":"ID"}', None, None),
        ('{"type":3,"invocationId":"ID","error":"No"}', None, "HubException: No"),
        ('{"type":3,"invocationId":"x"}\x1e{"type":3,"invocationId":"ID","result":1}', 1, None),
        (2 * '{"type":3,"invocationId":"ID","result":1}\x1e' + '{"type":6}', 1, None),
    ],
)
async def test_a_client_answers(answer, result, error, room):
    completion = await answered(room, answer)
    assert completion.result == result
    assert (error is None and completion.error is None) or error in completion.error
    assert await room.sockets[0].result("echo", 1) == 1


def test_only_one_client_can_be_asked():
    with pytest.raises(AttributeError, match="Only one client can be asked"):
        hub_context(new_hub()).clients.all.invoke  # noqa: B018


async def test_the_type_of_an_answer_comes_first():
    client = hub_context(new_hub()).clients.client("id")
    with pytest.raises(TypeError, match=r"is the type of the answer, not 'Question'"):
        await client.invoke("Question", "text")


async def test_an_answer_of_another_type_is_an_error(room):
    client = hub_context(room.hub).clients.client(room.ids[0])
    asking = asyncio.ensure_future(client.invoke(int, "Question"))
    question = await room.sockets[0].next()
    await room.sockets[0].put(
        b'{"type":3,"invocationId":"%b","result":"x"}\x1e' % question.id.encode()
    )
    with pytest.raises(HubException, match="Error trying to deserialize result to <class 'int'>"):
        await asking


class Player(Protocol):
    async def choose_move(self, text: str) -> int: ...

    @hub_method_name("Rename")
    async def give_a_name(self, text: str) -> None: ...


async def test_a_typed_client_answers_with_what_its_method_returns():
    class Game(Recording, Hub[Player]):
        async def play(self, text: str) -> int:
            return 10 * await self.clients.caller.choose_move(text)

    hub = new_hub(Game)
    async with Socket(router(hub)) as socket:
        await socket.shake_hands()
        for answer, expected in ((5, 50), ("x", None)):
            await socket.put_message(Invocation("play", ["Now"], "7"))
            question = await socket.next()
            assert (question.target, question.arguments) == ("ChooseMove", ["Now"])
            await socket.put_message(Completion(question.id, answer, has_result=True))
            completion = await socket.next()
            assert completion.result == expected
        assert "Error trying to deserialize result" in completion.error
        [id_] = description_of(hub).manager().connections
        await hub_context(hub).clients.client(id_).give_a_name("Ann")
        named = await socket.next()
        assert (named.target, named.arguments, named.id) == ("Rename", ["Ann"], None)


class Page(Protocol):
    async def told(self, text: str, loud: bool = False) -> None: ...

    async def listed(self, *texts: str) -> None: ...

    async def stubbed(self, text: str, level: str = ..., loud: bool = False) -> None: ...

    ticked: Callable[[int], Awaitable[None]]
    _private: int


async def test_what_a_typed_client_is_sent_has_to_fit_its_class():
    class Chat(Recording, Hub[Page]):
        pass

    hub = new_hub(Chat)
    async with Socket(router(hub)) as socket:
        await socket.shake_hands()
        everybody = hub_context(hub).clients.all
        await everybody.told("a")
        await everybody.told("b", True)
        await everybody.told(loud=True, text="c")
        await everybody.listed("d", "e")
        await everybody.stubbed("f")
        await everybody.ticked(7)
        messages = [await socket.next() for _ in range(6)]
        assert [each.arguments for each in messages] == [
            ["a"],
            ["b", True],
            ["c", True],
            ["d", "e"],
            ["f"],
            [7],
        ]
        assert messages[-1].target == "Ticked"
        with pytest.raises(TypeError, match=r"Stubbed\(\): 'level' has to be given, too"):
            await everybody.stubbed("f", loud=True)
        with pytest.raises(
            AttributeError, match="has no method tolled: it has ticked, listed, stubbed, told"
        ):
            everybody.tolled("a")
        with pytest.raises(TypeError, match=r"Told\(\): missing a required argument: 'text'"):
            await everybody.told()
        with pytest.raises(
            TypeError, match=r"Told\(\): got an unexpected keyword argument 'quiet'"
        ):
            await everybody.told("a", quiet=True)


async def test_what_an_untyped_client_is_sent_has_no_names(room):
    with pytest.raises(TypeError, match=r"ReceiveMessage\(\) takes no keyword arguments"):
        await hub_context(room.hub).clients.all.receive_message(text="a")


def test_a_method_of_a_client_is_known_as_a_coroutine_function(room):
    assert iscoroutinefunction(hub_context(room.hub).clients.all.receive_message)


def test_a_user_is_no_identifier(room):
    with pytest.raises(TypeError, match=r"write clients\.user\(user\.pk\)"):
        hub_context(room.hub).clients.user(User("ann"))


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("", ValueError, "The name of a group is empty."),
        (5, TypeError, "The name of a group is a text, not int."),
        ("x" * 9_001, ValueError, "The name of a group has up to 9000 characters, not 9001."),
        (
            "\ud800",
            ValueError,
            "The name of a group holds half of a surrogate pair, which cannot be sent.",
        ),
    ],
)
async def test_a_wrong_name_of_a_group_is_an_error_that_does_not_hold_it(room, name, error, text):
    with pytest.raises(error) as raised:
        await hub_context(room.hub).groups.add(name, room.ids[0])
    assert str(raised.value) == text


@pytest.mark.parametrize("selector", ["all", "others"])
async def test_several_typed_clients_cannot_be_asked(problems, selector):
    class Game(Recording, Hub[Player]):
        async def play(self) -> None:
            with pytest.raises(TypeError, match="ChooseMove has an answer, and only one client"):
                await getattr(self.clients, selector).choose_move("Now")
            await getattr(self.clients, selector).give_a_name("Ann")

    async with Socket(router(new_hub(Game))) as socket:
        await socket.shake_hands()
        await socket.result("play")


def test_the_type_of_a_typed_answer_has_to_be_readable_when_the_hub_is_loaded():
    class Guest(Protocol):
        async def receive(self, message: "Nowhere") -> None: ...  # noqa: F821, UP037

    class Asked(Protocol):
        async def ask(self) -> "Nowhere": ...  # noqa: F821, UP037

    class Odd(Protocol):
        async def ask(self) -> Invocation | Completion: ...

    class Told(Hub[Guest]):
        pass

    assert description_of(Told)  # What only type checkers read may be known to them only.

    class Asking(Hub[Asked]):
        pass

    with pytest.raises(ImproperlyConfigured, match=r"The annotations of Asked\.ask\(\) cannot be"):
        description_of(Asking)

    class AskingOddly(Hub[Odd]):
        pass

    with pytest.raises(ImproperlyConfigured, match=r"Odd\.ask\(\), answer: "):
        description_of(AskingOddly)


async def test_a_client_that_goes_does_not_answer(room):
    client = hub_context(room.hub).clients.client(room.ids[0])
    asking = asyncio.ensure_future(client.invoke(int, "Question"))
    await room.sockets[0].next()
    await room.sockets[0].peer.close()
    with pytest.raises(HubException, match=f"Connection '{room.ids[0]}' disconnected."):
        await asking
    with pytest.raises(HubException, match=f"Connection '{room.ids[0]}' does not exist."):
        await client.invoke(int, "Question")


async def test_an_answer_just_before_the_end_is_one(room):
    client = hub_context(room.hub).clients.client(room.ids[0])
    asking = asyncio.ensure_future(client.invoke(int, "Question"))
    question = await room.sockets[0].next()
    await room.sockets[0].put(
        b'{"type":3,"invocationId":"%b","result":5}\x1e{"type":7}\x1e' % question.id.encode()
    )
    assert await asking == 5


async def test_an_id_that_is_named_twice_gets_two(room):
    await hub_context(room.hub).clients.clients(2 * [room.ids[0]]).send("Told", "hello")
    assert await room.told() == [["hello", "hello"], [], []]


async def test_an_answer_has_a_timeout(room, problems):
    error = (await room.sockets[0].call("ask_in_time", "Question", 0.01)).error
    assert error
    problems.expect("The hub method 'ask_in_time' has raised NoAnswer: 'The client has not")


async def test_a_time_that_is_up_elsewhere_is_not_called_that_of_the_client(room, monkeypatch):
    async def raise_timeout(*_: Any) -> None:
        raise asyncio.TimeoutError("of the project")

    monkeypatch.setattr(description_of(room.hub).manager(), "invoke", raise_timeout)
    with pytest.raises(asyncio.TimeoutError, match="of the project"):
        await hub_context(room.hub).clients.client(room.ids[0]).invoke(int, "Question")


async def test_a_client_has_only_so_much_to_answer(room, monkeypatch):
    monkeypatch.setattr(connection, "_MOST_ASKED", 2)
    client = hub_context(room.hub).clients.client(room.ids[0])
    asking = [asyncio.ensure_future(client.invoke(int, "Question")) for _ in range(2)]
    questions = [await room.sockets[0].next() for _ in range(2)]
    with pytest.raises(HubException, match="too many invocations to answer"):
        await client.invoke(int, "Question")
    for each in questions:
        await room.sockets[0].put_message(Completion(each.id, 5, has_result=True))
    assert await asyncio.gather(*asking) == [5, 5]


async def test_a_method_that_waits_for_its_client_lets_the_next_one_begin(room):
    first = room.sockets[0]
    await first.put_message(Invocation("ask", ["Question"], "7"), Invocation("echo", [1], "8"))
    messages = [await first.next(), await first.next()]
    [question] = [each for each in messages if isinstance(each, Invocation)]
    await first.put(b'{"type":3,"invocationId":"%b","result":5}\x1e' % question.id.encode())
    assert (await first.next()).result == 5


async def test_nobody_answers_within_on_connected(problems):
    class Asking(Recording):
        async def on_connected(self) -> None:
            await self.clients.caller.invoke(int, "Question")

    async with Socket(router(new_hub(Asking))) as socket:
        await socket.shake_hands()
        [close] = await socket.until_end()
        assert "HubException: Client results inside on_connected() are not allowed" in close.error
    [warning] = problems.warnings
    assert warning.startswith(
        "on_connected() of a hub has raised HubException: 'Client results inside on_connected()"
    )


async def test_nobody_answers_within_on_disconnected(problems):
    class Asking(Recording):
        async def on_disconnected(self, error: Exception | None) -> None:
            with pytest.raises(HubException, match="does not exist"):
                await self.clients.caller.invoke(int, "Question")
            self.events.append("asked")

    hub = new_hub(Asking)
    async with Socket(router(hub)) as socket:
        await socket.shake_hands()
        assert await socket.result("echo", 1) == 1
    assert hub.events == ["connected", "asked"]


# In tests of users


def test_a_test_may_put_its_own_clients_groups_and_context_into_a_hub():
    hub = Telling()
    hub.clients, hub.groups, hub.context = clients, groups, context = object(), object(), object()
    assert (hub.clients, hub.groups, hub.context) == (clients, groups, context)


async def test_a_task_that_a_method_makes_may_ask_the_client_as_well(problems):
    class Asking(Telling):
        async def ask_twice(self) -> list[int]:
            ask = self.clients.caller.invoke
            return await asyncio.gather(ask(int, "Ask", 1), ask(int, "Ask", 2))

    async with Socket(router(new_hub(Asking))) as socket:
        await socket.shake_hands()
        await socket.put_message(Invocation("ask_twice", [], "a"), Invocation("echo", ["b"], "b"))
        asked = [await socket.next() for _ in range(3)]
        # The answers may be behind an invocation, which does not wait for the slot.
        answers = [each for each in asked if isinstance(each, Completion)]
        assert answers == [Completion("b", "b", has_result=True)]
        for each in asked:
            if isinstance(each, Invocation):
                done = Completion(each.id, 10 * each.arguments[0], has_result=True)
                await socket.put_message(done)
        assert await socket.next() == Completion("a", [10, 20], has_result=True)


async def test_a_client_before_its_handshake_cannot_be_asked(problems):
    hub = new_hub(Telling)
    async with Socket(router(hub)):
        [id_] = description_of(hub).manager().connections
        with pytest.raises(HubException, match=f"Connection '{id_}' does not exist"):
            await hub_context(hub).clients.client(id_).invoke(int, "Ask")
        await hub_context(hub).clients.client(id_).send("Told")
