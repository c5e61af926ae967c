"""Who is present under a topic: in one process and over Redis."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
import time
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from redis import Redis as Client

from tests.harness import BOUND, ROOT, until
from tests.peers import connected
from tests.redis import BROKER
from tests.test_connection import eventually
from ws_support._topics.brokers import local_presence
from ws_support._topics.brokers.base import BrokerUnavailable
from ws_support._topics.brokers.local_presence import LocalPresence
from ws_support._topics.brokers.redis import presence as redis_presence
from ws_support._topics.presence import table, tracker, watch, worker
from ws_support._topics.presence.entries import (
    Entry,
    difference_topic,
    read_difference,
    write_difference,
)
from ws_support._topics.registry import TopicRegistry
from ws_support._topics.subscriber import Published
from ws_support.broadcast import broadcast
from ws_support.consumers import AsyncWebsocketConsumer
from ws_support.presence import (
    Change,
    Member,
    Members,
    PresenceUnavailable,
    changes,
    members,
    present,
)
from ws_support.websocket import ConnectionClosed, websocket_view

TOPIC = "room/7"


@dataclass
class Person:
    pk: object
    name: str = ""

    def get_username(self):
        return self.name


class Anonymous:
    is_authenticated = False


ANN, BOB = Person(1, "ann"), Person(2, "bob")


@pytest.fixture(params=["memory", "redis"])
def storage(request):
    settings = {"CHANNEL_LAYERS": {}}
    if request.param == "redis":
        settings = request.getfixturevalue("redis").settings(BROKER)
    with override_settings(**settings):
        yield request.param


@pytest.fixture
def on_redis(redis):
    with override_settings(**redis.settings(BROKER)):
        yield redis


@pytest.fixture
def operator(on_redis):
    with Client(port=on_redis.port) as client:
        yield client


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """What other tests have left in memory is not there."""
    LocalPresence.forget()


@pytest.fixture
def quick(monkeypatch):
    """Clocks that run faster, by as much as a busy machine allows."""
    for module in (worker, local_presence, redis_presence):
        monkeypatch.setattr(module, "LEASE", 2.0)
    monkeypatch.setattr(worker, "RENEW_EVERY", 0.3)
    monkeypatch.setattr(worker, "GRACE", 0.2)
    monkeypatch.setattr(tracker, "LOOK_EVERY", 0.2)
    monkeypatch.setattr(tracker, "TRUST", 0.5)
    for module in (worker, tracker):
        monkeypatch.setattr(module, "RETRY_EVERY", 0.1)


class Place:
    """Another event loop, in a thread: a worker of its own, which may stand still."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self._may_run = threading.Event()
        self._may_run.set()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._entered = []

    async def does(self, coroutine):
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    async def present(self, user, **meta):
        presence = present(TOPIC, user=user, meta=meta)
        self._entered.append(presence)
        await self.does(presence.__aenter__())
        return presence

    def stands_still(self):
        self._may_run.clear()
        self.loop.call_soon_threadsafe(self._may_run.wait)

    def goes_on(self):
        self._may_run.set()

    def ends(self):
        self.goes_on()
        asyncio.run_coroutine_threadsafe(self._cancel(), self.loop).result(BOUND)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(BOUND)
        self.loop.close()

    async def _cancel(self):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def place():
    place = Place()
    yield place
    place.ends()


class Follower:
    """What `changes()` tells, and who is present by that."""

    def __init__(self, topic=TOPIC):
        self.topic = topic
        self.told = []
        self.people = {}

    async def follow(self):
        async with aclosing(changes(self.topic)) as differences:
            async for change in differences:
                self.told.append(change)
                for each in (*change.joined, *change.changed):
                    self.people[each.key] = each.entries
                for each in change.left:
                    del self.people[each.key]
                assert change.count == len(self.people)

    @property
    def names(self):
        return [(sorted(e.name for e in c.joined), sorted(e.name for e in c.left))
                for c in self.told if c.joined or c.left]  # fmt: skip


