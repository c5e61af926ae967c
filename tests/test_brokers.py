"""The contract of a broker, held by each of them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import ClassVar

import pytest
from channels.layers import InMemoryChannelLayer
from django.test import override_settings

from tests.redis import BROKER, CORE, PUBSUB
from tests.test_connection import eventually
from ws_support._topics.brokers import broker_class
from ws_support._topics.brokers.base import BrokerError
from ws_support._topics.brokers.channel_layer import ChannelLayerBroker
from ws_support._topics.brokers.local import LocalBroker
from ws_support._topics.brokers.redis import ClusterBroker, RedisBroker

BOUND = 10
ON_REDIS = {"core": CORE, "pubsub": PUBSUB}


class SharedLayer(InMemoryChannelLayer):
    """Channels' own in memory, of which all objects are the same layer, as if between processes."""

    shared: ClassVar = ({}, {})

    def __init__(self, **config):
        super().__init__(**config)
        self.channels, self.groups = self.shared


def settings_of(request, kind):
    if kind == "url":
        redis = request.getfixturevalue("redis")
        return {"WS_SUPPORT": {"BROKER": f"redis://127.0.0.1:{redis.port}/1"}}
    if kind == "redis":
        return request.getfixturevalue("redis").settings(BROKER)
    if kind == "cluster":
        return {"WS_SUPPORT": {"BROKER": request.getfixturevalue("cluster").url}}
    if kind in ON_REDIS:
        return request.getfixturevalue("redis").settings(ON_REDIS[kind])
    layers = {"default": {"BACKEND": f"{__name__}.SharedLayer"}} if kind == "layer" else {}
    return {"CHANNEL_LAYERS": layers}


REDIS = [*ON_REDIS, "redis", "url"]
BETWEEN_PROCESSES = [*REDIS, "cluster"]


@pytest.fixture(params=["local", "layer", *BETWEEN_PROCESSES])
def kind(request, monkeypatch):
    monkeypatch.setattr(SharedLayer, "shared", ({}, {}))
    with override_settings(**settings_of(request, request.param)):
        yield request.param


class Receiver:
    """Keeps what it is given."""

    def __init__(self):
        self.taken = []
        self.missed = []
        self.kept = []
        self.catches_up = 0
        self.is_filling = False
        self.broker = broker_class()(self)

    def deliver(self, topic, message):
        self.taken.append((topic, message.get("text", message.get("bytes"))))
        return self.is_filling

    def deliver_kept(self, topic, message, position, previous):
        self.kept.append((position, previous))
        return self.deliver(topic, message)

    def catch_up(self):
        self.catches_up += 1

    def miss(self, topic, count, cause):
        self.missed.append((topic, count, cause))

    async def takes(self, *messages):
        await eventually(lambda: len(self.taken) >= len(messages))
        assert self.taken == list(messages)
        self.taken.clear()


def text(text):
    return {"type": "websocket.send", "text": text}


def test_the_broker_follows_from_the_settings(kind):
    others = {
        "local": LocalBroker,
        "redis": RedisBroker,
        "url": RedisBroker,
        "cluster": ClusterBroker,
    }
    assert broker_class() is others.get(kind, ChannelLayerBroker)
    assert broker_class().is_between_processes == (kind != "local")


async def test_a_message_comes_to_all_who_have_subscribed_to_its_topic_and_to_nobody_else(kind):
    one, two, other = Receiver(), Receiver(), Receiver()
    await one.broker.subscribe("topic")
    await two.broker.subscribe("topic")
    await other.broker.subscribe("another")
    await one.broker.publish("topic", text("text"))
    await two.broker.publish("topic", {"type": "websocket.send", "bytes": b"binary"})
    await one.broker.publish("another", text("end"))
    await one.takes(("topic", "text"), ("topic", b"binary"))
    await two.takes(("topic", "text"), ("topic", b"binary"))
    await other.takes(("another", "end"))
    for each, topic in ((one, "topic"), (two, "topic"), (other, "another")):
        await each.broker.unsubscribe(topic)


async def test_who_has_not_subscribed_may_publish(kind):
    one, publisher = Receiver(), Receiver()
    await one.broker.subscribe("topic")
    await publisher.broker.publish("topic", text("heard"))
    await one.takes(("topic", "heard"))
    await one.broker.unsubscribe("topic")


