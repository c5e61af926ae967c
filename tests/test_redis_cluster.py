"""The broker on a Redis Cluster, as only it behaves."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from redis import Redis as Client
from redis.crc import key_slot

from tests.conftest import need_program
from tests.harness import BOUND, free_port
from tests.redis import Cluster, Redis
from tests.test_brokers import Receiver, text
from tests.test_connection import eventually
from tests.test_history import asks, client
from tests.test_outages import sooner_or_later
from tests.test_presence import ANN, TOPIC, Place, becomes, following, names
from ws_support._topics.brokers import broker_class
from ws_support._topics.brokers.base import BrokerError, BrokerUnavailable, Keeping
from ws_support._topics.brokers.redis import cluster as clusters
from ws_support._topics.brokers.redis.envelope import Envelope
from ws_support._topics.brokers.redis.sharded import ShardListener, ShardPublisher
from ws_support._topics.presence.entries import difference_topic
from ws_support.broadcast import BroadcastError, broadcast, broadcast_sync
from ws_support.presence import present

pytestmark = pytest.mark.slow

REDIS = "ws_support._topics.brokers.redis"
KEEPING = Keeping(1000, 600)
ODD = ["", "}", "}x", "{", "{}", "a}b", "no tag{-}", "é"]


def settings_of(cluster, **options):
    rules = {"room/<path:name>": {"history": 1000}}
    return {"BROKER": cluster.url, "TOPICS": rules, "BROADCAST_QUEUE": 1000, **options}


@pytest.fixture
def settings(cluster):
    for each in cluster.masters:
        each.ask("FLUSHALL")
        each.ask("CONFIG", "RESETSTAT")
    with override_settings(WS_SUPPORT=settings_of(cluster)):
        yield


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A cluster of this test's own, with a replica of the first master."""
    monkeypatch.setattr(f"{REDIS}.listener._RETRY_EVERY", 0.2)
    cluster = Cluster(need_program("redis-server"), tmp_path, replicas=1)
    try:
        cluster.start()
        with override_settings(WS_SUPPORT=settings_of(cluster)):
            yield cluster
    finally:
        cluster.stop()


@asynccontextmanager
async def listening(*topics, receiver=None):
    receiver = receiver or Receiver()
    for topic in topics:
        await receiver.broker.subscribe(topic)
    yield receiver
    for topic in topics:
        await receiver.broker.unsubscribe(topic)


def tag_of(topic):
    return f"{{{topic}}}"


def topic_on(cluster, master, kind="topic"):
    """A topic whose slot a master has."""
    names = (f"{kind}/{number}" for number in range(1000))
    return next(each for each in names if cluster.master_of(tag_of(each)) is master)


def other_than(cluster, master):
    return next(each for each in cluster.masters if each is not master)


def listeners(receiver):
    return list(receiver.broker._shards.values())


# Shards


async def test_topics_of_all_shards_are_published_and_kept(settings, cluster):
    topics = [*ODD, *(topic_on(cluster, each) for each in cluster.masters)]
    async with listening(*topics) as one:
        assert len(listeners(one)) == 3
        for topic in topics:
            assert await one.broker.count_takers(topic, text("plain"), 1) == 1
            position = (await one.broker.append(topic, text("kept"), KEEPING)).position
            log = await one.broker.read(topic, None, 1)
            assert (log.position, len(log.entries)) == (position, 1)
        heard = [(topic, message) for topic in topics for message in ("plain", "kept")]
        await eventually(lambda: len(one.taken) == len(heard))
        assert sorted(one.taken) == sorted(heard)
        assert one.missed == []


async def test_a_message_stays_in_the_shard_of_its_topic(settings, cluster):
    master = cluster.masters[1]
    topic = topic_on(cluster, master)
    async with listening(topic) as one:
        await one.broker.publish(topic, text("first"))
        for each in cluster.masters:
            each.ask("CONFIG", "RESETSTAT")
        for _ in range(10):
            await one.broker.publish(topic, text("plain"))
            await one.broker.append(topic, text("kept"), KEEPING)
        await eventually(lambda: len(one.taken) == 21)
        for each in cluster.masters:
            called = each.ask("INFO", "commandstats")
            assert ("cmdstat_spublish" in called) == (each is master)
    await present(topic)
    for each in cluster.masters:
        assert "cmdstat_publish" not in each.ask("INFO", "commandstats")
        assert "messages_publish_sent" not in each.ask("CLUSTER", "INFO")


