"""`TopicsHub`: what its clients may ask for, what they are sent, and in which order."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import Any, ClassVar

import pytest

from tests.hubs.clients import RAISED, Poller, Socket, User, Web, router, until
from tests.redis import BROKER
from ws_support._hubs import connection as connections
from ws_support._hubs.connection import HubConnection
from ws_support._hubs.messages import Invocation
from ws_support._hubs.topics.follower import Follower
from ws_support._topics import rules
from ws_support._topics.brokers.base import BrokerUnavailable
from ws_support._topics.registry import TopicRegistry
from ws_support._topics.tokens import topic_token
from ws_support.broadcast import broadcast, broadcast_json, statistics
from ws_support.exceptions import BroadcastError
from ws_support.hubs import Hub, TopicsHub, description_of
from ws_support.presence import present
from ws_support.topics import Topic, topic

_names = count()

RULES = {
    "plain/<path:name>": {"may_subscribe": True, "may_publish": True},
    "short/<path:name>": {"may_subscribe": True, "history": 3},
    "secret/<path:name>": {"history": 10},
    "hall/<path:name>": {"may_subscribe": True, "presence": True},
}


class Room(Topic):
    history = 300
    before_snapshot: ClassVar[Any] = None
    """What happens while a snapshot is made."""

    async def may_subscribe(self, user, name):
        return user.pk != "mallory"

    async def may_publish(self, user, message, name):
        return user.pk in ("ann", "bob") and message != "forbidden"

    async def snapshot(self, user, name):
        if self.before_snapshot is not None:
            await type(self).before_snapshot(f"room/{name}")
        return {"for": user.pk}


class Live(Topic):
    """Without a history."""

    async def may_subscribe(self, user, name):
        return True

    async def snapshot(self, user, name):
        await broadcast(f"live/{name}", "meanwhile")
        return "state"


@pytest.fixture(autouse=True)
def room_class(monkeypatch):
    """The rules of each test, of its own, and a log that says each loss."""
    monkeypatch.setattr(rules, "_registry", rules._Registry())
    monkeypatch.setattr(TopicRegistry, "_logged_at", None)
    topic("live/<path:name>")(type("Live", (Live,), {}))
    return topic("room/<path:name>")(type("Room", (Room,), {}))


@pytest.fixture
def options():
    """More keys of `WS_SUPPORT`: tests override it."""
    return {}


@pytest.fixture(params=["memory", "redis"])
def way(request, settings, options):
    """Where histories are kept."""
    settings.CHANNEL_LAYERS = {}
    settings.WS_SUPPORT = {"TOPICS": RULES, **options}
    if request.param == "redis":
        redis = request.getfixturevalue("redis")
        for name, value in redis.settings(BROKER, options=settings.WS_SUPPORT).items():
            setattr(settings, name, value)
    return request.param


@pytest.fixture
def in_memory(settings, options):
    settings.CHANNEL_LAYERS = {}
    settings.WS_SUPPORT = {"TOPICS": RULES, **options}


@pytest.fixture
def room():
    """A name that no other test has: histories in memory outlive a test."""
    return f"room/{next(_names)}"


class Client(Socket):
    """A client of the hub, who is a user."""

    def __init__(self, name: str = "", hub: Any = TopicsHub, protocol: str = "json") -> None:
        super().__init__(router(hub), f"?user={name}" if name else "")
        self.hub = hub
        self._protocol = protocol

    async def __aenter__(self) -> Client:
        await super().__aenter__()
        assert await self.shake_hands(self._protocol) == {}
        return self

    @property
    def record(self) -> HubConnection:
        """The connection of the only client."""
        [record] = description_of(self.hub).manager().connections.values()
        return record

    def follower_of(self, name: str) -> Any:
        """The subscriptions of the client that belongs to this user."""
        records = description_of(self.hub).manager().connections.values()
        [record] = [each for each in records if each.user_identifier == name]
        return Follower.of(record)

    async def subscribe(self, name: str, **options: Any) -> tuple[bool, str | None]:
        result = await self.result("Subscribe", name, options or None)
        return result["recovered"], result["position"]

    async def refusal(self, target: str, *arguments: Any) -> str:
        """The text of the error with which a call is refused."""
        completion = await self.call(target, *arguments)
        before = RAISED.format(target) + " HubException: "
        assert completion.error.startswith(before)
        return completion.error.removeprefix(before)

    async def called(self) -> tuple[str, list[Any]]:
        message = await self.next()
        assert isinstance(message, Invocation), message
        return message.target, message.arguments

    async def message(self) -> list[Any]:
        target, arguments = await self.called()
        assert target == "Message"
        return arguments

    async def nothing(self) -> None:
        """Check that nothing has been sent but the answer to this."""
        self._count += 1
        await self.put_message(Invocation("Unsubscribe", ["nothing"], str(self._count)))
        assert (await self.next()).id == str(self._count)


@pytest.fixture
async def ann(problems):
    async with Client("ann") as client:
        yield client


# Messages


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_a_client_gets_each_message_with_its_position(way, problems, room, protocol):
    async with Client(protocol=protocol) as client:
        recovered, before = await client.subscribe(room)
        assert (recovered, before.partition("-")[0]) == (False, "0")
        for number in range(3):
            position = await broadcast(room, f"{number}")
            assert await client.message() == [room, position, f"{number}"]


@pytest.mark.parametrize(("protocol", "binary"), [("json", "AP8="), ("messagepack", b"\x00\xff")])
async def test_json_is_a_value_text_is_text_and_binary_is_what_hubs_make_of_bytes(
    way, problems, protocol, binary
):
    name = f"plain/{next(_names)}"
    async with Client(protocol=protocol) as client:
        assert await client.subscribe(name) == (False, None)
        await broadcast_json(name, {"a": [1, 2.5, None, "é\x1e"]})
        assert await client.message() == [name, None, {"a": [1, 2.5, None, "é\x1e"]}]
        await broadcast(name, '{"a": 1}')
        assert await client.message() == [name, None, '{"a": 1}']
        await broadcast(name, b"\x00\xff")
        assert await client.message() == [name, None, binary]


@pytest.mark.parametrize("value", [2**70, "\ud800", [[[2**64]]]])
async def test_what_messagepack_cannot_express_is_json_text_there(in_memory, problems, value):
    async with Client(protocol="messagepack") as client:
        await client.subscribe("plain/x")
        await broadcast_json("plain/x", value)
        assert await client.message() == ["plain/x", None, json.dumps(value)]


async def test_a_message_is_written_and_framed_once_for_each_protocol(
    in_memory, problems, monkeypatch
):
    from ws_support._hubs import published
    from ws_support._hubs.topics import written

    counts = []
    value_of, frame = written.value_of, published.text_frame
    monkeypatch.setattr(
        written, "value_of", lambda *given: counts.append("written") or value_of(*given)
    )
    monkeypatch.setattr(
        published, "text_frame", lambda data: counts.append("framed") or frame(data)
    )
    async with Client() as one, Client() as two, Client(protocol="messagepack") as three:
        for client in (one, two, three):
            await client.subscribe("plain/x")
        await broadcast_json("plain/x", 1)
        for client in (one, two, three):
            assert await client.message() == ["plain/x", None, 1]
    assert counts.count("written") == 2
    assert counts.count("framed") <= 1


async def test_who_unsubscribes_gets_no_more(way, ann, room):
    await ann.subscribe(room)
    assert await ann.result("Unsubscribe", room) is None
    await broadcast(room, "late")
    assert await ann.result("Unsubscribe", room) is None
    await ann.nothing()


async def test_a_client_that_has_gone_leaves_its_topics(in_memory, problems, room):
    before = statistics().subscriptions
    async with Client() as client:
        await client.subscribe(room)
        await client.subscribe("plain/x")
        # The hub itself has topics of its own.
        assert statistics().subscriptions >= before + 2
    await until(lambda: statistics().subscriptions == before)


async def test_a_client_over_long_polling_subscribes_as_well(in_memory, problems, room):
    poller = await Poller.connected(Web(router(TopicsHub)))
    assert await poller.shake_hands() == {}
    await poller.result("Subscribe", room, None)
    position = await broadcast(room, "hello")
    assert await poller.next() == Invocation("Message", [room, position, "hello"])
    assert (await poller.web.request("DELETE", poller.query)).status == 202


# Who comes back


async def test_what_was_missed_comes_before_the_answer_and_what_is_new_after_it(
    way, problems, room
):
    since = await broadcast(room, "seen")
    positions = [await broadcast(room, f"missed {number}") for number in range(3)]
    async with Client() as client:
        await client.put_message(Invocation("Subscribe", [room, {"since": since}], "1"))
        for number, position in enumerate(positions):
            assert await client.message() == [room, position, f"missed {number}"]
        answer = await client.next()
        assert answer.result == {"recovered": True, "position": positions[-1]}
        position = await broadcast(room, "new")
        assert await client.message() == [room, position, "new"]


async def test_who_was_away_for_too_long_hears_so_and_gets_what_is_new(way, problems):
    name = f"short/{next(_names)}"
    since = await broadcast(name, "seen")
    for number in range(4):
        last = await broadcast(name, f"missed {number}")
    async with Client() as client:
        assert await client.subscribe(name, since=since) == (False, last)
        position = await broadcast(name, "new")
        assert await client.message() == [name, position, "new"]


async def test_a_position_that_cannot_be_read_is_that_of_another_history(way, ann, room):
    last = await broadcast(room, "seen")
    assert await ann.subscribe(room, since="yesterday") == (False, last)
    lost = {"messages": [], "position": last, "recovered": False, "more": False}
    assert await ann.result("History", room, "yesterday", None) == lost


async def test_a_client_gets_again_what_it_asks_for_again(way, ann, room):
    await ann.subscribe(room)
    since = await broadcast(room, "0")
    positions = [since, await broadcast(room, "1"), await broadcast(room, "2")]
    assert [(await ann.message())[1] for _ in range(3)] == positions
    await ann.put_message(Invocation("Subscribe", [room, {"since": since}], "1"))
    assert [(await ann.message())[1] for _ in range(2)] == positions[1:]
    assert (await ann.next()).result["recovered"] is True


async def test_a_gap_is_told_and_the_connection_lives_on(in_memory, ann, room, problems):
    await ann.subscribe(room)
    await broadcast(room, "before")
    await ann.message()
    feed = TopicRegistry.of_this_loop()._feeds[room]
    feed.position = "7-7"  # Another history than that which is kept.
    position = await broadcast(room, "lost")
    assert await ann.called() == ("Gap", [room, position])
    after = await broadcast(room, "after")
    assert await ann.message() == [room, after, "after"]
    problems.expect("Messages are lost")


async def test_messages_that_are_lost_without_a_history_end_the_connection(in_memory, problems):
    async with Client() as client:
        await client.subscribe("plain/x")
        TopicRegistry.of_this_loop().miss("plain/x", 1, "A test.")
        [end] = await client.until_end()
        assert end.allow_reconnect
        assert client.record.follower.miss() is False
    problems.expect("Messages are lost")


async def test_a_replay_waits_while_the_client_is_behind(in_memory, problems, room, monkeypatch):
    since = await broadcast(room, "seen")
    for _ in range(100):
        last = await broadcast(room, "x" * 10_000)
    async with Client() as client:
        record = client.record
        most = []
        queue = HubConnection._queue

        def queued(self: Any, data: bytes) -> Any:
            most.append(self._outbox_size)
            return queue(self, data)

        monkeypatch.setattr(HubConnection, "_queue", queued)
        assert await client.subscribe(room, since=since) == (True, last)
    assert len(most) > 100
    assert max(most) < 2 * record.options.transport_max_buffer_size


async def test_a_replay_ends_with_its_connection(in_memory, problems, room, monkeypatch):
    since = await broadcast(room, "seen")
    for _ in range(10):
        await broadcast(room, "missed")
    async with Client() as client:
        send_data, record = HubConnection.send_data, client.record

        async def sending(self: Any, data: bytes) -> None:
            await send_data(self, data)
            self.end(connections.End())

        monkeypatch.setattr(HubConnection, "send_data", sending)
        await client.put_message(Invocation("Subscribe", [room, {"since": since}], "1"))
        assert [each.__class__.__name__ for each in await client.until_end()] == [
            "Invocation",
            "Close",
        ]
    await record.wait_closed()


async def test_what_is_published_before_the_answer_does_not_come_behind_its_back(
    in_memory, ann, room, monkeypatch
):
    broker = TopicRegistry.of_this_loop().broker
    subscribe = broker.subscribe
    early = []

    async def subscribing(name: str) -> None:
        await subscribe(name)
        early.append(await broadcast(name, "early"))

    async with Client("bob") as bob:
        await bob.subscribe(room)
        monkeypatch.setattr(broker, "subscribe", subscribing)
        await ann.put_message(Invocation("Subscribe", [room, None], "1"))
        assert (await ann.next()).result == {"recovered": False, "position": early[0]}
        position = await broadcast(room, "new")
        assert await ann.message() == [room, position, "new"]


# Snapshots


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_a_snapshot_is_followed_by_what_it_may_not_have(
    way, problems, room, room_class, protocol
):
    room_class.before_snapshot = lambda name: broadcast(name, "meanwhile")
    before = await broadcast(room, "before")
    async with Client("ann", protocol=protocol) as client:
        await client.put_message(Invocation("Subscribe", [room, {"snapshot": True}], "1"))
        assert await client.called() == ("Snapshot", [room, before, {"for": "ann"}])
        _, position, data = await client.message()
        assert data == "meanwhile"
        assert (await client.next()).result == {"recovered": False, "position": position}


async def test_who_missed_nothing_needs_no_snapshot(way, ann, room):
    since = await broadcast(room, "seen")
    await ann.put_message(Invocation("Subscribe", [room, {"since": since, "snapshot": True}], "1"))
    assert (await ann.next()).result == {"recovered": True, "position": since}


async def test_who_missed_too_much_gets_a_snapshot(way, ann, room, room_class):
    room_class.history = 1
    since = await broadcast(room, "seen")
    await broadcast(room, "lost")
    last = await broadcast(room, "kept")
    room_class.before_snapshot = lambda name: broadcast(name, "meanwhile")
    await ann.put_message(Invocation("Subscribe", [room, {"since": since, "snapshot": True}], "1"))
    assert await ann.called() == ("Snapshot", [room, last, {"for": "ann"}])
    _, position, data = await ann.message()
    assert data == "meanwhile"
    assert (await ann.next()).result == {"recovered": False, "position": position}


async def test_a_snapshot_is_made_again_when_too_much_is_published_meanwhile(
    in_memory, ann, room, room_class
):
    room_class.history = 1
    rounds = iter([2, 0])

    async def publish(name: str) -> None:
        for _ in range(next(rounds)):
            await broadcast(name, "meanwhile")

    room_class.before_snapshot = publish
    await ann.put_message(Invocation("Subscribe", [room, {"snapshot": True}], "1"))
    targets = [(await ann.called())[0] for _ in range(2)]
    assert targets == ["Snapshot", "Snapshot"]
    assert (await ann.next()).result["recovered"] is False
    position = await broadcast(room, "after")
    assert await ann.message() == [room, position, "after"]


async def test_a_snapshot_that_is_always_too_old_is_an_error(in_memory, ann, room, room_class):
    room_class.history = 1

    async def publish(name: str) -> None:
        for _ in range(2):
            await broadcast(name, "meanwhile")

    room_class.before_snapshot = publish
    refusal = await ann.refusal("Subscribe", room, {"snapshot": True})
    assert refusal.startswith("unavailable: Meanwhile, more is published")
    assert room not in ann.record.follower.topics


async def test_without_a_history_messages_come_before_the_snapshot(in_memory, ann):
    await ann.put_message(Invocation("Subscribe", ["live/x", {"snapshot": True}], "1"))
    assert await ann.message() == ["live/x", None, "meanwhile"]
    assert await ann.called() == ("Snapshot", ["live/x", None, "state"])
    assert (await ann.next()).result == {"recovered": False, "position": None}


async def test_a_topic_without_snapshots_says_so(in_memory, ann):
    refusal = await ann.refusal("Subscribe", "plain/x", {"snapshot": True})
    assert refusal == "invalid: This topic has no snapshot."


async def test_what_a_snapshot_raises_leaves_no_subscription(
    in_memory, ann, room, room_class, problems
):
    async def fail(name: str) -> None:
        raise LookupError("the secret")

    room_class.before_snapshot = fail
    assert (await ann.call("Subscribe", room, {"snapshot": True})).error == (
        RAISED.format("Subscribe")
    )
    assert room not in ann.record.follower.topics
    problems.expect("The hub method 'Subscribe' has raised LookupError")


# Who may


FORBIDDEN = "forbidden: There is no such topic for you."
UNPUBLISHED = "forbidden: You may not publish this here."


async def test_forbidden_topics_and_topics_that_are_not_there_look_the_same(
    in_memory, problems, room
):
    async with Client("mallory") as client:
        for name in (room, "nowhere", "secret/x", "", "ws_support.hubs.x:all"):
            for call in (("Subscribe", name, None), ("History", name, None, None)):
                assert await client.refusal(*call) == FORBIDDEN
            assert await client.refusal("Publish", name, "hello", None) == UNPUBLISHED


async def test_a_token_of_the_page_is_a_permission(in_memory, problems):
    async with Client("ann") as client:
        for user in (None, User("ann"), type("", (), {"is_authenticated": False})()):
            await client.subscribe("secret/x", token=topic_token("secret/x", user))
        token = topic_token("without/rules")
        assert await client.subscribe("without/rules", token=token) == (False, None)
        await broadcast("without/rules", "hello")
        assert await client.message() == ["without/rules", None, "hello"]


async def test_a_token_is_for_its_topic_its_user_and_its_time(in_memory, problems):
    good = topic_token("secret/x", User("ann"))
    async with Client("ann") as client:
        for token in (
            topic_token("secret/y", User("ann")),
            topic_token("secret/x", User("bob")),
            topic_token("secret/x", User("ann"), seconds=-1),
            good[:-1],
            "",
            "x" * 5000,
        ):
            assert await client.refusal("Subscribe", "secret/x", {"token": token}) == FORBIDDEN
        assert await client.subscribe("secret/x", token=good)
    async with Client() as client:
        assert await client.refusal("Subscribe", "secret/x", {"token": good}) == FORBIDDEN


async def test_who_may_subscribe_needs_no_good_token(in_memory, ann, room):
    assert await ann.subscribe(room, token="expired")


def test_no_token_is_made_for_what_is_not_for_pages():
    with pytest.raises(ValueError, match="not for pages"):
        topic_token("ws_support.presence:x")
    with pytest.raises(TypeError):
        topic_token(1)  # type: ignore[arg-type]


async def test_without_users_rules_are_asked_for_nobody(in_memory, problems, monkeypatch):
    from ws_support.hubs import HubRouter

    asked = []

    class Public(Topic):
        def may_subscribe(self, user):
            asked.append(user)
            return True

    topic("public")(Public)
    application = HubRouter(None, {"hub": TopicsHub}, middleware=lambda application: application)
    async with Socket(application) as socket:
        await socket.shake_hands()
        await socket.result("Subscribe", "public", None)
        await broadcast("public", "hello", exclude=User("ann"))
        assert (await socket.next()).arguments == ["public", None, "hello"]
    assert asked == [None]


# Publishing


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
@pytest.mark.parametrize("data", ["text", {"a": 1}, [1], None, 7, True])
async def test_a_client_publishes_to_everybody_itself_included(
    in_memory, problems, room, protocol, data
):
    async with Client("ann", protocol=protocol) as ann, Client("bob") as bob:
        await ann.subscribe(room)
        await bob.subscribe(room)
        await ann.put_message(Invocation("Publish", [room, data, None], "1"))
        target, arguments = await ann.called()
        position = (await ann.next()).result
        assert (target, arguments) == ("Message", [room, position, data])
        assert await bob.message() == [room, position, data]


async def test_bytes_of_a_client_are_a_binary_message(in_memory, problems, room):
    async with Client("ann", protocol="messagepack") as client:
        await client.result("Publish", room, b"\xff", None)
        [message] = (await client.result("History", room, None, None))["messages"]
        assert message["data"] == b"\xff"


async def test_who_publishes_may_leave_itself_out(way, problems, room):
    begin = await broadcast(room, "begin")
    async with Client("ann") as ann, Client("bob") as bob:
        await ann.subscribe(room)
        await bob.subscribe(room)
        position = await ann.result("Publish", room, "hello", {"echo": False})
        assert await bob.message() == [room, position, "hello"]
        await ann.nothing()
        # Nor when it looks into the history.
        assert (await ann.result("History", room, begin, None))["messages"] == []
        await ann.result("Unsubscribe", room)
        last = await broadcast(room, "after")
        await ann.put_message(Invocation("Subscribe", [room, {"since": begin}], "1"))
        assert await ann.message() == [room, last, "after"]


async def test_what_was_not_for_a_client_is_not_repeated_to_it(way, problems, room):
    since = await broadcast(room, "seen")
    async with Client("ann") as ann, Client("bob") as bob:
        last = await broadcast(room, "for others", exclude=User("ann"))
        await ann.put_message(Invocation("Subscribe", [room, {"since": since}], "1"))
        assert (await ann.next()).result == {"recovered": True, "position": last}
        await bob.put_message(Invocation("Subscribe", [room, {"since": since}], "1"))
        assert await bob.message() == [room, last, "for others"]


async def test_rules_see_what_is_published(in_memory, ann, room):
    assert await ann.refusal("Publish", room, "forbidden", None) == UNPUBLISHED


async def test_a_topic_without_history_gives_no_position(in_memory, ann):
    assert await ann.result("Publish", "plain/x", "hello", None) is None


async def test_data_that_is_no_json_is_refused(in_memory, problems, room):
    async with Client("ann", protocol="messagepack") as client:
        for data in (float("nan"), {"a": b"bytes"}):
            refusal = await client.refusal("Publish", room, data, None)
            assert refusal.startswith("invalid: The data cannot be sent as JSON: ")


@pytest.mark.parametrize("options", [{"TOPICS_PUBLISH_RATE": 2}])
async def test_who_publishes_too_much_is_refused_for_a_while(in_memory, ann, clock):
    for _ in range(10):
        await ann.result("Publish", "plain/x", "hello", None)
    refusal = "limit: Too many messages at a time."
    assert await ann.refusal("Publish", "plain/x", "hello", None) == refusal
    await clock.forward(0.6)
    await ann.result("Publish", "plain/x", "hello", None)
    assert await ann.refusal("Publish", "plain/x", "hello", None) == refusal


@pytest.mark.parametrize("options", [{"TOPICS_PUBLISH_RATE": 0.01}])
async def test_the_slowest_rate_lets_one_message_through(in_memory, ann):
    await ann.result("Publish", "plain/x", "hello", None)
    assert (await ann.refusal("Publish", "plain/x", "x", None)).startswith("limit:")


@pytest.mark.parametrize("options", [{"TOPICS_PUBLISH_RATE": None}])
async def test_the_rate_need_not_be_limited(in_memory, ann):
    for _ in range(200):
        await ann.result("Publish", "plain/x", "hello", None)


# Histories


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_a_client_reads_the_history(way, problems, room, protocol):
    first = await broadcast(room, "text")
    second = await broadcast_json(room, {"a": 1})
    third = await broadcast_json(room, [2])
    async with Client(protocol=protocol) as client:
        kept = [
            {"position": first, "data": "text"},
            {"position": second, "data": {"a": 1}},
            {"position": third, "data": [2]},
        ]
        whole = {"messages": kept, "position": third, "recovered": True, "more": False}
        assert await client.result("History", room, None, None) == whole
        last = await client.result("History", room, None, 1)
        assert last == {**whole, "messages": kept[2:]}
        following = await client.result("History", room, first, 1)
        assert following == {
            "messages": kept[1:2],
            "position": second,
            "recovered": True,
            "more": True,
        }
        lost = {"messages": [], "position": third, "recovered": False, "more": False}
        assert await client.result("History", room, "1-1", None) == lost


async def test_who_has_subscribed_with_a_token_may_read_the_history(in_memory, ann):
    await broadcast("secret/z", "kept")
    assert await ann.refusal("History", "secret/z", None, None) == FORBIDDEN
    await ann.subscribe("secret/z", token=topic_token("secret/z"))
    assert (await ann.result("History", "secret/z", None, None))["messages"]


async def test_wrong_arguments_are_named(in_memory, ann, room):
    long = "x" * 256
    for call, refusal in [
        (("History", room, None, 0), "limit is a number of messages above 0, or null."),
        (("History", "plain/x", None, None), "This topic has no history."),
        (("Subscribe", long, None), "A topic has up to 255 characters."),
        (("Publish", long, "data", None), "A topic has up to 255 characters."),
    ]:
        assert await ann.refusal(*call) == f"invalid: {refusal}"
    failed = "Failed to invoke 'Subscribe' due to an error on the server."
    assert (await ann.call("Subscribe", room, {"sinse": None})).error == failed


@pytest.mark.parametrize("options", [{"MAX_SUBSCRIPTIONS": 2}])
async def test_a_client_has_so_many_subscriptions_and_no_more(in_memory, ann):
    await ann.subscribe("plain/1")
    await ann.subscribe("plain/2")
    refusal = await ann.refusal("Subscribe", "plain/3", None)
    assert refusal.startswith("limit: A connection may subscribe to 2 topics")
    await ann.subscribe("plain/2")
    await ann.result("Unsubscribe", "plain/1")
    await ann.subscribe("plain/3")


# Presence


class Person(User):
    def get_username(self) -> str:
        return self.pk.title()


class People:
    """Who is there, as a client is told."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self.members: dict[str, list[Any]] = {}
        self.wholes = 0

    async def until(self, **expected: list[Any]) -> None:
        while self.members != expected:
            target, (name, difference) = await self._client.called()
            assert (target, name) == ("Presence", self._name)
            if difference["whole"]:
                self.wholes += 1
                self.members.clear()
            for each in difference["left"]:
                del self.members[each["name"]]
            for each in (*difference["joined"], *difference["changed"]):
                assert each.keys() == {"key", "user_id", "name", "entries"}
                self.members[each["name"]] = each["entries"]
            assert difference["count"] == len(self.members)