@asynccontextmanager
async def following(topic=TOPIC):
    follower = Follower(topic)
    task = asyncio.create_task(follower.follow())
    await eventually(lambda: follower.told or task.done())
    try:
        yield follower
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def names(topic=TOPIC):
    return [each.name for each in (await members(topic)).members]


async def becomes(expected, topic=TOPIC):
    deadline = time.monotonic() + 2 * BOUND
    while (found := await names(topic)) != expected:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.02)


def task_names():
    return {each.get_name() for each in asyncio.all_tasks()}


# Members


async def test_somebody_is_present_until_the_end_of_the_block_and_a_moment_longer(storage, quick):
    assert await members(TOPIC) == Members(0, [])
    async with present(TOPIC, user=ANN, meta={"page": "chat"}) as presence:
        assert (presence.meta, presence.key) == ({"page": "chat"}, "user:1")
        assert await members(TOPIC) == Members(1, [Member("user:1", 1, "ann", [{"page": "chat"}])])
        assert await members("another") == Members(0, [])
    assert await names() == ["ann"]
    await becomes([])


async def test_a_user_with_three_tabs_is_one_member_with_three_entries(storage):
    for number in range(3):
        await present(TOPIC, user=ANN, meta={"tab": number})
    await present(TOPIC, user=BOB)
    found = await members(TOPIC)
    assert found.count == 2
    assert [each.entries for each in found.members] == [[{"tab": 0}, {"tab": 1}, {"tab": 2}], [{}]]


async def test_somebody_without_a_user_is_a_member_of_their_own(storage):
    first = await present(TOPIC)
    await present(TOPIC, user=Anonymous())
    found = await members(TOPIC)
    assert [(each.user_id, each.name) for each in found.members] == [(None, ""), (None, "")]
    assert found.members[0].key == first.key != found.members[1].key


async def test_a_name_and_a_key_may_be_of_any_kind(storage):
    await present(TOPIC, user=Person("a-b", "x@example.com"), name="Zoë 😀")
    [member] = (await members(TOPIC)).members
    assert (member.key, member.user_id, member.name) == ("user:a-b", "a-b", "Zoë 😀")


async def test_metadata_can_be_replaced(storage):
    async with following() as follower, present(TOPIC, user=ANN, meta={"is": "here"}) as presence:
        await presence.update({"is": "away"})
        assert (await members(TOPIC)).members[0].entries == [{"is": "away"}]
        await eventually(lambda: follower.people == {"user:1": [{"is": "away"}]})
    assert [len(each.changed) for each in follower.told] == [0, 0, 1]


async def test_people_elsewhere_are_present_here(storage, place):
    await place.present(ANN)
    await present(TOPIC, user=ANN)
    await present(TOPIC, user=BOB)
    found = await members(TOPIC)
    assert [(each.name, len(each.entries)) for each in found.members] == [("ann", 2), ("bob", 1)]


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return {"x": value}


def test_metadata_may_be_nested():
    assert present(TOPIC, meta=nested(62)).meta == nested(62)


def test_synchronous_code_may_ask(storage):
    assert async_to_sync(members)(TOPIC) == Members(0, [])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"topic": 7}, TypeError, "A topic is a string"),
        ({"meta": {"x": "y" * 4096}}, ValueError, "up to 4096 bytes as JSON: got 4105"),
        ({"meta": [1]}, TypeError, "is a dictionary"),
        ({"meta": {"x": float("nan")}}, ValueError, "JSON"),
        ({"meta": nested(63)}, ValueError, "nested up to 64 deep"),
        ({"meta": nested(2000)}, ValueError, "nested (too deeply for JSON|up to 64 deep)"),
        ({"meta": {"x": object()}}, TypeError, "JSON"),
        ({"name": 7}, TypeError, "is a string"),
        ({"name": "x" * 256}, ValueError, "up to 255 characters: got 256"),
        ({"user": Person(None)}, ValueError, "save it first"),
    ],
)
def test_what_cannot_be_present_is_refused_at_once(arguments, error, text):
    with pytest.raises(error, match=text):
        present(**{"topic": TOPIC, **arguments})


