"""The broker on a channel layer: gaps, lanes and outages, with layers that misbehave."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import ClassVar

import pytest
from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer
from django.test import override_settings

from tests.peers import connected
from tests.test_broadcast import KnownPeer, received
from tests.test_connection import eventually
from ws_support._topics.brokers.channel_layer.listener import Listener
from ws_support._topics.gaps import Gaps
from ws_support._topics.outages import Outages
from ws_support._topics.registry import TopicRegistry
from ws_support.broadcast import BroadcastError, broadcast, statistics
from ws_support.consumers import AsyncWebsocketConsumer
from ws_support.websocket import websocket_view

BOUND = 10


class SlowLayer(InMemoryChannelLayer):
    """Channels' own in memory, which is taken for one between processes. As slow as a network."""

    async def group_add(self, group, channel):
        await asyncio.sleep(0.02)
        await super().group_add(group, channel)

    async def group_discard(self, group, channel):
        await asyncio.sleep(0.02)
        await super().group_discard(group, channel)


class BrokenLayer(SlowLayer):
    """Takes subscriptions, and no message."""

    async def group_send(self, group, message):
        raise RuntimeError("out of order")


class GoingLayer(InMemoryChannelLayer):
    """Once `goes()` was called, whoever receives from it hears that it is away."""

    def __init__(self):
        super().__init__()
        self._end = asyncio.get_running_loop().create_future()

    def goes(self):
        self._end.set_exception(ConnectionRefusedError())

    async def receive(self, channel):
        await self._end


def layer(kind):
    backend = f"{__name__}.{kind.__name__}"
    return override_settings(CHANNEL_LAYERS={"default": {"BACKEND": backend}})


class Subscriber(AsyncWebsocketConsumer):
    channel_layer_alias = None
    subscriptions = ["topic"]


@layer(SlowLayer)
async def test_a_message_comes_through_the_layer_as_it_is():
    async with connected(Subscriber.as_asgi()) as peer:
        await broadcast("topic", "text")
        await broadcast("topic", b"binary")
        assert [await received(peer), await received(peer)] == ["text", b"binary"]


@layer(SlowLayer)
async def test_who_comes_back_while_the_last_one_is_leaving_is_subscribed():
    @websocket_view
    async def restless(websocket):
        await websocket.accept()
        for topic in ("topic", "another"):
            await websocket.subscribe(topic)
        leaving = asyncio.create_task(websocket.unsubscribe("topic"))
        await asyncio.sleep(0.01)
        await websocket.subscribe("topic")
        await leaving
        await websocket.subscribe("topic")
        await websocket.send("ready")
        await websocket.wait_closed()

    async with connected(restless) as peer:
        assert await received(peer) == "ready"
        await broadcast("topic", "still here")
        assert await received(peer) == "still here"


@layer(SlowLayer)
async def test_who_comes_back_in_the_turn_in_which_the_last_one_leaves_is_subscribed():
    @websocket_view
    async def restless(websocket):
        await websocket.accept()
        for topic in ("topic", "another"):
            await websocket.subscribe(topic)
        leaving = asyncio.create_task(websocket.unsubscribe("topic"))
        coming = asyncio.create_task(websocket.subscribe("topic"))
        await asyncio.gather(leaving, coming)
        await websocket.send("ready")
        await websocket.wait_closed()

    async with connected(restless) as peer:
        assert await received(peer) == "ready"
        await broadcast("topic", "still here")
        assert await received(peer) == "still here"


@layer(SlowLayer)
async def test_who_leaves_before_it_was_subscribed_leaves_nothing_behind():
    @websocket_view
    async def hasty(websocket):
        await websocket.accept()
        await websocket.subscribe("another")
        subscribing = asyncio.create_task(websocket.subscribe("topic"))
        await asyncio.sleep(0)
        await websocket.unsubscribe("topic")
        await subscribing
        await websocket.send("ready")
        await websocket.wait_closed()

    before = len(asyncio.all_tasks())
    async with connected(hasty) as peer:
        assert await received(peer) == "ready"
        assert statistics().topics == 1
    assert statistics().topics == 0
    assert len(asyncio.all_tasks()) == before