@pytest.fixture
def hall(monkeypatch):
    """A name that no other test has, and users with names."""
    monkeypatch.setattr("tests.hubs.clients.User", Person)
    return f"hall/{next(_names)}"


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_clients_hear_who_is_there_and_who_comes_and_goes(way, problems, hall, protocol):
    async with Client("ann", protocol=protocol) as ann:
        await ann.subscribe(hall, presence={"page": 1})
        people = People(ann, hall)
        await people.until(Ann=[{"page": 1}])
        async with Client("bob") as bob, Client("bob") as other:
            await bob.subscribe(hall, presence=True)
            await people.until(Ann=[{"page": 1}], Bob=[{}])
            await other.subscribe(hall, presence={"page": 2})
            await people.until(Ann=[{"page": 1}], Bob=[{}, {"page": 2}])
            found = await ann.result("Members", hall)
            assert found["count"] == 2
            assert [each["name"] for each in found["members"]] == ["Ann", "Bob"]
        await people.until(Ann=[{"page": 1}])
        assert people.wholes == 1


async def test_who_only_watches_is_not_there(in_memory, problems, hall):
    async with Client("ann") as ann, Client("bob") as bob:
        await ann.subscribe(hall, presence="watch")
        people = People(ann, hall)
        await people.until()
        await bob.subscribe(hall, presence=True)
        await people.until(Bob=[{}])
        later = People(ann, hall)
        await ann.put_message(Invocation("Subscribe", [hall, {"presence": "watch"}]))
        await later.until(Bob=[{}])
        assert later.wholes == 1