async def test_who_is_present_is_known_although_leases_are_on_another_node(settings, cluster):
    place = Place()
    try:
        lease = cluster.master_of("{ws_support.presence}")
        topics = (f"{TOPIC}/{number}" for number in range(1000))
        topic = next(
            each for each in topics
            if cluster.master_of(tag_of(difference_topic(each))) is not lease
        )  # fmt: skip
        async with following(topic) as follower:
            there = present(topic, user=ANN)
            await place.does(there.__aenter__())
            assert await names(topic) == ["ann"]
            await eventually(lambda: follower.names == [(["ann"], [])])
            await place.does(there.__aexit__(None, None, None))
            await becomes([], topic)
            await eventually(lambda: follower.people == {})
        # Each call went to the right node at once.
        assert not any("MOVED" in each.ask("INFO", "errorstats") for each in cluster.masters)
    finally:
        place.ends()


def test_synchronous_code_publishes(settings, cluster):
    heard = []
    is_ready = threading.Event()

    async def listen():
        async with listening("topic") as one:
            is_ready.set()
            await eventually(lambda: one.taken)
            heard.extend(one.taken)

    thread = threading.Thread(target=asyncio.run, args=(listen(),))
    thread.start()
    assert is_ready.wait(BOUND)
    broadcast_sync("topic", "message")
    thread.join(BOUND)
    assert heard == [("topic", "message")]


# Slots that move


async def test_a_slot_that_moves_loses_nothing_of_a_history(settings, cluster):
    topic = topic_on(cluster, cluster.masters[0], "room")
    source, target = cluster.masters[0], cluster.masters[1]
    sent = []
    is_over = asyncio.Event()

    async def publish():
        while not is_over.is_set():
            number = str(len(sent))
            try:
                await broadcast(topic, number)
                sent.append(number)
            except BroadcastError as error:
                # While its slot is on its way, a topic is at times nowhere.
                assert re.search("AskError|TryAgainError", str(error))
            await asyncio.sleep(0.01)

    async with client() as peer:
        await asks(peer, topic)
        await peer.texts(1)
        publishing = asyncio.create_task(publish())
        for start, end in ((source, target), (target, source)):
            count = len(sent)
            await eventually(lambda count=count: len(sent) > count + 20)
            await asyncio.to_thread(cluster.move, tag_of(topic), start, end)
        count = len(sent)
        await eventually(lambda: len(sent) > count + 20)
        is_over.set()
        await publishing
        assert await peer.texts(len(sent)) == sent


async def test_a_plain_topic_whose_slot_moves_goes_on_and_the_log_tells(settings, cluster, caplog):
    master = cluster.masters[0]
    topic, other = topic_on(cluster, master), topic_on(cluster, cluster.masters[2])
    async with listening(topic) as one:
        pass
    async with listening(topic, other, receiver=one):
        before = {each.node for each in listeners(one)}
        await asyncio.to_thread(cluster.move, tag_of(topic), master, cluster.masters[1])
        await eventually(lambda: "Redis Cluster is back" in caplog.text)
        assert "Redis Cluster is away: slots have moved to another node" in caplog.text
        assert one.catches_up == 1
        assert len(before - {each.node for each in listeners(one)}) == 1
        await one.broker.publish(topic, text("after"))
        await one.broker.publish(other, text("after"))
        await eventually(lambda: len(one.taken) == 2)
        assert one.missed == []
    assert caplog.text.count("is away") == 1


async def test_what_a_node_refuses_since_a_slot_has_moved_is_sent_to_the_other_one(
    settings, cluster
):
    publisher = Receiver()
    master = cluster.masters[2]
    topic = topic_on(cluster, master)
    await publisher.broker.publish(topic, text("the map is known"))
    await asyncio.to_thread(cluster.move, tag_of(topic), master, cluster.masters[0])
    stale = publisher.broker._cluster
    assert stale.slots[publisher.broker._slot(topic)].name == f"127.0.0.1:{master.port}"
    assert await publisher.broker.count_takers(topic, text("nobody's"), 1) == 0
    assert stale.slots[publisher.broker._slot(topic)].name.endswith(f":{cluster.masters[0].port}")
    await asyncio.to_thread(cluster.move, tag_of(topic), cluster.masters[0], master)
    assert (await publisher.broker.append(topic, text("kept"), KEEPING)).takers == 0
    log = await publisher.broker.read(topic, None, 9)
    assert len(log.entries) == 1