async def test_messages_of_one_task_keep_their_order_and_come_once(kind):
    one = Receiver()
    await one.broker.subscribe("topic")
    await one.broker.subscribe("topic")
    for number in range(100):
        await one.broker.publish("topic", text(str(number)))
    await one.takes(*(("topic", str(number)) for number in range(100)))
    assert one.missed == []
    await one.broker.unsubscribe("topic")


async def test_nothing_comes_after_the_unsubscription_and_nothing_is_missed(kind):
    one = Receiver()
    await one.broker.subscribe("another")
    for number in range(2):
        await one.broker.subscribe("topic")
        await one.broker.publish("topic", text(str(number)))
        await one.takes(("topic", str(number)))
        await one.broker.unsubscribe("topic")
        await one.broker.publish("topic", text("not for you"))
    await one.broker.publish("another", text("end"))
    await one.takes(("another", "end"))
    await one.broker.unsubscribe("another")
    assert one.missed == []


async def test_an_unsubscription_from_what_was_not_subscribed_to_is_nothing(kind):
    one = Receiver()
    await one.broker.unsubscribe("topic")
    await one.broker.subscribe("topic")
    await one.broker.unsubscribe("another")
    await one.broker.publish("topic", text("heard"))
    await one.takes(("topic", "heard"))
    await one.broker.unsubscribe("topic")


async def test_the_last_unsubscription_leaves_no_task_behind_also_when_it_is_cancelled(kind):
    one = Receiver()
    before = asyncio.all_tasks()
    for topic in ("topic", "another"):
        await one.broker.subscribe(topic)
    await one.broker.unsubscribe("topic")
    leaving = asyncio.create_task(one.broker.unsubscribe("another"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving], timeout=BOUND)

    def ours():
        own = [each for each in asyncio.all_tasks() - before if "ws_support" in repr(each)]
        return [each for each in own if "channels_redis" not in repr(each)]

    await eventually(lambda: not ours())


@pytest.mark.parametrize("kind", ["local", *BETWEEN_PROCESSES], indirect=True)
async def test_a_message_comes_to_the_event_loop_of_another_thread(kind):
    one = Receiver()
    await one.broker.subscribe("topic")

    async def publish():
        await Receiver().broker.publish("topic", text("from outside"))

    thread = threading.Thread(target=asyncio.run, args=(publish(),))
    thread.start()
    await one.takes(("topic", "from outside"))
    thread.join(BOUND)
    await one.broker.unsubscribe("topic")


async def test_those_who_have_subscribed_are_counted(kind):
    one, two, publisher = Receiver(), Receiver(), Receiver()
    assert await publisher.broker.count_takers("topic", text("nobody's"), 0.1) == 0
    await one.broker.subscribe("topic")
    await two.broker.subscribe("topic")
    assert await publisher.broker.count_takers("topic", text("counted"), 2) == 2
    await one.takes(("topic", "counted"))
    await one.broker.unsubscribe("topic")
    await two.broker.unsubscribe("topic")


async def test_a_receiver_that_is_filling_gets_the_next_message_a_moment_later(kind):
    one = Receiver()
    one.is_filling = True
    await one.broker.subscribe("topic")
    turns = 0

    async def others():
        nonlocal turns
        while len(one.taken) < 20:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    for number in range(20):
        await one.broker.publish("topic", text(str(number)))
    await asyncio.wait_for(other, BOUND)
    # A thousandth of a second each, in which others have more than one turn.
    assert turns > 40
    await one.broker.unsubscribe("topic")


@pytest.mark.parametrize("kind", ["layer"], indirect=True)
async def test_a_message_comes_once_while_an_earlier_subscription_still_ends(kind, monkeypatch):
    async def discard(self, group, channel):
        is_leaving.set()
        await asyncio.wait_for(may_leave.wait(), BOUND)

    is_leaving, may_leave = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(SharedLayer, "group_discard", discard)
    one = Receiver()
    await one.broker.subscribe("topic")
    leaving = asyncio.create_task(one.broker.unsubscribe("topic"))
    await asyncio.wait_for(is_leaving.wait(), BOUND)
    await one.broker.subscribe("topic")
    assert await one.broker.count_takers("topic", text("once"), 0.2) == 1
    await one.takes(("topic", "once"))
    may_leave.set()
    await leaving
    await one.broker.unsubscribe("topic")
    assert one.taken == []