async def test_a_client_changes_what_it_says_of_itself_and_whether_it_is_there(
    in_memory, problems, hall
):
    async with Client("ann") as ann, Client("bob") as bob:
        await ann.subscribe(hall, presence="watch")
        people = People(ann, hall)
        await bob.subscribe(hall, presence=True)
        await people.until(Bob=[{}])
        await bob.subscribe(hall, presence=True)
        await bob.subscribe(hall, presence={"page": 2})
        await people.until(Bob=[{"page": 2}])
        await bob.subscribe(hall, presence="watch")
        await people.until()
        await bob.subscribe(hall, presence={"page": 3})
        await people.until(Bob=[{"page": 3}])
        await bob.subscribe(hall)
        await people.until()
        assert hall in bob.follower_of("bob").topics


async def test_who_leaves_at_once_was_never_there(in_memory, problems, hall):
    async with Client("ann") as ann, Client("bob") as bob:
        await bob.subscribe(hall)
        follower = ann.follower_of("ann")
        await ann.subscribe(hall)
        await follower.attend(hall, {})
        await follower.leave(hall)
        await follower.leave(hall)
        assert (await bob.result("Members", hall))["members"] == []


async def test_presence_is_written_once_for_all_who_hear_of_it(
    in_memory, problems, hall, monkeypatch
):
    from ws_support._hubs.topics import watching

    counts = []
    sendable = watching.sendable
    monkeypatch.setattr(watching, "sendable", lambda *given: counts.append(1) or sendable(*given))
    async with Client() as one, Client() as two, Client("ann") as ann:
        for client in (one, two):
            await client.subscribe(hall, presence="watch")
        for client in (one, two):
            await People(client, hall).until()
        counts.clear()
        await ann.result("Subscribe", hall, {"presence": True})
        for client in (one, two):
            await People(client, hall).until(Ann=[{}])
    assert counts in ([1] * 3, [1] * 6)  # For each list; and the whole for Ann herself.