async def test_who_subscribes_where_a_slot_was_hears_from_where_it_is(settings, cluster, caplog):
    master = cluster.masters[2]
    kept, topic = (topic_on(cluster, master, kind) for kind in ("kept", "topic"))
    async with listening(kept) as one:
        await asyncio.to_thread(cluster.move, tag_of(topic), master, cluster.masters[0])
        await one.broker.subscribe(topic)
        assert await one.broker.count_takers(topic, text("heard"), 1) == 1
        await one.broker.publish(kept, text("heard"))
        await eventually(lambda: len(one.taken) == 2)
        assert len(listeners(one)) == 2
        await one.broker.unsubscribe(topic)
        await asyncio.to_thread(cluster.move, tag_of(topic), cluster.masters[0], master)


async def test_who_leaves_where_a_slot_was_waits_for_nobody(settings, cluster, monkeypatch):
    master = cluster.masters[2]
    kept, topic = (topic_on(cluster, master, kind) for kind in ("kept", "topic"))
    async with listening(kept) as one:
        await one.broker.subscribe(topic)
        # It has not yet read that its subscription has ended.
        cluster.move(tag_of(topic), master, cluster.masters[0])
        await asyncio.wait_for(one.broker.unsubscribe(topic), 2)
        cluster.move(tag_of(topic), cluster.masters[0], master)
        await one.broker.publish(kept, text("heard"))
        await one.takes((kept, "heard"))


async def test_a_slot_that_goes_and_comes_back_is_subscribed_to_again(settings, cluster, caplog):
    def publish(message):
        """In a thread of its own, while this loop stands still."""
        with ThreadPoolExecutor(1) as thread:
            thread.submit(broadcast_sync, topic, message).result(BOUND)

    master, other = cluster.masters[0], cluster.masters[1]
    topic = topic_on(cluster, master)
    async with listening(topic) as one:
        publish("before")
        await one.takes((topic, "before"))
        cluster.move(tag_of(topic), master, other)
        publish("lost")
        cluster.move(tag_of(topic), other, master)
        await eventually(lambda: "Redis Cluster is back" in caplog.text)
        publish("after")
        await one.takes((topic, "after"))
        # The log has told of it.
        assert (one.missed, one.catches_up) == ([], 1)


@pytest.mark.parametrize("is_quiet", [True, False])
async def test_the_slot_of_the_probe_may_move(settings, cluster, caplog, monkeypatch, is_quiet):
    monkeypatch.setattr(f"{REDIS}.listener._PROBE_EVERY", 3600 if is_quiet else 0.01)
    if not is_quiet:
        monkeypatch.setattr(ShardListener, "_answered", _but_no_end(ShardListener._answered))
    master = cluster.masters[0]
    topic = topic_on(cluster, master)
    async with listening(topic) as one:
        [listener] = listeners(one)
        await eventually(lambda: listener._came_round.done())
        probe = listener._probe
        key = re.search(rb"{.*}", probe)[0].decode()
        await asyncio.to_thread(cluster.move, key, master, cluster.masters[1])
        await eventually(lambda: listener._probe != probe and listener._ready.done())
        await listener._send_round()
        assert listeners(one) == [listener]
    assert "is away" not in caplog.text


async def test_a_probe_that_is_refused_is_sent_elsewhere(settings, cluster, caplog):
    master = cluster.masters[0]
    topic = topic_on(cluster, master)
    async with listening(topic_on(cluster, cluster.masters[1])) as one:
        node = next(
            each for each in one.broker._cluster.slots if each.name.endswith(f":{master.port}")
        )
        key = re.search(rb"{.*}", node.probe)[0].decode()
        await asyncio.to_thread(cluster.move, key, master, cluster.masters[1])
        await one.broker.subscribe(topic)
        listener = one.broker._places[topic]
        await eventually(listener._ready.done)
        await eventually(lambda: not listener.is_lost)
        assert key.encode() not in listener._probe
        await one.broker.publish(topic, text("heard"))
        await one.takes((topic, "heard"))
        await one.broker.unsubscribe(topic)
    assert "is away" not in caplog.text