@pytest.mark.parametrize("kind", ["layer"], indirect=True)
async def test_a_subscription_that_was_cancelled_on_its_way_leaves_no_group_behind(
    kind, monkeypatch
):
    async def add(self, group, channel):
        await InMemoryChannelLayer.group_add(self, group, channel)
        is_added.set()
        await asyncio.Event().wait()

    is_added = asyncio.Event()
    one = Receiver()
    await one.broker.subscribe("another")
    monkeypatch.setattr(SharedLayer, "group_add", add)
    joining = asyncio.create_task(one.broker.subscribe("topic"))
    await asyncio.wait_for(is_added.wait(), BOUND)
    joining.cancel()
    await asyncio.wait([joining], timeout=BOUND)
    assert "ws_support.topic" in SharedLayer.shared[1]
    await one.broker.unsubscribe("topic")
    assert "ws_support.topic" not in SharedLayer.shared[1]
    await one.broker.unsubscribe("another")


@pytest.mark.parametrize("kind", ["layer"], indirect=True)
async def test_who_has_unsubscribed_in_an_outage_is_in_no_group_after_it(kind, monkeypatch, caplog):
    async def refuse(self, *arguments):
        raise ConnectionError("refused")

    for name in ("_PROBE_EVERY", "_RETRY_EVERY"):
        monkeypatch.setattr(f"ws_support._topics.brokers.channel_layer.listener.{name}", 0.01)
    one = Receiver()
    for topic in ("left", "again", "kept"):
        await one.broker.subscribe(topic)
    with monkeypatch.context() as outage:
        for method in ("group_add", "group_discard", "group_send"):
            outage.setattr(SharedLayer, method, refuse)
        await eventually(lambda: "is away" in caplog.text)
        for topic in ("left", "again"):
            await one.broker.unsubscribe(topic)
        await one.broker.subscribe("again")
        for action in (one.broker.subscribe, one.broker.unsubscribe):
            await action("meanwhile")
    await eventually(lambda: "is back" in caplog.text)
    groups = {name for name in SharedLayer.shared[1] if "probe" not in name}
    assert groups == {"ws_support.again", "ws_support.kept"}
    assert await one.broker.count_takers("left", text("nobody's"), 0.1) == 0
    assert await one.broker.count_takers("again", text("heard"), 0.1) == 1
    for topic in ("again", "kept"):
        await one.broker.unsubscribe(topic)


@pytest.mark.parametrize("kind", ["layer"], indirect=True)
async def test_who_subscribes_in_the_last_moment_of_an_outage_is_subscribed_after_it(
    kind, monkeypatch, caplog
):
    async def refuse(self, *arguments):
        raise ConnectionError("refused")

    async def send(self, group, message):
        is_sending.set()
        await asyncio.wait_for(may_send.wait(), BOUND)
        await InMemoryChannelLayer.group_send(self, group, message)

    is_sending, may_send = asyncio.Event(), asyncio.Event()
    for name in ("_PROBE_EVERY", "_RETRY_EVERY"):
        monkeypatch.setattr(f"ws_support._topics.brokers.channel_layer.listener.{name}", 0.01)
    one = Receiver()
    await one.broker.subscribe("before")
    monkeypatch.setattr(SharedLayer, "group_send", refuse)
    await eventually(lambda: "is away" in caplog.text)
    monkeypatch.setattr(SharedLayer, "group_send", send)
    await asyncio.wait_for(is_sending.wait(), BOUND)
    await one.broker.subscribe("late")
    may_send.set()
    await eventually(lambda: "is back" in caplog.text)
    assert "ws_support.late" in SharedLayer.shared[1]
    for topic in ("before", "late"):
        await one.broker.unsubscribe(topic)


@pytest.mark.parametrize("kind", REDIS, indirect=True)
async def test_an_outage_is_an_error_for_who_publishes_and_none_for_who_subscribes(kind, redis):
    one = Receiver()
    await one.broker.subscribe("before")
    redis.stop()
    with pytest.raises(BrokerError):
        await one.broker.publish("before", text("lost"))
    await one.broker.subscribe("meanwhile")
    redis.start()
    for topic in ("before", "meanwhile"):
        one.taken.clear()
        for _ in range(100):
            with suppress(BrokerError):  # A connection of before the outage.
                await one.broker.publish(topic, text("heard"))
            await asyncio.sleep(0.1)
            if (topic, "heard") in one.taken:
                break
        assert (topic, "heard") in one.taken
    assert one.missed == []
    for topic in ("before", "meanwhile"):
        await one.broker.unsubscribe(topic)