async def test_a_presence_is_entered_once_and_changed_only_then(storage):
    presence = present(TOPIC, user=ANN)
    assert repr(presence) == "<Presence under 'room/7'>"
    with pytest.raises(RuntimeError, match="not present"):
        await presence.update({})
    async with presence:
        with pytest.raises(RuntimeError, match="only once"):
            await presence
    await presence.leave()
    with pytest.raises(RuntimeError, match="not present"):
        await presence.update({})


async def test_who_is_cancelled_while_entering_leaves(storage, quick):
    async with following() as follower:
        entering = asyncio.create_task(present(TOPIC, user=ANN).__aenter__())
        await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait([entering])
        await eventually(lambda: "presence" not in task_names())
        await eventually(lambda: follower.people == {})


async def test_a_channel_layer_has_no_presence_and_says_what_to_set():
    layer = {"default": {"BACKEND": f"{__name__}.OtherLayer"}}
    with override_settings(CHANNEL_LAYERS=layer):
        for use in (present(TOPIC).__aenter__, lambda: members(TOPIC), changes(TOPIC).__anext__):
            with pytest.raises(ImproperlyConfigured, match=r'Redis in WS_SUPPORT\["BROKER"\]'):
                await use()


class OtherLayer(InMemoryChannelLayer):
    pass


# Changes


async def test_changes_begin_with_everybody_and_go_on_with_what_is_different(storage, quick):
    await present(TOPIC, user=ANN, meta={"tab": 1})
    async with following() as follower:
        ann = Member("user:1", 1, "ann", [{"tab": 1}])
        assert follower.told == [Change([ann], [], [], 1)]
        async with present(TOPIC, user=BOB), present(TOPIC, user=ANN, meta={"tab": 2}):
            both = Member("user:1", 1, "ann", [{"tab": 1}, {"tab": 2}])
            bob = Member("user:2", 2, "bob", [{}])
            await eventually(lambda: len(follower.people) == 2 and len(follower.told) == 3)
            assert follower.told[1:] == [Change([bob], [], [], 2), Change([], [], [both], 2)]
        await eventually(lambda: len(follower.told) == 4)
        assert follower.told[3] == Change([], [bob], [ann], 1)


async def test_a_topic_without_anybody_is_told_as_well(storage):
    async with following() as follower:
        assert follower.told == [Change([], [], [], 0)]


async def test_a_reload_is_no_leave(storage, quick):
    async with following() as follower, present(TOPIC, user=BOB):
        async with present(TOPIC, user=ANN):
            pass
        async with present(TOPIC, user=ANN):
            await eventually(lambda: [len(e) for e in follower.people.values()] == [1, 1])
            await eventually(lambda: len(follower.told) >= 5)
        assert follower.names == [(["bob"], []), (["ann"], [])]


async def test_joins_of_a_moment_are_one_change(storage):
    async with following() as follower:
        for user in (ANN, BOB):
            await asyncio.gather(*(present(TOPIC, user=user).__aenter__() for _ in range(3)))
        await eventually(lambda: len(follower.people) == 2)
        assert follower.told[1:] == [
            Change([Member("user:1", 1, "ann", [{}, {}, {}])], [], [], 1),
            Change([Member("user:2", 2, "bob", [{}, {}, {}])], [], [], 2),
        ]


class Heard:
    """What is published under a topic, in this event loop."""

    def __init__(self):
        self.messages = []
        self.topics = set()
        self.topics_length = 0

    def push(self, published):
        self.messages.append(published.message["text"])
        return False

    def miss(self):
        return False


@asynccontextmanager
async def hearing(topic):
    heard = Heard()
    registry = TopicRegistry.of_this_loop()
    await registry.subscribe(topic, heard)
    yield heard
    await registry.unsubscribe(topic, heard)


async def test_two_thousand_who_join_are_few_changes_of_limited_size(storage, request):
    async with following() as follower, hearing(difference_topic(TOPIC)) as heard:
        people = [present(TOPIC, user=Person(number)) for number in range(2000)]
        await asyncio.gather(*(each.__aenter__() for each in people))
        await eventually(lambda: len(follower.people) == 2000)
        sizes = [len(read_difference(each).joined) for each in heard.messages]
        assert sizes == [500] * 4
        if storage == "redis":
            with Client(port=request.getfixturevalue("redis").port) as operator:
                # A lease, two readings, those changes, and a script that was not known.
                assert operator.info("commandstats")["cmdstat_evalsha"]["calls"] < 15