async def test_a_probe_that_fails_is_an_outage(settings, cluster, monkeypatch, caplog):
    async def fail(self, channel):
        raise BrokerUnavailable("it fails")

    monkeypatch.setattr(f"{REDIS}.listener._PROBE_EVERY", 0.01)
    monkeypatch.setattr(f"{REDIS}.listener._RETRY_EVERY", 0.2)
    for _ in range(2):  # Also for who comes again.
        caplog.clear()
        async with listening("topic"):
            with monkeypatch.context() as failing:
                failing.setattr(ShardPublisher, "probe", fail)
                await eventually(lambda: "Redis Cluster is away: it fails" in caplog.text)
            await eventually(lambda: "Redis Cluster is back" in caplog.text)


async def test_a_probe_that_is_lost_for_long_is_an_outage(settings, cluster, monkeypatch, caplog):
    monkeypatch.setattr(f"{REDIS}.listener._PROBE_EVERY", 0.01)
    monkeypatch.setattr(f"{REDIS}.listener._RETRY_EVERY", 0.2)
    async with listening("topic") as one:
        [listener] = listeners(one)
        with monkeypatch.context() as failing:
            failing.setattr(f"{REDIS}.sharded.TIMEOUT", 0.05)
            failing.setattr(ShardListener, "again", lambda self: [])
            listener._lose_probe()
            await eventually(lambda: "Redis Cluster is away: no answer within" in caplog.text)
        await eventually(lambda: "Redis Cluster is back" in caplog.text)


async def test_answers_that_come_late_change_nothing(settings, cluster):
    async with listening("topic") as one:
        [listener] = listeners(one)
        for kind in (b"ssubscribe", b"sunsubscribe"):
            listener._answered(kind, b"of before")
        assert not listener.is_lost
        assert await one.broker.count_takers("topic", text("heard"), 1) == 1


async def test_what_is_refused_twice_is_an_error(settings, cluster):
    one = Receiver()
    await one.broker.publish("topic", text("the map is known"))
    owner, nodes = cluster.master_of("{topic}"), one.broker._cluster
    wrong = next(each for each in nodes.slots if not each.name.endswith(f":{owner.port}"))
    nodes.slots[one.broker._slot("topic")] = wrong
    with pytest.raises(BrokerError, match=r"TRYAGAIN refused|TryAgainError"):
        await one.broker.call("topic", refusing("TRYAGAIN"), ["log"], [])


async def test_more_than_can_wait_is_refused_and_the_map_is_not_read(
    settings, cluster, monkeypatch
):
    one = Receiver()
    await one.broker.publish("topic", text("the map is known"))
    one.broker._cluster._asked_at = -1
    monkeypatch.setattr(f"{REDIS}.publisher._MOST", 0)
    with pytest.raises(BrokerError, match="0 messages wait"):
        await one.broker.publish("topic", text("refused"))
    assert one.broker._cluster._asked_at == -1


def _but_no_end(answered):
    """It does not heed that a subscription to a probe has ended."""

    def _answered(self, kind, channel):
        if kind != b"sunsubscribe" or channel != self._probe:
            answered(self, kind, channel)

    return _answered


# Outages


async def test_a_master_that_dies_is_replaced_and_histories_recover(own, caplog):
    dead, living = own.masters[0], own.masters[1]
    plain, room = topic_on(own, dead), topic_on(own, dead, "room")
    other = topic_on(own, living, "other")
    publisher = Receiver()
    async with listening(plain, other) as one, client() as peer:
        await asks(peer, room)
        await peer.texts(1)
        [undisturbed] = [each for each in listeners(one) if str(living.port) in each.node.name]
        await broadcast(room, "before")
        assert await peer.texts(1) == ["before"]
        dead.stop(signal.SIGKILL)
        await eventually(lambda: "Redis Cluster is away: ConnectionError" in caplog.text)
        with pytest.raises(BrokerError):
            await publisher.broker.publish(plain, text("lost"))
        await publisher.broker.publish(other, text("in the outage"))
        await one.takes((other, "in the outage"))
        sent = []
        while len(sent) < 5:
            with suppress(BroadcastError):
                await broadcast(room, f"{len(sent)}")
                sent.append(f"{len(sent)}")
            await asyncio.sleep(0.1)
        assert await peer.texts(5) == sent
        await sooner_or_later(lambda: "Redis Cluster is back" in caplog.text)
        await publisher.broker.publish(plain, text("after"))
        await one.takes((plain, "after"))
        assert one.catches_up >= 1
        assert one.missed == []
        assert undisturbed in listeners(one)
        assert not undisturbed.is_lost
        assert {each.node.name for each in listeners(one)} == {
            f"127.0.0.1:{own.replicas[0].port}", undisturbed.node.name
        }  # fmt: skip
    assert caplog.text.count("is away") == caplog.text.count("is back") == 1