@layer(SlowLayer)
async def test_the_only_one_who_leaves_before_it_was_subscribed_leaves_nothing_behind():
    @websocket_view
    async def hasty(websocket):
        await websocket.accept()
        subscribing = asyncio.create_task(websocket.subscribe("topic"))
        await asyncio.sleep(0)
        await websocket.unsubscribe("topic")
        await subscribing

    before = len(asyncio.all_tasks())
    async with connected(hasty) as peer:
        await peer.receive_output()
        await peer.wait()
    assert statistics().topics == 0
    assert len(asyncio.all_tasks()) == before


@layer(SlowLayer)
@override_settings(WS_SUPPORT={"BROADCAST_QUEUE": 4})
async def test_messages_that_come_in_one_go_give_a_client_that_reads_its_turn():
    class Slow(KnownPeer):
        __module__ = KnownPeer.__module__

        async def serve_send(self, message):
            await asyncio.sleep(0)
            await super().serve_send(message)

    async with connected(Subscriber.as_asgi(), Slow) as peer:
        await asyncio.gather(*(broadcast("topic", str(number)) for number in range(50)))
        texts = [await received(peer) for _ in range(50)]
        assert sorted(texts, key=int) == [str(number) for number in range(50)]


@layer(BrokenLayer)
async def test_a_layer_that_fails_is_named_in_the_error():
    with pytest.raises(BroadcastError, match=r"'topic'.*CHANNEL_LAYERS.*out of order"):
        await broadcast("topic", "message")


@layer(SlowLayer)
async def test_what_comes_after_the_end_of_a_connection_goes_nowhere():
    class Lingering(Subscriber):
        async def disconnect(self, code):
            await broadcast("topic", "late")

    async with connected(Lingering.as_asgi()) as peer:
        await peer.leaves()
        await peer.wait()
        assert await peer.receive_nothing(0)


class LossyLayer(SlowLayer):
    """Takes messages and loses those that it is told to, as Redis does when too many wait."""

    is_losing = False

    async def group_send(self, group, message):
        if not self.is_losing or "probe" in group:
            await super().group_send(group, message)


@pytest.fixture
def lossy(monkeypatch):
    monkeypatch.setattr("ws_support._topics.registry.TopicRegistry._logged_at", None)

    @contextmanager
    def losing():
        monkeypatch.setattr(LossyLayer, "is_losing", True)
        yield
        monkeypatch.setattr(LossyLayer, "is_losing", False)

    with layer(LossyLayer):
        yield losing


async def test_subscribers_are_closed_with_1013_when_messages_for_them_were_lost(lossy, caplog):
    before = statistics()
    async with (
        connected(Subscriber.as_asgi()) as peer,
        connected(Subscriber.as_asgi()) as another,
    ):
        await broadcast("topic", "heard")
        with lossy():
            await broadcast("topic", "lost")
            await broadcast("topic", "lost, too")
        await broadcast("topic", "after")
        for each in (peer, another):
            assert await received(each) == "heard"
            close = await each.receive_output()
            assert (close["code"], close["reason"]) == (1013, "Messages were lost")
            await each.wait()
    now = statistics()
    assert (now.lost - before.lost, now.dropped - before.dropped) == (2, 2)
    (record,) = [each for each in caplog.records if "lost" in each.message]
    assert "2 under the topic 'topic'" in record.message
    assert "capacity of 10000" in record.message


async def test_what_is_lost_under_many_topics_is_counted_and_one_line_in_the_log(lossy, caplog):
    class Both(Subscriber):
        subscriptions = ["topic", "another"]

    before = statistics()
    async with connected(Both.as_asgi()) as peer:
        await broadcast("topic", "1")
        await broadcast("another", "2")
        with lossy():
            await broadcast("topic", "lost")
            await broadcast("another", "lost")
        assert [await received(peer), await received(peer)] == ["1", "2"]
        await broadcast("topic", "after")
        await broadcast("another", "after")
        assert (await peer.receive_output())["code"] == 1013
        await eventually(lambda: statistics().lost - before.lost == 2)
        await peer.wait()
    assert statistics().dropped - before.dropped == 1
    assert caplog.text.count("Messages are lost") == 1