async def test_large_entries_are_in_changes_of_their_own(storage):
    async with hearing(difference_topic(TOPIC)) as heard:
        people = [present(TOPIC, meta={"x": "y" * 4000}) for number in range(100)]
        await asyncio.gather(*(each.__aenter__() for each in people))
        await eventually(lambda: len(heard.messages) == 2)
        assert all(len(each) < 300_000 for each in heard.messages)


async def test_who_reads_slowly_is_told_of_several_changes_as_one(storage, quick):
    async with aclosing(changes(TOPIC)) as differences:
        await anext(differences)
        async with following() as other:
            await present(TOPIC, user=ANN)
            async with present(TOPIC, user=BOB):
                pass
            await present(TOPIC, user=ANN)
            await eventually(lambda: len(other.told) >= 4 and len(other.people) == 1)
        change = await anext(differences)
        assert ([each.name for each in change.joined], change.left) == (["ann"], [])
        assert len(change.joined[0].entries) == 2


async def test_tasks_run_only_while_there_is_somebody(storage, quick):
    async with following():
        async with present(TOPIC, user=ANN):
            assert {"presence", "presence watch"} <= task_names()
        await eventually(lambda: "presence" not in task_names())
    await eventually(lambda: "presence watch" not in task_names())


async def test_who_comes_back_after_everybody_has_left_is_told(storage, quick):
    async with following() as follower:
        for _ in range(2):
            async with present(TOPIC, user=ANN):
                await eventually(lambda: len(follower.people) == 1)
            await eventually(lambda: not follower.people)
            await eventually(lambda: "presence" not in task_names())
    assert follower.names == [(["ann"], []), ([], ["ann"])] * 2


async def test_two_readers_of_a_topic_are_told_the_same(storage):
    async with following() as one, following() as two:
        await present(TOPIC, user=ANN)
        await eventually(lambda: len(one.told) == len(two.told) == 2)
    assert one.told == two.told


async def test_who_stops_to_read_before_the_first_change_has_subscribed_to_nothing(storage):
    for _ in range(2):
        reading = asyncio.create_task(anext(changes(TOPIC)))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    await eventually(lambda: "presence watch" not in task_names())
    async with following() as follower:
        await present(TOPIC, user=ANN)
        await eventually(lambda: len(follower.people) == 1)


# What is missed


async def test_what_was_missed_is_read_anew(storage, quick, place):
    async with following() as follower:
        registry = TopicRegistry.of_this_loop()
        # As when messages are lost: the subscriber is not there when they come.
        [subscriber] = registry._topics.pop(difference_topic(TOPIC))
        await place.present(ANN)
        registry._topics[difference_topic(TOPIC)] = {subscriber: None}
        await place.present(BOB)  # Its version says that there is a gap.
        await eventually(lambda: len(follower.people) == 2)
        registry._topics.pop(difference_topic(TOPIC))
        await place.present(Person(3, "cid"))
        registry._topics[difference_topic(TOPIC)] = {subscriber: None}
        registry.miss(difference_topic(TOPIC), 1, "Lost.")
        await eventually(lambda: len(follower.people) == 3)
    assert all(each == [] for _, each in follower.names)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"epoch":"","version":1,"joined":7,"left":[]}'])
async def test_what_is_no_difference_does_no_harm(storage, text):
    async with following() as follower:
        await broadcast(difference_topic(TOPIC), text)
        await broadcast(difference_topic(TOPIC), b"\xff")
        await present(TOPIC, user=ANN)
        await eventually(lambda: len(follower.people) == 1)


async def test_what_comes_while_a_state_is_read_is_limited(monkeypatch):
    monkeypatch.setattr(watch, "_EARLY", 1)
    told = []
    one = watch.Watch(TOPIC, lambda: told.append("stale"), lambda: False)
    one.begin_reading()
    for version in (2, 3):
        one.push(Published(TOPIC, {"text": write_difference("e", version, {}, [])}))
    assert (told, one.is_stale) == (["stale"], True)
    one.end_reading("e", 1, {})
    assert one.is_stale