async def test_metadata_that_messagepack_cannot_express_are_json_text_there(
    in_memory, problems, hall
):
    client = Client(protocol="messagepack")
    async with present(hall, name="Ann", meta={"big": 2**70}), client:
        await client.subscribe(hall, presence="watch")
        await People(client, hall).until(Ann=[json.dumps({"big": 2**70})])


async def test_presence_needs_rules_that_have_it_and_good_metadata(in_memory, ann, room, hall):
    none = "invalid: This topic has no presence."
    assert await ann.refusal("Subscribe", room, {"presence": True}) == none
    assert await ann.refusal("Members", room) == none
    large = {"page": "x" * 5000}
    refusal = await ann.refusal("Subscribe", hall, {"presence": large})
    assert refusal.startswith("invalid: The metadata of an entry has up to 4096 bytes")
    deep: Any = {}
    for _ in range(64):
        deep = {"in": deep}
    refusal = await ann.refusal("Subscribe", hall, {"presence": deep})
    assert refusal.startswith("invalid: The metadata of an entry is nested up to 64 deep")
    assert await ann.refusal("Members", "nowhere") == FORBIDDEN


async def test_metadata_may_change_in_the_moment_of_the_leave(in_memory, ann, hall):
    ann.record.scope["user"] = Person("ann")
    calls = [("Subscribe", hall, {"presence": {"n": number}}) for number in range(2)]
    calls = [*calls, ("Unsubscribe", hall)]
    await ann.put_message(
        *(Invocation(target, each, f"{at}") for at, (target, *each) in enumerate(calls))
    )
    while getattr(await ann.next(), "id", "") != "2":
        pass
    await until(lambda: not [each for each in asyncio.all_tasks() if "_update" in repr(each)])