async def test_who_has_left_a_topic_has_missed_nothing_in_between(lossy):
    @websocket_view
    async def restless(websocket):
        await websocket.accept()
        await websocket.subscribe("another")
        async for _ in websocket:
            await websocket.subscribe("topic")
            await websocket.send("subscribed")
            await websocket.receive()
            await websocket.unsubscribe("topic")
            await websocket.send("unsubscribed")

    async with connected(restless) as peer:
        for number in range(2):
            await peer.says("subscribe")
            assert await received(peer) == "subscribed"
            await broadcast("topic", f"heard {number}")
            assert await received(peer) == f"heard {number}"
            await peer.says("unsubscribe")
            assert await received(peer) == "unsubscribed"
            await broadcast("topic", "not for you")


async def test_a_message_that_was_taken_with_an_error_is_no_gap(lossy, monkeypatch):
    class Doubtful(LossyLayer):
        async def group_send(self, group, message):
            await super().group_send(group, message)
            if message.get("text") == "doubtful":
                raise RuntimeError("after it was taken")

    monkeypatch.setattr(f"{__name__}.LossyLayer", Doubtful)
    async with connected(Subscriber.as_asgi()) as peer:
        await broadcast("topic", "1")
        with pytest.raises(BroadcastError):
            await broadcast("topic", "doubtful")
        await broadcast("topic", "2")
        await broadcast("topic", "3")
        assert await peer.texts(4) == ["1", "doubtful", "2", "3"]


def test_publishers_are_forgotten_in_turn_and_nothing_is_missed_from_who_is_new():
    gaps = Gaps()
    # The same number again, and one that starts again with 1.
    for number, lost in [(7, 0), (9, 1), (9, 0), (1, 0), (2, 0), (4, 1)]:
        assert gaps.lost_before("topic", "first", number) == lost
    for number in range(64):
        assert gaps.lost_before("topic", f"publisher {number}", 2) == 0
    assert gaps.lost_before("topic", "first", 9) == 0
    assert gaps.lost_before("topic", "first", 11) == 1


def test_a_message_that_comes_again_late_is_no_gap():
    gaps = Gaps()
    assert [gaps.lost_before("topic", "one", number) for number in (5, 6, 7, 5, 8)] == [0] * 5


def test_a_publisher_that_goes_on_is_remembered_however_many_others_come_and_go():
    gaps = Gaps()
    assert gaps.lost_before("topic", "one of many", 1) == 0
    for number in range(3, 201, 2):
        assert gaps.lost_before("topic", f"another {number}", 1) == 0
        assert gaps.lost_before("topic", "one of many", number) == 1


class RecordingLayer(SlowLayer):
    """Keeps what it was given."""

    sent = []

    async def group_send(self, group, message):
        self.sent.append(message)


@layer(RecordingLayer)
async def test_synchronous_code_counts_its_messages_from_call_to_call(monkeypatch):
    sent, loops = [], []
    monkeypatch.setattr(RecordingLayer, "sent", sent)

    async def publish():
        loops.append(asyncio.get_running_loop())  # One that is closed may be referred to.
        await broadcast("topic", "of another")

    await broadcast("topic", "of this loop")
    for _ in range(3):
        # In a thread that no event loop has started: a loop for each call.
        await asyncio.to_thread(async_to_sync(publish))
    await broadcast("topic", "of this loop")
    first, *others, last = [(each["publisher"], each["number"]) for each in sent]
    assert first[0] == last[0]
    assert last[1] == first[1] + 1
    assert len({publisher for publisher, _ in others} - {first[0]}) == 1
    start = others[0][1]
    assert [number for _, number in others] == [start, start + 1, start + 2]