async def test_what_a_reading_has_told_already_is_not_told_again():
    one = watch.Watch(TOPIC, pytest.fail, lambda: False)
    one.begin_reading()
    entry = Entry("user:1", 1, "ann", 0.0, {})
    for version in (5, 6):
        text = write_difference("e", version, {f"w.1:{version}": entry.write()}, [])
        one.push(Published(TOPIC, {"text": text}))
    one.end_reading("e", 5, {"w.1:5": entry})
    assert [member.entries for member in one.members()] == [[{}, {}]]


class Failing:
    """Refuses some changes."""

    def __init__(self, *refused):
        self.refused = set(refused)
        self.taken = []

    async def change(self, topic, joined, left):
        if topic in self.refused:
            raise BrokerUnavailable(topic)
        self.taken.append((topic, sorted(joined), sorted(left)))


async def test_what_could_not_be_told_is_told_the_next_time(monkeypatch):
    monkeypatch.setattr(table, "LANES", 1)
    monkeypatch.setattr(table, "MOST", 2)
    one = table.Table()
    for topic in ("a", "b", "c"):
        for number in range(3):
            one.put(topic, number, "[]")
    one.remove("a", 0)
    one.rename("w.1")
    waiting = [asyncio.create_task(one.until_told(1, BOUND)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BrokerUnavailable, match="a"):
        await one.tell(Failing("a", "b"), "w.2")
    await asyncio.gather(*waiting)
    assert one.has_changes
    storage = Failing()
    await one.tell(storage, "w.2")
    assert not one.has_changes
    assert max(len(joined) + len(left) for _, joined, left in storage.taken) == 2
    told = [(topic, each) for topic, joined, left in storage.taken for each in (*joined, *left)]
    every = [f"{worker}:{number}" for worker in ("w.1", "w.2") for number in range(3)]
    assert sorted(told) == [(topic, each) for topic in "abc" for each in every]


async def test_a_storage_says_how_many_entries_it_keeps(storage):
    kept = TopicRegistry.of_this_loop().broker.presence(TOPIC)
    assert await kept.keep(TOPIC) == {}
    await kept.change(TOPIC, {"w.1:1": "[]", "w.1:2": "[]", "v.1:1": "[]"}, ["w.1:3"])
    await kept.change(TOPIC, {"w.1:1": "[]"}, ["w.1:3"])
    assert await kept.keep(TOPIC) == {"w.1": 2, "v.1": 1}
    await kept.remove(TOPIC, "w.1")
    await kept.remove(TOPIC, "w.1")
    stored = await kept.read(TOPIC)
    assert (stored.version, stored.entries) == (2, {"v.1:1": "[]"})


# Workers that die or stand still


async def test_people_of_a_worker_that_stands_still_are_gone_and_come_back(storage, quick, place):
    await place.present(ANN)
    await present(TOPIC, user=BOB)
    async with following() as follower:
        place.stands_still()
        await becomes(["bob"])
        await eventually(lambda: set(follower.people) == {"user:2"})
        place.goes_on()
        await becomes(["ann", "bob"])
        await eventually(lambda: len(follower.people) == 2)
        assert await place.does(names()) == ["ann", "bob"]
    assert follower.names == [(["ann", "bob"], []), ([], ["ann"]), (["ann"], [])]


async def test_who_has_stood_still_is_told_nothing_wrong(storage, quick, place):
    await place.present(ANN)
    follower = Follower()
    task = asyncio.run_coroutine_threadsafe(follower.follow(), place.loop)
    await present(TOPIC, user=BOB)
    await eventually(lambda: len(follower.people) == 2)
    place.stands_still()
    async with following() as other:
        await eventually(lambda: len(other.people) == 1)
        await present(TOPIC, user=Person(3, "cid"))
        place.goes_on()
        assert await place.does(names()) == ["ann", "bob", "cid"]
        await eventually(lambda: len(follower.people) == len(other.people) == 3)
    assert all(left == [] for _, left in follower.names)
    task.cancel()
    await place.does(asyncio.sleep(0.1))


async def test_who_only_asks_removes_nothing_and_those_who_watch_remove_once(storage, quick, place):
    await asyncio.gather(*(place.present(Person(n), n=n) for n in range(3)))
    await present(TOPIC, user=BOB)
    place.stands_still()
    async with hearing(difference_topic(TOPIC)) as heard:
        await becomes(["bob"])
        assert heard.messages == []
        async with following() as one, following() as other:
            assert list(one.people) == list(other.people) == ["user:2"]
            await eventually(lambda: heard.messages)
        [message] = heard.messages
        assert len(read_difference(message).left) == 3


async def test_who_keeps_a_topic_removes_the_dead_also_if_nobody_looks(
    storage, quick, place, monkeypatch
):
    monkeypatch.setattr(worker, "KEEP_EVERY", 0.5)
    async with hearing(difference_topic(TOPIC)) as heard:
        await place.present(ANN)
        await present(TOPIC, user=BOB)
        place.stands_still()
        await eventually(lambda: len(heard.messages) == 3)
    assert len(read_difference(heard.messages[2]).left) == 1


async def test_a_task_that_was_cancelled_is_there_again_with_the_next_who_comes(storage, quick):
    await present(TOPIC, user=ANN)
    for task in asyncio.all_tasks():
        if task.get_name() == "presence":
            task.cancel()
    await eventually(lambda: "presence" not in task_names())
    assert "ann" in await names()
    await present(TOPIC, user=BOB)
    await becomes(["ann", "bob"])


def test_what_nobody_keeps_in_memory_ends(monkeypatch):
    for name in ("KEEP", "_LOOK_EVERY"):
        monkeypatch.setattr(local_presence, name, 0)
    monkeypatch.setattr(local_presence, "LEASE", 0)
    with override_settings(CHANNEL_LAYERS={}):
        for _ in range(2):
            asyncio.run(present(TOPIC).__aenter__())
            assert (len(LocalPresence._topics), len(LocalPresence._leases)) == (1, 1)


# Connections


class Tab(AsyncWebsocketConsumer):
    channel_layer_alias = None

    async def connect(self):
        await self.present(TOPIC, {"path": self.scope["path"]}, name="Ann")
        await self.accept()

    async def receive(self, text_data=None, bytes_data=None):
        presence = await self.present(text_data)
        await presence.leave()
        await self.send(text_data="left")

    async def disconnect(self, code):
        Tab.names = await names()
        try:
            await self.present(TOPIC)
        except RuntimeError as error:
            Tab.error = str(error)


async def test_a_consumer_is_present_until_its_connection_ends(storage, quick):
    async with connected(Tab.as_asgi(), user=ANN) as tab:
        [member] = (await members(TOPIC)).members
        assert member == Member("user:1", 1, "Ann", [{"path": "/ws"}])
        await tab.says("another")
        assert await tab.texts(1) == ["left"]
        await tab.leaves()
        await tab.wait()
    assert Tab.names == ["Ann"]  # For another moment.
    assert Tab.error == "present() was called after the connection had ended."
    await becomes([])


async def test_an_entry_of_a_consumer_needs_a_connection():
    with pytest.raises(RuntimeError, match="before there is a connection"):
        Tab().present(TOPIC)


async def test_the_entries_of_a_connection_are_limited(storage):
    raised = []

    @websocket_view
    async def view(websocket):
        await websocket.accept()
        async with websocket.present(TOPIC):
            pass
        async with websocket.present(TOPIC), websocket.present(TOPIC):
            try:
                await websocket.present("one more")
            except ValueError as error:
                raised.append(str(error))

    with override_settings(WS_SUPPORT={"MAX_SUBSCRIPTIONS": 2}):
        async with connected(view) as peer:
            await peer.wait()
    assert raised == [
        "One connection may be present 2 times, and is: 'one more' would be one more."
        ' To allow more, raise WS_SUPPORT["MAX_SUBSCRIPTIONS"].'
    ]


async def test_a_websocket_is_present_for_a_block_and_not_after_its_end(storage, quick):
    raised = []

    @websocket_view
    async def view(websocket):
        await websocket.accept()
        async with websocket.present(TOPIC, {"tab": 1}):
            async for _ in websocket:
                await websocket.send(str(await names()))
        try:
            websocket.present(TOPIC)
        except ConnectionClosed as closed:
            raised.append(closed.code)

    async with connected(view, user=ANN) as peer:
        await peer.says("who?")
        assert await peer.texts(1) == ["['ann']"]
        await peer.leaves()
        await peer.wait()
    assert raised == [1001]
    await becomes([])


# Redis that goes away, or loses what it had


async def test_an_outage_is_waited_for_and_nobody_leaves_by_it(on_redis, quick, place, caplog):
    await place.present(BOB)
    async with following() as follower:
        await present(TOPIC, user=ANN)
        await eventually(lambda: len(follower.people) == 2)
        on_redis.stop()
        await eventually(lambda: "is away" in caplog.text)
        for number in (3, 4):
            await asyncio.wait_for(present(TOPIC, user=Person(number, "new")).__aenter__(), 6)
        with pytest.raises(PresenceUnavailable, match=r"^Who is present under 'room/7' cannot be"):
            await members(TOPIC)
        async with aclosing(changes(TOPIC)) as differences:
            reading = asyncio.create_task(anext(differences))
            on_redis.start()
            await becomes(["bob", "ann", "new", "new"])
            await eventually(lambda: len(follower.people) == 4)
            assert (await reading).count >= 1
    assert all(left == [] for _, left in follower.names)


async def test_somebody_who_left_in_an_outage_is_gone_after_it(on_redis, quick, monkeypatch):
    monkeypatch.setattr(watch, "GHOST", 0.5)
    async with following() as follower:
        async with present(TOPIC, user=ANN):
            await eventually(lambda: len(follower.people) == 1)
            on_redis.stop()
        await eventually(lambda: "presence" not in task_names())
        on_redis.start()
        await eventually(lambda: not follower.people)
    assert await names() == []


async def test_redis_without_its_data_is_noticed_and_nobody_leaves(operator, quick, place):
    await place.present(BOB)
    await present(TOPIC, user=ANN)
    async with following() as follower:
        operator.flushall()
        await becomes(["bob", "ann"])
        await eventually(lambda: not follower_has_ghosts())
    assert follower.names == [(["ann", "bob"], [])]


def follower_has_ghosts():
    [found] = [each for each in tracker._trackers.get().values() if each._watches]
    return any(each._ghosts or each.is_stale for each in found._watches.values())


async def test_who_does_not_come_back_is_told_after_a_while(operator, quick, place, monkeypatch):
    monkeypatch.setattr(watch, "GHOST", 1)
    await place.present(BOB)
    await present(TOPIC, user=ANN)
    async with following() as follower:
        place.stands_still()
        operator.flushall()
        await eventually(lambda: len(follower.people) == 1)
    assert follower.names == [(["ann", "bob"], []), ([], ["bob"])]


async def test_what_a_failover_has_lost_is_put_back_and_the_rest_is_kept(
    operator, quick, monkeypatch
):
    monkeypatch.setattr(worker, "KEEP_EVERY", 0.5)
    for user in (ANN, BOB):
        await present(TOPIC, user=user)
    key = f"asgi:presence:{{{difference_topic(TOPIC)}}}"
    async with following() as follower:
        older = {"epoch": "", "version": 1, "workers": {}}
        entries = operator.hgetall(key)
        older["epoch"] = json.loads(entries.pop(b""))["epoch"]
        first = min(entries)
        older["workers"][first.decode().partition(":")[0]] = 1
        with operator.pipeline() as together:
            together.hdel(key, max(entries))
            together.hset(key, "", json.dumps(older))
            together.pexpire(key, 10_000)
            together.execute()
        TopicRegistry.of_this_loop().miss(difference_topic(TOPIC), 1, "A failover.")
        await eventually(lambda: operator.hlen(key) == 3)
        await eventually(lambda: 290_000 < operator.pttl(key) <= 300_000)
        await eventually(lambda: not follower_has_ghosts())
    assert follower.names == [(["ann", "bob"], [])]


async def test_nothing_is_left_in_redis_once_everybody_has_left(operator, quick, monkeypatch):
    monkeypatch.setattr(redis_presence, "KEEP", 3)
    async with present(TOPIC), present("another"):
        assert len([each for each in operator.scan_iter() if b":lease:" in each]) == 1
        assert len([each for each in operator.scan_iter() if b":presence:" in each]) == 2
    await eventually(lambda: not operator.dbsize())


async def test_the_rights_that_the_docs_name_are_enough(operator, on_redis, quick, place):
    page = (ROOT / "docs" / "presence.md").read_text()
    [commands] = re.findall(r"needs the rights `([^`]+)`", page)
    keys = re.findall(r"`(ws_support:[^`]+)`", page)
    operator.acl_setuser(
        "limited", enabled=True, nopass=True, channels=["ws_support:*"], reset_channels=True,
        keys=keys, categories=["+@connection"],
        commands=["+select", "+publish", "+subscribe", "+unsubscribe", *commands.split()],
    )  # fmt: skip
    url = f"redis://limited:x@127.0.0.1:{on_redis.port}/1"
    with override_settings(WS_SUPPORT={"BROKER": url}):
        await place.present(ANN)
        async with following() as follower, present(TOPIC, user=BOB):
            await eventually(lambda: len(follower.people) == 2)
            place.stands_still()
            await becomes(["bob"])
            await eventually(lambda: len(follower.people) == 1)
        await eventually(lambda: not follower.people or "presence" not in task_names())


async def test_the_many_of_a_dead_worker_are_removed_in_several_changes(
    operator, quick, place, monkeypatch
):
    await asyncio.gather(*(place.present(Person(n)) for n in range(5)))
    monkeypatch.setattr(redis_presence, "MOST", 2)
    async with following() as follower, hearing(difference_topic(TOPIC)) as heard:
        place.stands_still()
        await eventually(lambda: not follower.people)
        assert [len(read_difference(each).left) for each in heard.messages] == [2, 2, 1]


async def test_many_leases_are_asked_for_in_several_calls(operator, quick, place, monkeypatch):
    monkeypatch.setattr(redis_presence, "_CHUNK", 1)
    await present(TOPIC)
    await place.present(ANN)
    workers = {each.decode().split(":")[2] for each in operator.keys("*:lease:*")}
    storage = TopicRegistry.of_this_loop().broker.presence(TOPIC)
    assert len(workers) == 2
    assert await storage.living([*workers, "nobody"]) == workers


async def test_topics_are_shared_out_among_several_redis(on_redis, tmp_path, quick):
    other = type(on_redis)(on_redis._program, tmp_path)
    other.start()
    try:
        hosts = [f"redis://127.0.0.1:{each.port}" for each in (on_redis, other)]
        with override_settings(**on_redis.settings(BROKER, hosts=hosts)):
            for number in range(10):
                await present(f"room/{number}", user=ANN)
                assert await names(f"room/{number}") == ["ann"]
        for each in (on_redis, other):
            kinds = {name.split(":")[1] for name in each.names()}
            assert kinds == {"presence", "lease"}
    finally:
        other.stop()


@pytest.mark.slow
def test_people_of_a_worker_that_was_killed_are_gone_within_fifteen_seconds(serve, redis):
    servers = [serve(asgi_server="uvicorn", **redis.settings(BROKER)) for _ in range(2)]
    with ExitStack() as stack:
        tabs = [
            [stack.enter_context(server.connect("/present/room")) for _ in range(count)]
            for server, count in zip(servers, (3, 4), strict=True)
        ]
        assert count_of(tabs[0][0]) == count_of(tabs[1][0]) == 7
        servers[1].process.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        for _ in until("end of those who were killed"):
            if count_of(tabs[0][0]) == 3:
                break
            if time.monotonic() - killed_at > 15:
                pytest.fail("15 s")
            time.sleep(0.5)


def count_of(socket):
    socket.send("how many?")
    return int(socket.recv(BOUND))