async def test_members_cannot_be_read_in_an_outage(in_memory, ann, hall, monkeypatch):
    async def fail(*_: Any) -> None:
        raise BrokerUnavailable("it is away")

    monkeypatch.setattr(TopicRegistry.of_this_loop().broker.presence(hall), "read", fail)
    assert await ann.refusal("Members", hall) == "unavailable: The broker does not answer."


# Outages


@pytest.fixture
def away(monkeypatch):
    """Have the broker fail."""

    def fail() -> None:
        async def failing(*_: Any) -> None:
            raise BrokerUnavailable("it is away")

        broker = TopicRegistry.of_this_loop().broker
        for name in ("append", "publish", "read"):
            monkeypatch.setattr(broker, name, failing)

    return fail


async def test_an_outage_is_an_error_and_leaves_no_subscription(in_memory, ann, room, away):
    since = await broadcast(room, "seen")
    away()
    refusal = "unavailable: The broker does not answer."
    for call in [
        ("Subscribe", room, None),
        ("Subscribe", room, {"since": "1-1"}),
        ("Subscribe", room, {"snapshot": True}),
        ("Publish", room, "hello", None),
        ("Publish", "plain/x", "hello", None),
        ("History", room, since, None),
    ]:
        assert await ann.refusal(*call) == refusal
    assert ann.record.follower.topics == set()