@layer(RecordingLayer)
async def test_a_topic_that_was_silent_for_the_longest_is_forgotten_and_starts_again(monkeypatch):
    monkeypatch.setattr("ws_support._topics.brokers.numbers._NUMBERED", 2)
    # Not those of a loop that is closed, which have other topics.
    monkeypatch.setattr("ws_support._topics.brokers.numbers.Numbers._all", [])
    sent = []
    monkeypatch.setattr(RecordingLayer, "sent", sent)
    for topic in ("one", "two", "one", "three", "one", "two"):
        await broadcast(topic, "message")
    assert [(each["topic"], each["number"]) for each in sent[:1] + sent[2:3] + sent[4:]] == [
        ("one", sent[0]["number"]),
        ("one", sent[0]["number"] + 1),
        ("one", sent[0]["number"] + 2),
        ("two", 1),
    ]


async def test_who_starts_again_with_a_topic_misses_nothing(lossy, monkeypatch):
    monkeypatch.setattr("ws_support._topics.brokers.numbers._NUMBERED", 1)
    async with connected(Subscriber.as_asgi()) as peer:
        for number in range(3):
            await broadcast("topic", str(number))
            await broadcast("nobody's", "message")
        assert await peer.texts(3) == ["0", "1", "2"]
        assert await peer.receive_nothing(0)


class CrowdedLayer(SlowLayer):
    """Knows how many messages were handed to it at the same time."""

    now = most = 0

    async def group_send(self, group, message):
        kind = CrowdedLayer
        kind.now += 1
        kind.most = max(kind.most, kind.now)
        await asyncio.sleep(0.001)
        kind.now -= 1


@layer(CrowdedLayer)
async def test_no_more_than_eight_messages_are_handed_over_at_the_same_time():
    await asyncio.gather(*(broadcast(f"topic {number}", "message") for number in range(200)))
    assert 1 < CrowdedLayer.most <= 8


class RestartedLayer(LossyLayer):
    """Is away, for a moment, for whoever would receive one of its messages."""

    async def receive(self, channel):
        message = await super().receive(channel)
        if message.get("text") == "lost with it":
            raise ConnectionError("started anew")
        return message


async def test_what_is_lost_while_the_layer_is_away_is_no_gap(lossy, monkeypatch, caplog):
    caplog.set_level("WARNING", "ws_support.channel_layer")
    monkeypatch.setattr(f"{__name__}.LossyLayer", RestartedLayer)
    async with connected(Subscriber.as_asgi()) as peer:
        await broadcast("topic", "heard")
        assert await received(peer) == "heard"
        await broadcast("topic", "lost with it")
        await eventually(lambda: "is away" in caplog.text)
        await eventually(lambda: "is back" in caplog.text)
        await broadcast("topic", "after")
        assert await received(peer) == "after"


class BackloggedLayer(InMemoryChannelLayer):
    """Has many messages that wait, and hands them out slowly."""

    async def receive(self, channel):
        await asyncio.sleep(0.01)
        return await super().receive(channel)


@layer(BackloggedLayer)
async def test_a_probe_behind_many_messages_is_no_outage(monkeypatch, caplog):
    for name, value in {"_TURN": 0.05, "_MOST_TURNS": 1000, "_PROBE_EVERY": 0.01}.items():
        monkeypatch.setattr(f"ws_support._topics.brokers.channel_layer.listener.{name}", value)
    async with connected(Subscriber.as_asgi()) as peer:
        await asyncio.gather(*(broadcast("topic", str(number)) for number in range(100)))
        assert [await received(peer) for _ in range(100)] == [str(number) for number in range(100)]
    assert "is away" not in caplog.text


class ForgetfulLayer(InMemoryChannelLayer):
    """Loses the probe of each process, and nothing else, until it is told again."""

    forgets = True

    async def group_send(self, group, message):
        if not (ForgetfulLayer.forgets and "probe" in group):
            await super().group_send(group, message)


@layer(ForgetfulLayer)
async def test_a_probe_that_is_lost_is_noticed_although_other_messages_come(monkeypatch, caplog):
    for name, value in {"_TURN": 0.05, "_PROBE_EVERY": 0.01, "_RETRY_EVERY": 0.01}.items():
        monkeypatch.setattr(f"ws_support._topics.brokers.channel_layer.listener.{name}", value)

    async def go_on():
        while True:
            await broadcast("topic", "on and on")
            await asyncio.sleep(0.01)

    async with connected(Subscriber.as_asgi()):
        broadcasting = asyncio.create_task(go_on())
        await eventually(lambda: "is away" in caplog.text)
        monkeypatch.setattr(ForgetfulLayer, "forgets", False)
        await eventually(lambda: "is back" in caplog.text)
        broadcasting.cancel()