async def test_all_nodes_may_go_and_come_back(own, caplog):
    topics = [topic_on(own, each) for each in own.masters]
    async with listening(*topics) as one:
        own.stop()
        await eventually(lambda: "Redis Cluster is away" in caplog.text)
        with pytest.raises(BrokerUnavailable):
            await one.broker.publish(topics[0], text("lost"))
        await one.broker.subscribe("meanwhile")
        await asyncio.to_thread(own.start_again)
        await sooner_or_later(lambda: "Redis Cluster is back" in caplog.text)
        for topic in (*topics, "meanwhile"):
            assert await one.broker.count_takers(topic, text("after"), 1) == 1
        await eventually(lambda: len(one.taken) == 4)
        assert one.missed == []
        await one.broker.unsubscribe("meanwhile")


async def test_who_comes_before_the_cluster_hears_all_once_it_is_there(
    cluster, caplog, monkeypatch
):
    monkeypatch.setattr(clusters, "_EVERY", 0.2)
    port = cluster.masters[0].port
    nobody, gone = cluster.url.replace(str(port), "1"), "left"
    with override_settings(WS_SUPPORT=settings_of(cluster, BROKER=nobody)):
        async with listening("topic", gone) as one:
            assert one.broker._places == {}
            await one.broker.unsubscribe(gone)
            assert "Redis Cluster is away: 127.0.0.1:1: ConnectionError" in caplog.text
            with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1: ConnectionError"):
                await one.broker.publish("topic", text("lost"))
            # Now it has that name.
            [seed] = one.broker._cluster.seeds
            seed.host["address"] = seed.host["address"].replace(":1", f":{port}")
            await eventually(lambda: "Redis Cluster is back" in caplog.text)
            assert await one.broker.count_takers("topic", text("heard"), 1) == 1
            await one.takes(("topic", "heard"))
            assert one.catches_up == 1
    assert caplog.text.count("is away") == caplog.text.count("is back") == 1


async def test_a_subscription_that_waits_for_the_map_may_end_meanwhile(cluster, settings):
    one = Receiver()
    coming = asyncio.create_task(one.broker.subscribe("topic"))
    await asyncio.sleep(0)
    await one.broker.unsubscribe("topic")
    await asyncio.wait_for(coming, BOUND)
    assert listeners(one) == []
    assert not [each for each in asyncio.all_tasks() if each.get_name() in ("cluster", "listener")]


async def test_a_node_that_hangs_is_not_asked_for_long(cluster):
    hanging = socket.create_server(("127.0.0.1", 0))
    url = (
        f"redis+cluster://127.0.0.1:{hanging.getsockname()[1]},127.0.0.1:{cluster.masters[2].port}"
    )
    with hanging, override_settings(WS_SUPPORT=settings_of(cluster, BROKER=url)):
        one = Receiver()
        since = asyncio.get_running_loop().time()
        await one.broker.publish("topic", text("heard by nobody"))
        assert asyncio.get_running_loop().time() - since < 3
        # From now on, it asks who has answered.
        assert one.broker._cluster._best.name.endswith(str(cluster.masters[2].port))


async def test_a_cluster_that_does_not_answer_is_an_error_within_six_seconds(cluster, monkeypatch):
    hanging = socket.create_server(("127.0.0.1", 0))
    url = f"redis+cluster://127.0.0.1:{hanging.getsockname()[1]}"
    with (
        hanging,
        override_settings(WS_SUPPORT=settings_of(cluster, BROKER=url)),
        pytest.raises(BrokerUnavailable, match="no answer within 1 s"),
    ):
        await Receiver().broker.publish("topic", text("lost"))


async def test_the_map_is_read_by_one_at_a_time_and_once_a_second(settings, monkeypatch):
    async def read(node):
        # Others may still be busy with what an earlier test has left.
        if node.cluster is one.broker._cluster:
            began.append(asyncio.get_running_loop().time())
        return await original(node)

    def read_by_another_loop():
        asyncio.run(Receiver().broker._cluster.renew())

    original, began = clusters._spans, []
    monkeypatch.setattr(clusters, "_spans", read)
    monkeypatch.setattr(clusters, "_TURN", BOUND)  # On a busy machine the next node would be asked.
    one = Receiver()
    await asyncio.gather(*(one.broker.publish("topic", text("heard by nobody")) for _ in range(20)))
    assert len(began) == 1
    threads = [asyncio.to_thread(read_by_another_loop) for _ in range(3)]
    await asyncio.gather(*threads, *(one.broker._cluster.renew() for _ in range(3)))
    assert len(began) == 2
    assert began[1] - began[0] > 0.99


