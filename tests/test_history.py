"""Topics with a history: who comes back gets what was missed, once and in order, or hears of it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from io import StringIO
from itertools import count

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import call_command
from django.test import override_settings

from tests.peers import Served, connected
from tests.redis import BROKER
from tests.test_connection import eventually
from ws_support._topics import feed
from ws_support._topics.brokers import memory
from ws_support._topics.brokers.redis import history as redis_history
from ws_support._topics.registry import TopicRegistry
from ws_support.broadcast import (
    BroadcastError,
    broadcast,
    broadcast_json,
    broadcast_json_sync,
    broadcast_on_commit,
    broadcast_sync,
    statistics,
)
from ws_support.consumers import AsyncWebsocketConsumer
from ws_support.topics import history
from ws_support.websocket import websocket_view

RULES = {
    "room/<path:name>": {"history": 300},
    "short/<path:name>": {"history": 3},
    "long/<path:name>": {"history": 5000},
    "brief/<path:name>": {"history": 5, "history_seconds": 0.05},
}
_names = count()


class Person:
    """A user, as far as that is asked for."""

    def __init__(self, pk=None):
        self.pk = pk
        self.is_authenticated = pk is not None


@pytest.fixture(params=["memory", "redis", "cluster"])
def way(request):
    """Where histories are kept."""
    settings = {"CHANNEL_LAYERS": {}, "WS_SUPPORT": {"TOPICS": RULES, "BROADCAST_QUEUE": 1000}}
    if request.param == "redis":
        redis = request.getfixturevalue("redis")
        settings = redis.settings(BROKER, options=settings["WS_SUPPORT"])
    elif request.param == "cluster":
        settings["WS_SUPPORT"]["BROKER"] = request.getfixturevalue("cluster").url
    with override_settings(**settings):
        yield request.param


@pytest.fixture
def room():
    """A name that no other test has: histories in memory outlive a test."""
    return f"room/of-a-test-{next(_names)}"


@pytest.fixture
def short():
    return f"short/of-a-test-{next(_names)}"


@websocket_view
async def resuming(websocket):
    """Does what each message says, and tells how it went."""
    await websocket.accept()
    await websocket.subscribe("plain")
    async for message in websocket:
        command = json.loads(message)
        if "leave" in command:
            await websocket.unsubscribe(command["leave"])
            continue
        try:
            recovery = await websocket.subscribe(**command)
        except (BroadcastError, ValueError, TypeError) as error:
            await websocket.send(f"{type(error).__name__}: {error}")
        else:
            await websocket.send(f"recovered {recovery.recovered} {recovery.position}")


class Resuming(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        recovery = await self.subscribe(**json.loads(text_data))
        await self.send(f"recovered {recovery.recovered} {recovery.position}")


class Client(Served):
    """Knows when the application sends, also while it reads nothing."""

    sent = 0

    async def serve_send(self, message):
        self.sent += 1
        await super().serve_send(message)

    async def is_sent(self, count):
        await eventually(lambda: self.sent >= count)


@asynccontextmanager
async def client(application=resuming, **scope):
    async with connected(application, Client, **scope) as peer:
        yield peer
        # Whoever a test has paused is told of the end.
        peer.resume_reading()


async def asks(peer, topic, since=None, **more):
    await peer.says(json.dumps({"topic": topic, "since": since, **more}))


async def positions_of(topic, *messages):
    return [await broadcast(topic, each) for each in messages]


async def test_a_message_has_a_position_in_a_topic_with_a_history_and_in_no_other(way, room):
    first, second = await positions_of(room, "a", "b")
    assert first.startswith("1-")
    assert second.startswith("2-")
    assert await broadcast_json(room, {"a": 1}) not in (first, second, None)
    assert await broadcast("plain", "c") is None


@pytest.mark.parametrize("application", [resuming, Resuming.as_asgi()])
async def test_who_comes_back_gets_what_was_missed_and_then_what_is_new(way, room, application):
    first, _, _, last = await positions_of(room, "seen", "a", "b", "c")
    async with client(application) as peer:
        await asks(peer, room, first)
        assert await peer.texts(4) == ["a", "b", "c", f"recovered True {last}"]
        await broadcast(room, "new")
        assert await peer.texts(1) == ["new"]


async def test_who_has_missed_nothing_gets_what_is_new(way, room):
    *_, last = await positions_of(room, "a", "b")
    async with client() as peer:
        await asks(peer, room, last)
        assert await peer.texts(1) == [f"recovered True {last}"]
        await broadcast(room, "new")
        assert await peer.texts(1) == ["new"]


async def test_who_names_no_position_gets_what_is_new_and_hears_from_where_on(way, room):
    *_, last = await positions_of(room, "a", "b")
    async with client() as peer:
        await asks(peer, room)
        assert await peer.texts(1) == [f"recovered False {last}"]
        await broadcast(room, "new")
        assert await peer.texts(1) == ["new"]


@pytest.mark.parametrize("begins", ["before", "with"])
async def test_nothing_is_missing_where_nothing_was_published_for_long(way, monkeypatch, begins):
    for module in (feed, memory, redis_history):
        monkeypatch.setattr(module, "KEEP_POSITION", 0.4)
        monkeypatch.setattr(module, "KEEP_BEGINNING", 0.4)
    monkeypatch.setattr(memory, "_SWEEP_EVERY", (0.01, 0.02))
    topic = f"brief/{next(_names)}"
    lost = statistics().lost
    async with client() as peer:
        await asks(peer, topic)
        await peer.texts(1)
        expected = ["new"]
        if begins == "before":
            await broadcast(topic, "old")
            expected = ["old", "new"]
        await asyncio.sleep(1)
        await broadcast(topic, "new")
        assert await peer.texts(len(expected)) == expected
    assert statistics().lost == lost


async def test_who_was_away_for_too_long_gets_no_part_of_it_and_hears_so(way, short):
    first, *_, last = await positions_of(short, "seen", "a", "b", "c", "d")
    async with client() as peer:
        await asks(peer, short, first)
        assert await peer.texts(1) == [f"recovered False {last}"]
        await broadcast(short, "new")
        assert await peer.texts(1) == ["new"]


@pytest.mark.parametrize(
    "since", ["0-1", "1-1", "2-1", "77-1", "", "first", "1-\ud800", "1-" + "9" * 30, "-1-1"]
)
async def test_a_position_of_a_history_that_is_gone_is_noticed(way, room, since):
    *_, last = await positions_of(room, "a", "b")
    async with client() as peer:
        await asks(peer, room, since)
        assert await peer.texts(1) == [f"recovered False {last}"]


async def test_a_topic_without_history_recovers_nothing(way):
    async with client() as peer:
        await asks(peer, "plain", "1-1")
        assert await peer.texts(1) == ["recovered False None"]


async def test_messages_can_be_sent_with_their_positions(way, room):
    first = await broadcast(room, "seen")
    async with client() as peer:
        positions = [
            await broadcast(room, "text"),
            await broadcast_json(room, {"key": [1]}),
        ]
        await asks(peer, room, first, positions=True)
        found = [json.loads(each) for each in await peer.texts(2)]
        assert await peer.texts(1) == [f"recovered True {positions[-1]}"]
        positions.append(await broadcast(room, b"\x00\xff"))
        found += [json.loads(each) for each in await peer.texts(1)]
        contents = [{"text": "text"}, {"json": {"key": [1]}}, {"bytes": "AP8="}]
        assert found == [
            {"topic": room, "position": position, **content}
            for position, content in zip(positions, contents, strict=True)
        ]
        # The same subscription, as it is by default.
        await asks(peer, room)
        await peer.texts(1)
        await broadcast(room, "plain text")
        assert await peer.texts(1) == ["plain text"]
        await asks(peer, room, positions=True)
        await peer.texts(1)
        await peer.says(json.dumps({"leave": room}))
        await asks(peer, "plain")
        assert await peer.texts(1) == ["recovered False None"]
        await broadcast(room, "not for you")
        await broadcast("plain", "end")
        assert await peer.texts(1) == ["end"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ({"since": 7}, "TypeError: A position is a string"),
        ({"topic": "plain", "positions": True}, "ValueError: positions=True is for topics with"),
    ],
)
async def test_a_subscription_that_cannot_be_meant_is_an_error(way, room, command, expected):
    async with client() as peer:
        await peer.says(json.dumps({"topic": room, **command}))
        assert (await peer.texts(1))[0].startswith(expected)


async def test_a_position_is_refused_before_the_handshake_is_accepted(way, room):
    @websocket_view
    async def early(websocket):
        with pytest.raises(RuntimeError, match="before accept"):
            await websocket.subscribe(room, since="1-1")
        await websocket.accept()
        await websocket.wait_closed()

    async with connected(early):
        assert statistics().topics == 0


async def test_what_is_published_while_a_client_recovers_follows_without_a_hole_or_a_double(
    way, room
):
    first, *_ = await positions_of(room, "seen", *(f"old {number}" for number in range(100)))
    async with client() as peer:
        peer.pause_reading()
        await asks(peer, room, first)
        await peer.is_sent(2)
        for number in range(50):
            await broadcast(room, f"new {number}")
        peer.resume_reading()
        texts = [each for each in await peer.texts(151) if not each.startswith("recovered True")]
        assert texts == [
            *(f"old {number}" for number in range(100)),
            *(f"new {number}" for number in range(50)),
        ]


async def test_what_a_client_reads_serves_its_process_too(way, room, monkeypatch):
    first, second = await positions_of(room, "seen", "missed")
    broker = TopicRegistry.of_this_loop().broker
    read, reads = broker.read, []

    async def counted(*arguments):
        reads.append(arguments)
        return await read(*arguments)

    monkeypatch.setattr(broker, "read", counted)
    async with client() as one, client() as other:
        await asks(one, room, first)
        assert await one.texts(2) == ["missed", f"recovered True {second}"]
        await asks(other, room, second)
        assert await other.texts(1) == [f"recovered True {second}"]
        await broadcast(room, "new")
        assert [await each.texts(1) for each in (one, other)] == [["new"], ["new"]]
    assert len(reads) == 1


async def test_the_first_client_of_its_process_may_have_missed_more_than_is_kept(
    way, room, monkeypatch
):
    monkeypatch.setattr(feed, "_CHUNK", 2)
    first, *_, last = await positions_of(room, "seen", "1", "2", "3", "4", "5")
    async with client() as one, client() as other:
        await asks(one, room, "5-no-position-of-this-topic")
        assert await one.texts(1) == [f"recovered False {last}"]
        await asks(other, room, first)
        assert await other.texts(6) == ["1", "2", "3", "4", "5", f"recovered True {last}"]
        await broadcast(room, "new")
        assert [await each.texts(1) for each in (one, other)] == [["new"], ["new"]]


async def test_the_first_client_of_its_process_reads_in_parts(way, room, monkeypatch):
    monkeypatch.setattr(feed, "_CHUNK", 2)
    first, *_, last = await positions_of(room, "seen", "1", "2", "3", "4", "5")
    async with client() as one:
        await asks(one, room, first)
        assert await one.texts(6) == ["1", "2", "3", "4", "5", f"recovered True {last}"]
        await broadcast(room, "new")
        assert await one.texts(1) == ["new"]


async def test_a_client_that_recovers_slowly_reads_the_history_again(way, room):
    first = await broadcast(room, "seen")
    async with client() as peer:
        peer.pause_reading()
        for number in range(100):
            await broadcast(room, str(number))
        await asks(peer, room, first)
        await peer.is_sent(2)
        # More than are remembered for those who recover, and not more than the history keeps.
        for number in range(100, 290):
            await broadcast(room, str(number))
        peer.resume_reading()
        texts = [each for each in await peer.texts(291) if not each.startswith("recovered True")]
        assert texts == [str(number) for number in range(290)]


async def test_a_client_that_recovers_more_slowly_than_the_history_reaches_back_hears_so(
    way, short
):
    first, *_ = await positions_of(short, "seen", "a", "b", "c")
    async with client() as peer:
        peer.pause_reading()
        await asks(peer, short, first)
        await peer.is_sent(2)
        *_, last = await positions_of(short, *(str(number) for number in range(300)))
        peer.resume_reading()
        texts = await peer.texts(4)
        assert texts == ["a", "b", "c", f"recovered False {last}"]
        await broadcast(short, "new")
        assert await peer.texts(1) == ["new"]


async def test_a_client_that_leaves_while_it_recovers_leaves_nothing_behind(way, room):
    before = len(asyncio.all_tasks())
    first, *_ = await positions_of(room, "seen", *(f"old {number}" for number in range(100)))
    async with connected(resuming, Client) as peer:
        peer.pause_reading()
        await asks(peer, room, first)
        await peer.is_sent(2)
        await peer.leaves()
        await peer.wait()
    assert statistics().topics == 0
    await eventually(lambda: len(asyncio.all_tasks()) == before)


async def test_who_unsubscribes_while_recovering_gets_no_more(way, room):
    first, *_ = await positions_of(room, "seen", *(f"old {number}" for number in range(100)))
    websockets = []

    begins = asyncio.Event()

    @websocket_view
    async def hasty(websocket):
        websockets.append(websocket)
        await websocket.accept()
        await begins.wait()
        await websocket.subscribe(room, since=first)
        await websocket.send("end")
        await websocket.wait_closed()

    async with connected(hasty) as peer:
        peer.pause_reading()
        begins.set()
        await eventually(lambda: statistics().subscriptions == 1)
        await websockets[0].unsubscribe(room)
        peer.resume_reading()
        texts = await peer.texts(1)
        while texts[-1] != "end":
            texts += await peer.texts(1)
        assert len(texts) < 100
        assert statistics().topics == 0


async def test_the_history_is_read_in_parts_and_as_a_whole(way, room):
    positions = await positions_of(room, "a", "b")
    positions += [await broadcast_json(room, {"c": 1}), await broadcast(room, b"d")]
    whole = await history(room)
    assert whole == (
        [*zip(positions, ["a", "b", '{"c": 1}', b"d"], strict=True)],
        positions[3],
        True,
    )
    assert whole.messages[2].json == {"c": 1}
    assert (await history(room, limit=2)).messages == whole.messages[2:]
    part = await history(room, since=positions[0], limit=2)
    assert part == (whole.messages[1:3], positions[2], True)
    assert await history(room, since=part.position) == (whole.messages[3:], positions[3], True)
    assert await history(room, since=positions[3]) == ([], positions[3], True)
    assert await history(room, since="1-1") == ([], positions[3], False)


async def test_a_topic_that_nobody_has_used_has_an_empty_history_from_which_on_one_can_subscribe(
    way, room
):
    empty = await history(room)
    assert (empty.messages, empty.recovered) == ([], True)
    async with client() as peer:
        await broadcast(room, "first")
        await asks(peer, room, empty.position)
        assert (await peer.texts(1)) == ["first"]


async def test_a_history_of_large_messages_is_read_whole(way, room):
    large = "x" * 400_000
    first, *rest = await positions_of(room, "seen", *(large for _ in range(6)))
    found = await history(room, since=first)
    assert [each.position for each in found.messages] == rest


@pytest.mark.parametrize("size", [1, 200_000])
async def test_the_last_messages_are_read_although_they_are_many_or_large(way, size):
    topic = f"long/{next(_names)}"
    many = 1100 if size == 1 else 10
    messages = [f"{number} {'x' * size}" for number in range(many)]
    await positions_of(topic, *messages)
    found = await history(topic)
    assert [each.message for each in found.messages] == messages
    found = await history(topic, limit=many - 2)
    assert [each.message for each in found.messages] == messages[2:]


async def test_a_history_that_loses_what_was_to_be_read_is_read_again(way, monkeypatch, room):
    broker = TopicRegistry.of_this_loop().broker
    read, losses = broker.read, [True]

    async def losing(topic, since, limit):
        log = await read(topic, since, limit)
        return log._replace(is_complete=False) if since and losses.pop() else log

    monkeypatch.setattr(broker, "read", losing)
    large = ["x" * 600_000, "y" * 600_000]
    await positions_of(room, *large)
    losses[:] = [False, True]
    assert [each.message for each in (await history(room)).messages] == large
    losses[:] = [True] * 3
    with pytest.raises(BroadcastError, match="more is published than it keeps"):
        await history(room)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"topic": "plain"}, "'plain' has no history"),
        ({"limit": 0}, "limit is a whole number of messages above 0: got 0"),
        ({"limit": 1.5}, "limit is a whole number"),
    ],
)
async def test_what_is_no_part_of_a_history_is_an_error(way, room, arguments, expected):
    with pytest.raises(ValueError, match=expected):
        await history(**{"topic": room, **arguments})


@override_settings(
    CHANNEL_LAYERS={"default": {"BACKEND": "tests.test_brokers.SharedLayer"}},
    WS_SUPPORT={"TOPICS": RULES},
)
async def test_a_broker_that_keeps_no_history_says_so(room):
    assert await broadcast(room, "a") is None
    with pytest.raises(BroadcastError, match=r"the channel layer .* it keeps no history"):
        await history(room)
    async with client() as peer:
        await asks(peer, room, "1-1")
        assert await peer.texts(1) == ["recovered False None"]
        await broadcast_json(room, {"a": "heard"})
        assert await peer.texts(1) == ['{"a": "heard"}']


async def test_a_client_that_has_gone_while_it_recovers_is_no_error(way, room):
    first, *_ = await positions_of(room, "seen", "a", "b")
    async with connected(resuming) as peer:
        peer.fail_sends(OSError("The client has gone"))
        await asks(peer, room, first)
        await peer.leaves()
        await peer.wait()
    assert statistics().topics == 0


async def test_a_server_that_fails_while_a_client_recovers_ends_its_connection(way, room):
    first, *_ = await positions_of(room, "seen", "a", "b")
    async with connected(resuming) as peer:
        peer.fail_sends(RuntimeError("It is broken"))
        await asks(peer, room, first)
        with pytest.raises(RuntimeError, match="It is broken"):
            await peer.wait()
    assert statistics().topics == 0


async def test_a_server_that_fails_after_the_close_of_a_client_that_recovers_is_no_error(way, room):
    first, *_ = await positions_of(room, "seen", *(f"old {number}" for number in range(100)))
    told = []

    @websocket_view
    async def closing(websocket):
        await websocket.accept()
        recovering = asyncio.create_task(websocket.subscribe(room, since=first))
        await peers[0].is_sent(2)
        closed = asyncio.create_task(websocket.close(4000))
        await asyncio.sleep(0)
        peers[0].fail_sends(RuntimeError("It is closed"))
        told.append(await recovering)
        await asyncio.wait([closed])
        closed.exception()

    peers = []
    async with Client(closing) as peer:
        peers.append(peer)
        await peer.connects()
        await peer.receive_output()
        peer.pause_reading()
        await eventually(lambda: bool(told))
        await peer.leaves()
        await peer.wait()


async def test_a_message_with_its_position_is_written_once_for_all_but_who_is_excluded(way, room):
    async with client() as one, client() as two, client(user=Person(1)) as three:
        for each in (one, two, three):
            await asks(each, room, positions=True)
            await each.texts(1)
        await broadcast(room, "hello", exclude=Person(1))
        last = await broadcast(room, "end")
        for each in (one, two):
            texts = [json.loads(text)["text"] for text in await each.texts(2)]
            assert texts == ["hello", "end"]
        assert json.loads((await three.texts(1))[0])["position"] == last


async def test_the_first_message_of_a_shell_is_warned_of_that_nobody_hears(
    monkeypatch, room, caplog
):
    monkeypatch.setattr("ws_support._topics.brokers.local._Listeners.are_here", False)
    with override_settings(CHANNEL_LAYERS={}, WS_SUPPORT={"TOPICS": RULES}):
        await broadcast(room, "lost")
    assert "Nobody has heard the broadcast under" in caplog.text


async def test_what_the_command_broadcasts_is_kept(on_redis, room):
    said = StringIO()
    await asyncio.to_thread(call_command, "broadcast", room, "text", stdout=said)
    assert said.getvalue().startswith("It is kept in the history. Nobody has subscribed to")
    async with client() as peer:
        await asks(peer, room, positions=True)
        await peer.texts(1)
        await asyncio.to_thread(call_command, "broadcast", room, "[1]", json=True, stdout=said)
        assert json.loads((await peer.texts(1))[0])["json"] == [1]
    assert said.getvalue().endswith("1 process took it.\n")
    assert [each.message for each in (await history(room)).messages] == ["text", "[1]"]


# Everybody but the sender


@pytest.fixture(params=["memory", "redis", "layer"])
def all_ways(request):
    settings = {"CHANNEL_LAYERS": {}}
    if request.param == "layer":
        settings = {"CHANNEL_LAYERS": {"default": {"BACKEND": "tests.test_brokers.SharedLayer"}}}
    if request.param == "redis":
        settings = request.getfixturevalue("redis").settings(BROKER)
    settings.setdefault("WS_SUPPORT", {})["TOPICS"] = RULES
    with override_settings(**settings):
        yield


class Excluding(AsyncWebsocketConsumer):
    """Sends to everybody else under the topic that a message begins with."""

    async def connect(self):
        for topic in self.scope["topics"]:
            await self.subscribe(topic)
        await self.accept()

    async def receive(self, text_data=None, bytes_data=None):
        topic, text = text_data.split()
        who = {"self": self, "id": self.connection_id, "user": self.scope.get("user")}
        await broadcast(topic, text, exclude=who[self.scope["excluding"]])


@pytest.mark.parametrize("excluding", ["self", "id"])
async def test_everybody_but_the_sender_gets_a_message(all_ways, room, excluding):
    scope = {"topics": ["plain", room], "excluding": excluding}
    async with (
        connected(Excluding.as_asgi(), **scope) as one,
        connected(Excluding.as_asgi(), **scope) as two,
    ):
        for topic in ("plain", room):
            await one.says(f"{topic} hello")
            assert await two.texts(1) == ["hello"]
            await broadcast(topic, "for all")
            assert await one.texts(1) == await two.texts(1) == ["for all"]


async def test_everybody_but_a_websocket_gets_a_message(all_ways):
    @websocket_view
    async def view(websocket):
        await websocket.subscribe("plain")
        await websocket.accept()
        async for message in websocket:
            await broadcast("plain", message, exclude=websocket)

    async with connected(view) as one, connected(view) as two:
        await one.says("hello")
        assert await two.texts(1) == ["hello"]
        await two.says("back")
        assert await one.texts(1) == ["back"]


async def test_everybody_but_a_user_gets_a_message(all_ways, room):
    scope = {"topics": ["plain", room], "excluding": "user"}
    ann, ben = Person(1), Person(2)
    async with (
        connected(Excluding.as_asgi(), user=ann, **scope) as one,
        connected(Excluding.as_asgi(), user=ann, **scope) as other_tab,
        connected(Excluding.as_asgi(), user=ben, **scope) as two,
        connected(Excluding.as_asgi(), user=Person(), **scope) as nobody,
        connected(Excluding.as_asgi(), **scope) as unknown,
    ):
        for topic in ("plain", room):
            await one.says(f"{topic} hello")
            for each in (two, nobody, unknown):
                assert await each.texts(1) == ["hello"]
            await broadcast(topic, "for all")
            assert await one.texts(1) == await other_tab.texts(1) == ["for all"]
            for each in (two, nobody, unknown):
                assert await each.texts(1) == ["for all"]


class Unresolved:
    """A lazy user that no middleware has resolved."""

    @property
    def pk(self):
        raise SynchronousOnlyOperation("You cannot call this from an async context")


async def test_a_user_who_cannot_be_known_here_holds_up_nobody(all_ways, room):
    scope = {"topics": ["plain", room], "excluding": "self"}
    async with (
        connected(Excluding.as_asgi(), user=Unresolved(), **scope) as one,
        connected(Excluding.as_asgi(), user=Person(2), **scope) as two,
    ):
        for topic in ("plain", room):
            await broadcast(topic, "hello", exclude=Person(1))
            assert await one.texts(1) == await two.texts(1) == ["hello"]


async def test_who_was_excluded_does_not_recover_the_message(way, room):
    first = await broadcast(room, "seen")
    user = Person(7)
    await broadcast(room, "not for you", exclude=user)
    last = await broadcast(room, "for all")
    async with client(user=user) as peer:
        await asks(peer, room, first)
        assert await peer.texts(2) == ["for all", f"recovered True {last}"]


@pytest.mark.parametrize("who", [Person(), 7, object()])
async def test_who_cannot_be_excluded_is_an_error(who):
    with pytest.raises(TypeError, match="exclude is a consumer"):
        await broadcast("plain", "text", exclude=who)
    with pytest.raises(TypeError, match="exclude is a consumer"):
        broadcast_on_commit("plain", "text", exclude=who)


@pytest.mark.parametrize("who", ["\ud800", "x" * 1000, Person("x" * 70_000)])
async def test_an_id_that_no_message_can_name_fails_alone(all_ways, room, who):
    """A page sends the id of its connection. Messages of the same moment go to Redis together."""
    async with connected(Excluding.as_asgi(), topics=["plain", room]) as peer:
        for topic in ("plain", room):
            sending = [broadcast(topic, "a"), broadcast(topic, "b", exclude=who)]
            results = await asyncio.gather(*sending, return_exceptions=True)
            assert await peer.texts(1) == ["a"]
            assert isinstance(results[1], ValueError)
            assert "exclude" in str(results[1])


async def test_synchronous_code_excludes_as_well(all_ways, room):
    scope = {"topics": ["plain", room], "excluding": "self"}
    ann = Person(1)
    async with (
        connected(Excluding.as_asgi(), user=ann, **scope) as one,
        connected(Excluding.as_asgi(), **scope) as two,
    ):
        for send, message in ((broadcast_sync, "a"), (broadcast_json_sync, "b")):
            await asyncio.to_thread(send, "plain", message, exclude=ann)
        assert await two.texts(2) == ["a", '"b"']
        await broadcast("plain", "for all")
        assert await one.texts(1) == ["for all"]


# Redis that loses something


class Watching(AsyncWebsocketConsumer):
    async def connect(self):
        await self.subscribe(self.scope["topic"])
        await self.accept()


@pytest.fixture
def on_redis(redis):
    with override_settings(**redis.settings(BROKER, options={"TOPICS": RULES})):
        yield redis


async def test_what_came_while_a_process_was_cut_off_from_redis_is_sent_after_it(on_redis, room):
    async with connected(Watching.as_asgi(), topic=room) as peer:
        await broadcast(room, "before")
        assert await peer.texts(1) == ["before"]
        on_redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
        for number in range(10):
            await broadcast(room, str(number))
        assert await peer.texts(10) == [str(number) for number in range(10)]
        await broadcast(room, "after")
        assert await peer.texts(1) == ["after"]


async def test_a_redis_that_has_lost_the_history_is_a_gap_of_which_subscribers_hear(
    on_redis, room, caplog, monkeypatch
):
    monkeypatch.setattr(TopicRegistry, "_logged_at", None)
    async with connected(Watching.as_asgi(), topic=room) as peer:
        await broadcast(room, "before")
        assert await peer.texts(1) == ["before"]
        on_redis.ask("FLUSHALL")
        await broadcast(room, "after")
        assert await peer.receive_output() == {
            "type": "websocket.close",
            "code": 1013,
            "reason": "Messages were lost",
        }
        await peer.leaves()
        await peer.wait()
    assert "The history does not reach back to what came last, or it was lost." in caplog.text


async def test_a_gap_closes_those_who_get_positions_as_well(on_redis, room):
    async with client() as peer:
        await asks(peer, room, positions=True)
        await peer.texts(1)
        await broadcast(room, "before")
        await peer.texts(1)
        on_redis.ask("FLUSHALL")
        await broadcast(room, "after")
        assert (await peer.receive_output())["code"] == 1013
        await peer.leaves()
        await peer.wait()


async def test_a_connection_that_is_cancelled_while_it_leaves_leaves_everything(on_redis, room):
    async with client() as peer:
        await asks(peer, room, positions=True)
        await peer.texts(1)
        assert statistics().subscriptions == 2
        on_redis.pause()
        await peer.leaves()
        await eventually(lambda: statistics().subscriptions == 1)
        peer.cancel()
        await asyncio.sleep(0)
        on_redis.go_on()
        await eventually(lambda: statistics().topics == 0)


async def test_a_position_cannot_be_used_while_redis_is_away(on_redis, room):
    first, _ = await positions_of(room, "seen", "a")
    async with client() as peer:
        on_redis.ask("CONFIG", "SET", "requirepass", "rosebud")
        for kind in ("normal", "pubsub"):
            on_redis.ask("CLIENT", "KILL", "TYPE", kind)
        await asks(peer, room, first)
        (text,) = await peer.texts(1)
        assert text.startswith(f"BroadcastError: The history of {room!r} could not be read from")
        assert statistics().topics == 1


async def test_a_script_that_redis_has_forgotten_is_given_to_it_again(on_redis, room):
    await broadcast(room, "a")
    on_redis.ask("SCRIPT", "FLUSH")
    await asyncio.gather(*(broadcast(room, each) for each in "bcd"))
    assert [each.message for each in (await history(room)).messages] == ["a", "b", "c", "d"]


async def test_what_somebody_else_has_written_into_a_history_is_left_out(redis, room):
    with override_settings(**redis.settings(BROKER, options={"TOPICS": RULES})):
        begin = (await history(room)).position
        first = await broadcast(room, "first")
        async with client() as early, client() as late:
            await asks(early, room)
            await early.texts(1)
            redis.ask("XADD", f"asgi:log:{{{room}}}", "2-5", "p", first, "d", "?strange")
            redis.ask("SET", f"asgi:position:{{{room}}}", "2-5")
            await asks(late, room, begin)
            assert await late.texts(2) == ["first", "recovered True 2-5"]
            await broadcast(room, "new")
            assert await late.texts(1) == await early.texts(1) == ["new"]


async def test_a_position_that_somebody_else_has_overwritten_is_lost_and_told(on_redis, room):
    first = await broadcast(room, "seen")
    for ask in (lambda: history(room), lambda: broadcast(room, "new")):
        on_redis.ask("SET", f"asgi:position:{{{room}}}", "rubbish")
        await ask()
    async with client() as peer:
        await asks(peer, room, first)
        assert (await peer.texts(1))[0].startswith("recovered False ")
        await broadcast(room, "next")
        assert await peer.texts(1) == ["next"]