@layer(ForgetfulLayer)
async def test_a_probe_that_is_lost_while_nothing_else_comes_is_noticed(monkeypatch, caplog):
    for name, value in {"_TURN": 0.05, "_PROBE_EVERY": 0.01, "_RETRY_EVERY": 0.01}.items():
        monkeypatch.setattr(f"ws_support._topics.brokers.channel_layer.listener.{name}", value)
    async with connected(Subscriber.as_asgi()):
        await eventually(lambda: "is away: messages do not come back from it" in caplog.text)
        monkeypatch.setattr(ForgetfulLayer, "forgets", False)
        await eventually(lambda: "is back" in caplog.text)


class InterruptedLayer(InMemoryChannelLayer):
    """Fails to receive, once, while it is sent to."""

    joined: ClassVar[list[str]] = []

    def __init__(self):
        super().__init__()
        self._fails = asyncio.Event()
        self._has_failed = asyncio.Event()

    async def receive(self, channel):
        if self._has_failed.is_set():
            return await super().receive(channel)
        await self._fails.wait()
        self._has_failed.set()
        raise ConnectionError("closed")

    async def group_add(self, group, channel):
        self.joined.append(group)
        await super().group_add(group, channel)

    async def group_send(self, group, message):
        self._fails.set()
        await self._has_failed.wait()
        await super().group_send(group, message)


@layer(InterruptedLayer)
async def test_an_outage_is_over_when_all_is_subscribed_to_again_and_not_before(
    monkeypatch, caplog
):
    for name in ("_PROBE_EVERY", "_RETRY_EVERY"):
        monkeypatch.setattr(f"ws_support._topics.brokers.channel_layer.listener.{name}", 0.01)
    async with connected(Subscriber.as_asgi()):
        await eventually(lambda: "is back" in caplog.text)
        assert InterruptedLayer.joined.count("ws_support.topic") > 1


class AwayLayer(SlowLayer):
    """Takes nothing, and counts what it was asked for."""

    asked = 0

    async def group_send(self, group, message):
        AwayLayer.asked += 1
        await asyncio.sleep(0)
        raise ConnectionError("refused")


@layer(AwayLayer)
async def test_the_next_in_line_fail_with_one_for_whom_the_layer_is_away():
    results = await asyncio.gather(
        *(broadcast("topic", str(number)) for number in range(100)), return_exceptions=True
    )
    assert {type(each) for each in results} == {BroadcastError}
    assert AwayLayer.asked == 1
    with pytest.raises(BroadcastError, match="refused"):
        await broadcast("topic", "asked for by itself")
    assert AwayLayer.asked == 2


@layer(SlowLayer)
async def test_what_is_broadcast_before_the_accept_waits_for_it():
    class Slow(Subscriber):
        async def connect(self):
            for number in range(50):
                await broadcast("topic", str(number))
            (subscriber,) = TopicRegistry.of_this_loop()._topics["topic"]
            await eventually(lambda: len(subscriber._queue) == 50)
            await self.accept()

    async with connected(Slow.as_asgi()) as peer:
        assert [await received(peer) for _ in range(50)] == [str(number) for number in range(50)]


@pytest.mark.parametrize("steps", range(6))
async def test_the_last_one_who_leaves_as_the_layer_goes_away_leaves_nothing_behind(
    steps, monkeypatch
):
    monkeypatch.setattr("ws_support._asyncio._CANCEL_EVERY", 0.05)
    before = asyncio.all_tasks()
    layer = GoingLayer()
    listener = Listener(layer, None, Outages())
    await listener.join("topic")
    await asyncio.sleep(0.01)
    layer.goes()
    for _ in range(steps):
        await asyncio.sleep(0)
    await listener.close()
    assert asyncio.all_tasks() == before