async def test_a_map_that_cannot_be_read_is_an_error(settings, monkeypatch):
    async def read(node):
        return [[b"nonsense"]]

    monkeypatch.setattr(clusters, "_spans", read)
    with pytest.raises(BrokerError, match="ValueError"):
        await Receiver().broker.publish("topic", text("lost"))


async def test_a_node_that_has_left_the_cluster_is_asked_for_nothing(settings, tmp_path):
    left = Redis(need_program("redis-server"), tmp_path)
    left.start("--save", "", "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    try:
        one = Receiver()
        await one.broker.publish("topic", text("the map is known"))
        map_ = one.broker._cluster
        map_._best = map_._node(f"127.0.0.1:{left.port}", map_.seeds[0])
        slots = list(map_.slots)
        await map_.renew()
        assert map_.slots == slots
        await one.broker.publish("topic", text("taken"))
    finally:
        left.stop()


async def test_who_is_cancelled_while_the_map_is_read_is_subscribed_by_the_next_one(
    settings, monkeypatch, caplog
):
    one = Receiver()
    reading, original = asyncio.Event(), one.broker._cluster.renew

    async def renew():
        reading.set()
        await original()

    monkeypatch.setattr(one.broker._cluster, "renew", renew)
    joining = asyncio.create_task(one.broker.subscribe("topic"))
    await reading.wait()
    joining.cancel()
    await asyncio.wait([joining])
    await eventually(lambda: "is back" in caplog.text)
    await one.broker.publish("topic", text("heard"))
    await one.takes(("topic", "heard"))
    await one.broker.unsubscribe("topic")


async def test_a_slot_that_two_masters_send_to_each_other_holds_up_nothing_else(
    settings, cluster, caplog
):
    owner, other = cluster.masters[:2]
    lost, near, far = (
        topic_on(cluster, owner),
        topic_on(cluster, owner, "x"),
        topic_on(cluster, other),
    )
    async with listening(lost, near, far) as one:
        slot = str(one.broker._slot(lost))
        # A resharding that was broken off.
        owner.ask("CLUSTER", "SETSLOT", slot, "NODE", cluster.id_of(other))
        try:
            await eventually(lambda: "is away" in caplog.text)
            rounds = calls_of("cluster|slots", cluster) + 3
            await eventually(lambda: calls_of("cluster|slots", cluster) > rounds)
            for topic in (near, far):
                await one.broker.publish(topic, text("heard"))
                await one.takes((topic, "heard"))
            assert caplog.text.count("is away") == 1
            assert "is back" not in caplog.text
        finally:
            for each in (other, owner, cluster.masters[2]):
                each.ask("CLUSTER", "SETSLOT", slot, "NODE", cluster.id_of(owner))
        await eventually(lambda: "is back" in caplog.text)
        await one.broker.publish(lost, text("heard again"))
        await one.takes((lost, "heard again"))


async def test_a_slot_of_nobody_is_an_error_that_names_it(settings, cluster):
    one = Receiver()
    await one.broker.publish("topic", text("the map is known"))
    slot = one.broker._slot("topic")
    map_, owner = one.broker._cluster, cluster.master_of("{topic}")
    owner.ask("CLUSTER", "DELSLOTS", str(slot))
    try:
        map_.slots[slot] = None
        map_._best = map_._node(f"127.0.0.1:{owner.port}", map_.seeds[0])
        with pytest.raises(BrokerUnavailable, match=f"no node of the cluster has the slot {slot}"):
            await one.broker.publish("topic", text("lost"))
    finally:
        owner.ask("CLUSTER", "ADDSLOTS", str(slot))
        cluster.until_whole()


@pytest.mark.parametrize("code", ["CLUSTERDOWN", "LOADING", "READONLY", "TRYAGAIN"])
async def test_other_refusals_are_errors_and_the_map_is_read_again(
    settings, cluster, monkeypatch, code
):
    one = Receiver()
    await one.broker.publish("topic", text("the map is known"))
    owner = cluster.master_of("{topic}")
    before = calls_of("cluster|slots", cluster)
    one.broker._cluster._asked_at = -1
    with pytest.raises(BrokerError, match="refused"):
        await one.broker.call("topic", refusing(code), ["log"], [])
    assert calls_of("evalsha", cluster, owner) <= 2  # It did not know the script.
    await eventually(lambda: calls_of("cluster|slots", cluster) > before)


def refusing(code):
    from ws_support._topics.brokers.redis.scripts import Script

    return Script(f"return redis.error_reply('{code} refused')")


def calls_of(command, cluster, *nodes):
    calls = 0
    for each in nodes or cluster.masters:
        found = re.search(
            rf"cmdstat_{re.escape(command)}:calls=(\d+)", each.ask("INFO", "commandstats")
        )
        calls += int(found[1]) if found else 0
    return calls


async def test_a_channel_that_is_not_allowed_is_an_outage(settings, cluster, caplog):
    for each in cluster.masters:
        each.ask("ACL", "SETUSER", "limited", "on", "nopass", "+@all", "resetchannels")
    url = cluster.url.replace("//", "//limited:x@")
    with override_settings(WS_SUPPORT=settings_of(cluster, BROKER=url)):
        async with listening("topic"):
            await eventually(lambda: "is away: NoPermissionError" in caplog.text)


async def test_what_comes_behind_a_later_message_is_dropped(settings, cluster):
    async with listening("topic") as one:
        channel = one.broker._names.channel("topic")
        with Client(port=cluster.master_of("{topic}").port) as other:
            for number in (8, 9, 9, 7, 1, 2, 3):
                data = Envelope("topic", text(str(number))).write(b"p" * 12, number, number - 1)
                other.execute_command("SPUBLISH", channel, data)
        await one.takes(*(("topic", each) for each in "899123"))
        assert one.missed == []


async def test_after_a_failover_by_hand_messages_come_once_and_in_order(own, caplog):
    topic = topic_on(own, own.masters[0])
    async with listening(topic) as one:
        publisher = Receiver()
        sent = []
        while "Redis Cluster is back" not in caplog.text or len(sent) < 200:
            if len(sent) == 100:
                assert "OK" in own.replicas[0].ask("CLUSTER", "FAILOVER")
            with suppress(BrokerError):
                await publisher.broker.publish(topic, text(f"{len(sent)}"))
            sent.append(f"{len(sent)}")
            await asyncio.sleep(0.001)
        await publisher.broker.publish(topic, text("last"))
        await eventually(lambda: one.taken[-1] == (topic, "last"))
        numbers = [int(message) for _, message in one.taken[:-1]]
        assert numbers == sorted(set(numbers))
        assert [each.node.name for each in listeners(one)] == [f"127.0.0.1:{own.replicas[0].port}"]


# Settings


async def test_rights_that_are_enough(settings, cluster):
    for each in cluster.masters:
        each.ask(
            "ACL", "SETUSER", "few", "reset", "on", ">pass", "&ws_support:*", "+@connection",
            "+spublish", "+ssubscribe", "+sunsubscribe", "+cluster|slots",
        )  # fmt: skip
    url = cluster.url.replace("//", "//few:pass@")
    with override_settings(WS_SUPPORT=settings_of(cluster, BROKER=url)):
        async with listening("topic") as one:
            await one.broker.publish("topic", text("heard"))
            await one.takes(("topic", "heard"))
            with pytest.raises(BrokerError, match="NoPermissionError"):
                await one.broker.append("topic", text("kept"), KEEPING)
            for each in cluster.masters:
                each.ask("ACL", "SETUSER", "few", "~ws_support:*", "+@scripting", *_COMMANDS)
            await one.broker.append("topic", text("kept"), KEEPING)
            assert len((await one.broker.read("topic", None, 1)).entries) == 1


_COMMANDS = ("+get", "+set", "+del", "+xadd", "+xrange", "+pexpire", "+pttl")


async def test_a_wrong_password_is_an_error_and_an_outage(cluster, caplog):
    url = cluster.url.replace("//", "//few:rosebud@")
    with override_settings(WS_SUPPORT=settings_of(cluster, BROKER=url)):
        async with listening("topic"):
            await eventually(lambda: "Redis Cluster is away" in caplog.text)
            with pytest.raises(BroadcastError, match=r"AuthenticationError|invalid username") as no:
                await broadcast("other", "lost")
    assert "rosebud" not in f"{no.value}{caplog.text}"


async def test_a_redis_that_is_no_cluster_is_named_with_the_setting(redis, caplog):
    url = f"redis+cluster://127.0.0.1:{redis.port}"
    with override_settings(WS_SUPPORT={"BROKER": url}):
        expected = (
            rf'WS_SUPPORT\["BROKER"\] names a Redis Cluster, and 127.0.0.1:{redis.port} is none'
        )
        with pytest.raises(BroadcastError, match=expected):
            await broadcast("topic", "lost")
        async with listening("topic"):
            assert re.search(f"is away: {expected}", caplog.text)


async def test_an_old_redis_is_named_with_the_setting():
    async def answer(reader, writer):
        while data := await reader.read(1000):
            for command in re.split(rb"(?m)^\*\d+\r\n", data)[1:]:
                writer.write(slots if b"SLOTS" in command else b"-ERR unknown command\r\n")
            await writer.drain()
        writer.close()

    # As Redis 6.2 has it, without the metadata of a node.
    slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$1\r\nx\r\n:1\r\n$2\r\nid\r\n"

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with (
        override_settings(WS_SUPPORT={"BROKER": f"redis+cluster://127.0.0.1:{port}"}),
        pytest.raises(BroadcastError, match=r'cluster in WS_SUPPORT\["BROKER"\] needs Redis 7'),
    ):
        await broadcast("topic", "lost")
    server.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis+cluster://:rosebud@localhost:port", "has no URL of a Redis Cluster"),
        ("redis+cluster://:rosebud@", "has no URL of a Redis Cluster"),
        ("redis+cluster://:rosebud@localhost/1", "names a database"),
    ],
)
def test_a_url_that_cannot_be_used_is_an_error_without_a_password(url, expected):
    with (
        override_settings(WS_SUPPORT={"BROKER": url}),
        pytest.raises(ImproperlyConfigured, match=expected) as caught,
    ):
        broker_class()
    assert "rosebud" not in str(caught.value)