async def test_an_outage_ends_no_subscription_that_there_was(in_memory, ann, room, away):
    since = await broadcast(room, "seen")
    await broadcast(room, "next")
    await ann.subscribe(room)
    away()
    refusal = await ann.refusal("Subscribe", room, {"since": since})
    assert refusal.startswith("unavailable:")
    assert ann.record.follower.topics == {room}


async def test_a_gap_before_the_subscription_is_not_told(in_memory, ann, room):
    await ann.subscribe("plain/x")
    follower = ann.record.follower
    with follower._withheld(room):
        follower.gap(room, "1-1")
        follower.gap("plain/x", "2-2")
    assert await ann.called() == ("Gap", ["plain/x", "2-2"])
    ann.record.end(connections.End())
    follower.tell("Gap", "plain/x", "3-3")
    assert [each.__class__.__name__ for each in await ann.until_end()] == ["Close"]


# In a hub of one's own


class Feeds(Hub):
    async def follow(self, name, since):
        return list(await self.topics.subscribe(name, since))

    async def leave(self, name):
        await self.topics.unsubscribe(name)

    async def on_disconnected(self, error):
        with pytest.raises(RuntimeError, match="after the connection had ended"):
            await self.topics.subscribe("too late")


async def test_a_hub_subscribes_its_client_and_no_rule_is_asked(way, problems):
    name = f"secret/{next(_names)}"
    async with Client(hub=Feeds) as client:
        assert (await client.result("Follow", name, None))[0] is False
        first = await broadcast(name, "one")
        second = await broadcast_json(name, {"two": 2})
        assert await client.message() == [name, first, "one"]
        assert await client.message() == [name, second, {"two": 2}]
        await client.result("Leave", name)
        await broadcast(name, "not for this client")
        assert await client.result("Follow", "plain", None) == [False, None]
        await broadcast("plain", "end")
        assert await client.message() == ["plain", None, "end"]
    await until(lambda: statistics().topics == 0)