def test_what_is_configured_holds_for_each_node():
    url = "rediss+cluster://me:p%2Fw@a.example,[::1]:7001,b.example:7002/?ssl_cert_reqs=none"
    cluster = clusters.Cluster(url)
    assert [each.name for each in cluster.seeds] == [
        "a.example:6379", "[::1]:7001", "b.example:7002"
    ]  # fmt: skip
    node = cluster._node("fe80::1:7003", cluster.seeds[0])
    assert node.host["address"] == "rediss://me:p%2Fw@[fe80::1]:7003/?ssl_cert_reqs=none"
    assert node.make_pool().connection_kwargs["ssl_cert_reqs"] == "none"
    # A node that does not know its own address leaves it out.
    assert cluster._node(":7004", cluster.seeds[2]).name == "b.example:7004"


def test_a_node_without_a_host_is_where_the_one_is_that_was_asked():
    nodes = [[None, 2, b"id", []], [b"?", 3, b"id", []], [b"", 4, b"id", []], [b"::1", 5, b"", []]]
    cluster = clusters.Cluster("rediss+cluster://a.example")
    cluster._take([[0, 9, *nodes], [20, 20, nodes[3]]], cluster.seeds[0])
    assert list(cluster._nodes) == ["a.example:2", "a.example:3", "a.example:4", "[::1]:5"]
    owners = {at: each.name for at, each in enumerate(cluster.slots) if each}
    assert owners == {**dict.fromkeys(range(10), "a.example:2"), 20: "[::1]:5"}


def test_all_of_a_topic_has_one_slot():
    [node] = clusters.Cluster("redis+cluster://a.example").seeds
    for topic in ODD:
        names = [node.channel(topic), *(node.key(each, topic) for each in ("log", "position"))]
        assert len({key_slot(each) for each in names}) == 1
    assert len({node.channel(each) for each in ODD}) == len(ODD)
    assert node.probe == b"ws_support:0:probe:"  # It has no slots.


def test_errors_of_older_and_newer_versions_of_the_client_name_the_node():
    from redis.exceptions import MovedError, ResponseError

    for error in (MovedError("7 host:1"), ResponseError("MOVED 7 host:1")):
        assert clusters.moved_to(error) == (7, "host:1")
    assert clusters.moved_to(ResponseError("7 host:1")) is None