async def test_a_client_of_a_hub_gets_what_it_has_missed_before_the_answer(way, problems, room):
    since = await broadcast(room, "seen")
    missed = [await broadcast(room, text) for text in ("one", "two")]
    async with Client(hub=Feeds) as client:
        await client.put_message(Invocation("Follow", [room, since], "1"))
        assert await client.message() == [room, missed[0], "one"]
        assert await client.message() == [room, missed[1], "two"]
        assert (await client.next()).result == [True, missed[1]]


async def test_what_a_hub_cannot_subscribe_to_is_an_error_of_its_own(
    in_memory, problems, room, monkeypatch
):
    async def away(*_):
        raise BrokerUnavailable("the test says so")

    class Careful(Feeds):
        async def follow(self, name, since):
            with pytest.raises(TypeError, match="A topic is a string"):
                await self.topics.subscribe(7)
            with pytest.raises(ValueError, match="A topic has up to"):
                await self.topics.subscribe("x" * 2**20)
            with pytest.raises(TypeError, match="A position is a string"):
                await self.topics.subscribe(name, since=7)
            monkeypatch.setattr(TopicRegistry, "subscribe", away)
            with pytest.raises(BroadcastError, match="the test says so"):
                await self.topics.subscribe(name, since="1-1")
            return "all"

    async with Client(hub=Careful) as client:
        assert await client.result("Follow", room, None) == "all"


def test_a_test_may_put_topics_of_its_own_into_a_hub():
    hub = Feeds()
    hub.topics = "of the test"
    assert hub.topics == "of the test"
