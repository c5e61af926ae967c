"""The broker on Redis itself, as only it behaves."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import warnings
from contextlib import asynccontextmanager, suppress

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from redis import Redis as Client

from tests.conftest import need_program
from tests.harness import BOUND, free_port
from tests.redis import BROKER, CORE, PUBSUB, Redis
from tests.test_brokers import Receiver, text
from tests.test_connection import eventually
from tests.test_outages import sooner_or_later
from ws_support._topics.brokers import broker_class
from ws_support._topics.brokers.base import BrokerError, BrokerUnavailable
from ws_support._topics.brokers.channel_layer import ChannelLayerBroker
from ws_support._topics.brokers.numbers import Numbers
from ws_support._topics.brokers.redis import RedisBroker
from ws_support._topics.brokers.redis.envelope import Envelope, read
from ws_support._topics.brokers.redis.listener import Listener
from ws_support._topics.brokers.redis.publisher import Publisher
from ws_support.broadcast import BroadcastError, broadcast
from ws_support.servers._run.banner import broadcasts

THREAD = "ws_support-publisher"


@pytest.fixture
def url(redis):
    return f"redis://127.0.0.1:{redis.port}/1"


@pytest.fixture
def operator(redis):
    with Client(port=redis.port) as client:
        yield client


@pytest.fixture(autouse=True)
def settings(url):
    with override_settings(WS_SUPPORT={"BROKER": url}):
        yield


@asynccontextmanager
async def listening(*topics):
    receiver = Receiver()
    for topic in topics:
        await receiver.broker.subscribe(topic)
    yield receiver
    for topic in topics:
        await receiver.broker.unsubscribe(topic)


async def published(receiver, *messages, topic="topic"):
    for message in messages:
        await receiver.broker.publish(topic, text(message))


# What gets lost


async def test_what_is_lost_between_two_connections_is_told(operator):
    publisher = Receiver()
    async with listening("topic") as one:
        await published(publisher, "heard")
        await one.takes(("topic", "heard"))
        listener = next(iter(one.broker._listeners.values()))
        is_subscribed, listener._wanted = listener._wanted, {}
        listener._change(channel_of("topic").encode())
        await eventually(lambda: operator.pubsub_numsub(channel_of("topic"))[0][1] == 0)
        await published(publisher, "lost", "lost as well")
        listener._wanted = is_subscribed
        operator.client_kill_filter(_type="pubsub")
        await eventually(lambda: operator.pubsub_numsub(channel_of("topic"))[0][1] == 1)
        await published(publisher, "after")
        await one.takes(("topic", "after"))
        [(topic, count, cause)] = one.missed
        assert (topic, count) == ("topic", 2)
        assert "client-output-buffer-limit" in cause


def channel_of(topic):
    return f"ws_support:1:{{{topic}}}"


async def test_a_burst_arrives_whole_and_in_order(monkeypatch):
    # A machine that is busy may need longer than a publisher is made to wait.
    monkeypatch.setattr("ws_support._topics.brokers.redis.publisher.TIMEOUT", 60)
    async with listening("topic") as one:
        await asyncio.gather(
            *(one.broker.publish("topic", text(str(number))) for number in range(10_000))
        )
        await one.takes(*(("topic", str(number)) for number in range(10_000)))
        assert one.missed == []


async def test_more_than_can_wait_is_refused(monkeypatch):
    monkeypatch.setattr("ws_support._topics.brokers.redis.publisher._MOST", 100)
    async with listening("topic") as one:
        done = await asyncio.gather(
            *(one.broker.publish("topic", text(str(number))) for number in range(200)),
            return_exceptions=True,
        )
        refused = [each for each in done if each is not None]
        assert {str(each) for each in refused} == {"100 messages wait for it already"}
        await eventually(lambda: len(one.taken) == 200 - len(refused))
        assert one.missed == []


async def test_others_have_their_turn_while_much_comes():
    turns = 0

    async def others():
        nonlocal turns
        while len(one.taken) < 5000:
            turns += 1
            await asyncio.sleep(0)

    async with listening("topic") as one:
        with Client.from_url(one.broker._addresses[0].host["address"]) as other:
            data = [
                Envelope("topic", text("x")).write(b"p" * 12, number, number - 1)
                for number in range(1, 5001)
            ]
            with other.pipeline(transaction=False) as pipe:
                for each in data:
                    pipe.publish(channel_of("topic"), each)
                pipe.execute()
        await asyncio.wait_for(others(), BOUND)
    assert turns > 10


@pytest.mark.parametrize(
    "data", [b"", b"short", b"x" + bytes(32) + b"text", b"t" + bytes(32) + b"\xff"]
)
async def test_bytes_that_are_no_message_are_named_and_are_no_outage(
    operator, data, caplog, monkeypatch
):
    monkeypatch.setattr("ws_support._topics.outages.Strangers._logged_at", None)
    async with listening("topic") as one:
        operator.publish(channel_of("topic"), data)
        for channel in operator.pubsub_channels("*:probe:*") * 3:
            operator.publish(channel, data)
        await published(one, "heard")
        await one.takes(("topic", "heard"))
    assert "was skipped" in caplog.text
    assert "is away" not in caplog.text


@pytest.mark.parametrize("message", [text("é"), {"type": "websocket.send", "bytes": b"\x00\xff"}])
def test_a_message_is_read_as_it_was_written(message):
    received = read(Envelope("topic", message).write(b"p" * 12, 7, 6))
    assert received.message == message
    assert received.number == 7
    assert received.publisher.endswith(f".{os.getpid()}")


# Outages


async def test_a_replica_is_an_outage_for_who_publishes(operator, caplog):
    async with listening("topic") as one:
        await published(one, "heard")
        operator.replicaof("127.0.0.1", 1)
        many = ["heard by nobody elsewhere"] * 10_000
        with pytest.raises(BrokerUnavailable, match="ReadOnlyError"):
            await asyncio.wait_for(published(one, *many), BOUND)
        await eventually(lambda: "Redis is away: ReadOnlyError" in caplog.text)
        operator.replicaof("NO", "ONE")
        await eventually(lambda: "Redis is back" in caplog.text)
        await published(one, "after")


async def test_a_user_who_may_only_publish_and_subscribe_is_enough(operator, redis):
    operator.acl_setuser(
        "limited", enabled=True, nopass=True, channels=["ws_support:*"], reset_channels=True,
        categories=["+@connection"],
        commands=["+select", "+publish", "+subscribe", "+unsubscribe"],
    )  # fmt: skip
    with override_settings(WS_SUPPORT={"BROKER": f"redis://limited:x@127.0.0.1:{redis.port}/1"}):
        async with listening("topic") as one:
            await published(one, "heard")
            await one.takes(("topic", "heard"))


async def test_a_channel_that_is_not_allowed_is_an_error_for_who_publishes(operator, redis):
    operator.acl_setuser(
        "limited", enabled=True, nopass=True, channels=["somebody-else:*"], reset_channels=True,
        categories=["+@all"],
    )  # fmt: skip
    url = f"redis://limited:x@127.0.0.1:{redis.port}"
    with (
        override_settings(WS_SUPPORT={"BROKER": url}),
        pytest.raises(BrokerError, match="NoPermissionError"),
    ):
        await published(Receiver(), "refused")


async def test_a_redis_that_answers_nothing_is_an_outage_within_six_seconds(
    redis, monkeypatch, caplog
):
    monkeypatch.setattr("ws_support._topics.brokers.redis.publisher.TIMEOUT", 0.5)
    monkeypatch.setattr("ws_support._topics.brokers.redis.listener._PROBE_EVERY", 0.2)
    async with listening("topic") as one:
        redis.pause()
        results = await asyncio.gather(
            *(one.broker.publish("topic", text("lost")) for _ in range(300)),
            return_exceptions=True,
        )
        assert {type(each) for each in results} == {BrokerUnavailable}
        await eventually(lambda: "Redis is away: no answer within" in caplog.text)
        redis.go_on()
        await eventually(lambda: "Redis is back" in caplog.text)


async def publish_nothing(publisher, channel):
    pass


async def test_who_takes_messages_and_delivers_none_is_an_outage(operator, monkeypatch, caplog):
    for name in ("_PROBE_EVERY", "_TURN"):
        monkeypatch.setattr(f"ws_support._topics.brokers.redis.listener.{name}", 0.1)
    async with listening("topic"):
        with monkeypatch.context() as deaf:
            deaf.setattr(Publisher, "probe", publish_nothing)
            await eventually(lambda: "messages do not come back from it" in caplog.text)
        await eventually(lambda: "Redis is back" in caplog.text)


async def test_who_waits_for_too_long_behind_others_is_told(monkeypatch):
    monkeypatch.setattr("ws_support._topics.brokers.redis.publisher._BATCH", 1)
    monkeypatch.setattr("ws_support._topics.brokers.redis.publisher.TIMEOUT", -1)
    with pytest.raises(BrokerUnavailable, match="not sent within"):
        await published(Receiver(), "late")


@pytest.mark.slow
async def test_after_a_failover_sentinel_says_where_the_new_master_is(redis, tmp_path, monkeypatch):
    monkeypatch.setattr("ws_support._topics.brokers.redis.listener._PROBE_EVERY", 0.2)
    program = need_program("redis-server")
    (tmp_path / "replica").mkdir()
    replica, sentinel = Redis(program, tmp_path / "replica"), Redis(program, tmp_path)
    conf = tmp_path / "sentinel.conf"
    conf.write_text(f"sentinel monitor main 127.0.0.1 {redis.port} 1\n")
    replica.start("--save", "", "--replicaof", "127.0.0.1", str(redis.port))
    sentinel.start(str(conf), "--sentinel")
    layers = redis.layers()
    layers["default"]["CONFIG"]["hosts"] = [
        {"master_name": "main", "sentinels": [("127.0.0.1", sentinel.port)]}
    ]
    try:
        with override_settings(CHANNEL_LAYERS=layers, WS_SUPPORT={"BROKER": BROKER}):
            async with listening("topic") as one:
                await published(one, "heard")
                await one.takes(("topic", "heard"))
                await eventually(lambda: "num-slaves\r\n$1\r\n1" in sentinel.ask(*_MASTER))
                await eventually(lambda: "OK" in sentinel.ask("SENTINEL", "FAILOVER", "main"))
                await sooner_or_later(lambda: "role:master" in replication_of(replica))
                await sooner_or_later(lambda: "role:slave" in replication_of(redis))
                channel = "asgi:0:{topic}"
                count = ("PUBSUB", "NUMSUB", channel)
                await sooner_or_later(lambda: replica.ask(*count).endswith(":1\r\n"))
                await published(one, "after")
                await eventually(lambda: ("topic", "after") in one.taken)
    finally:
        sentinel.stop()
        replica.stop()


_MASTER = ("SENTINEL", "MASTER", "main")


def replication_of(server):
    """What it says of its role, or nothing: Sentinel ends its connections when that changes."""
    with suppress(OSError):
        return server.ask("INFO", "replication")
    return ""


async def test_who_subscribes_in_the_last_moment_of_an_outage_is_subscribed_after_it(
    redis, operator, monkeypatch, caplog
):
    async def send_round(self):
        await original(self)
        if self._outage.is_away:
            await one.broker.subscribe("late")

    original = Listener._send_round
    monkeypatch.setattr(Listener, "_send_round", send_round)
    async with listening("topic") as one:
        redis.stop()
        await eventually(lambda: "Redis is away" in caplog.text)
        redis.start()
        await eventually(lambda: "Redis is back" in caplog.text)
        assert operator.pubsub_numsub(channel_of("late"))[0][1] == 1
        await one.broker.unsubscribe("late")


# From elsewhere


def test_synchronous_code_publishes_over_one_connection(operator):
    def publish():
        for _ in range(10):
            async_to_sync(broadcast)("topic", "message")

    publish()
    before = operator.info("stats")["total_connections_received"]
    threads = [threading.Thread(target=publish) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(BOUND)
    assert operator.info("stats")["total_connections_received"] == before
    assert [each.name for each in threading.enumerate()].count(THREAD) == 1


def test_the_thread_of_who_publishes_no_more_ends(monkeypatch, redis):
    monkeypatch.setattr("ws_support._topics.brokers.redis.background._IDLE", 0.1)
    async_to_sync(broadcast)("topic", "message")
    [thread] = [each for each in threading.enumerate() if each.name == THREAD][-1:]
    thread.join(BOUND + 10)  # It may be one that began before.
    assert not thread.is_alive()
    async_to_sync(broadcast)("topic", "message")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork(), which this system lacks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_process_that_was_forked_publishes(operator):
    async_to_sync(broadcast)("topic", "message")
    process = os.fork()
    if process == 0:
        try:
            async_to_sync(broadcast)("topic", "message")
        finally:
            os._exit(0)
    os.waitpid(process, 0)
    assert operator.info("commandstats")["cmdstat_publish"]["calls"] >= 2


def test_an_outage_is_told_to_synchronous_code(redis):
    redis.stop()
    with pytest.raises(BroadcastError, match=r'Redis \(WS_SUPPORT\["BROKER"\]\): ConnectionError'):
        async_to_sync(broadcast)("topic", "lost")


# Settings


async def test_several_redis_share_the_topics(redis, tmp_path):
    layers = redis.layers(PUBSUB)
    layers["default"]["CONFIG"]["hosts"] = [
        f"redis://127.0.0.1:{redis.port}/{number}" for number in range(3)
    ]
    with override_settings(CHANNEL_LAYERS=layers, WS_SUPPORT={"BROKER": BROKER}):
        topics = [f"topic {number}" for number in range(20)]
        async with listening(*topics) as one:
            assert len(one.broker._listeners) == 3
            for topic in topics:
                await published(one, "heard", topic=topic)
            await eventually(lambda: len(one.taken) == 20)
            assert sorted(topic for topic, _ in one.taken) == sorted(topics)


@pytest.mark.parametrize(
    "address", ["?protocol=3", "?decode_responses=true", "?socket_timeout=0.001", "/5"]
)
async def test_what_a_url_says_besides_does_no_harm(redis, address):
    url = f"redis://127.0.0.1:{redis.port}{address}"
    with override_settings(WS_SUPPORT={"BROKER": url}):
        async with listening("topic") as one:
            await published(one, "heard")
            await one.takes(("topic", "heard"))


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])
async def test_tls_and_a_password(tmp_path, certificates, scheme):
    redis, port = Redis(need_program("redis-server"), tmp_path), free_port()
    options = {
        "requirepass": "secret", "tls-port": port, "tls-auth-clients": "no",
        "tls-ca-cert-file": certificates.root, "tls-cert-file": certificates.chain,
        "tls-key-file": certificates.key,
    }  # fmt: skip
    if "cluster" in scheme:
        options |= {"cluster-enabled": "yes", "tls-cluster": "yes", "cluster-port": free_port()}
    redis.start(*(word for name, value in options.items() for word in (f"--{name}", str(value))))
    try:
        if "cluster" in scheme:
            with Client(port=redis.port, password="secret", decode_responses=True) as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                await eventually(lambda: client.cluster("info")["cluster_state"] == "ok")
        url = f"{scheme}://:secret@127.0.0.1:{port}?ssl_ca_certs={certificates.root}"
        with override_settings(WS_SUPPORT={"BROKER": url}):
            async with listening("topic") as one:
                await published(one, "heard")
                await one.takes(("topic", "heard"))
    finally:
        redis.stop()


async def test_databases_of_one_redis_are_apart(redis):
    async with listening("topic") as one:
        with override_settings(WS_SUPPORT={"BROKER": f"redis://127.0.0.1:{redis.port}/2"}):
            await published(Receiver(), "elsewhere")
        await published(one, "heard")
        await one.takes(("topic", "heard"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (6379, 'WS_SUPPORT["BROKER"] is 6379, which is not a string.'),
        ("http://:rosebud@localhost", 'WS_SUPPORT["BROKER"] is neither "redis" nor'),
        ("redis://:rosebud@localhost:port", 'WS_SUPPORT["BROKER"] has no URL of a Redis'),
        ("redis", 'CHANNEL_LAYERS["default"] is none of channels_redis'),
    ],
)
def test_a_value_that_cannot_be_used_is_an_error_of_the_check_without_a_password(value, expected):
    with override_settings(WS_SUPPORT={"BROKER": value}):
        with pytest.raises(SystemCheckError) as caught:
            call_command("check")
        assert expected in str(caught.value)
        assert "rosebud" not in str(caught.value)


def test_a_layer_that_encrypts_is_not_bypassed(redis):
    layers = redis.layers(symmetric_encryption_keys=["key"])
    with (
        override_settings(CHANNEL_LAYERS=layers, WS_SUPPORT={"BROKER": BROKER}),
        pytest.raises(ImproperlyConfigured, match="encrypts"),
    ):
        broker_class()
    with override_settings(CHANNEL_LAYERS=layers, WS_SUPPORT={}):
        assert broker_class() is ChannelLayerBroker


@pytest.mark.parametrize("backend", [CORE, PUBSUB])
def test_with_a_layer_of_channels_redis_it_is_what_is_used(redis, backend):
    with override_settings(CHANNEL_LAYERS=redis.layers(backend), WS_SUPPORT={}):
        assert broker_class() is RedisBroker
        assert "through Redis to every" in broadcasts(2)


def test_an_old_redis_py_is_named(redis, monkeypatch):
    monkeypatch.setattr("redis.__version__", "5.2.1")
    with (
        override_settings(CHANNEL_LAYERS=redis.layers(), WS_SUPPORT={}),
        pytest.raises(ImproperlyConfigured, match=r"need redis 5\.3 or newer, and 5\.2\.1 is"),
    ):
        broker_class()


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.delattr("ws_support._topics.brokers.redis")
    for name in [each for each in sys.modules if "brokers.redis" in each]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "channels_redis.utils", None)
    with pytest.raises(ImproperlyConfigured, match=r"channels_redis.*\[redis\]"):
        broker_class()


# Comings and goings


async def test_topics_that_are_left_in_an_outage_hold_up_nothing_after_it(redis, caplog):
    async with listening("topic") as one:
        await one.broker.subscribe("left")
        redis.stop()
        await eventually(lambda: "Redis is away" in caplog.text)
        await one.broker.unsubscribe("left")
        await one.broker.subscribe("come and gone")
        await one.broker.unsubscribe("come and gone")
        redis.start()
        await eventually(lambda: "Redis is back" in caplog.text)
        [listener] = one.broker._listeners.values()
        assert listener._waiting == {}


async def test_who_subscribes_while_the_last_one_leaves_hears_all():
    async with listening("another") as one:
        await one.broker.subscribe("topic")
        for number in range(20):
            leaving = asyncio.create_task(one.broker.unsubscribe("topic"))
            await asyncio.sleep(0)
            await one.broker.subscribe("topic")
            await leaving
            await published(one, str(number))
            await one.takes(("topic", str(number)))
        await one.broker.unsubscribe("topic")


async def test_topics_that_are_left_together_leave_no_connection(operator):
    one = Receiver()
    for _ in range(3):
        await asyncio.gather(*(one.broker.subscribe(each) for each in "abc"))
        await asyncio.gather(*(one.broker.unsubscribe(each) for each in "abc"))
    assert operator.pubsub_channels() == []
    await eventually(lambda: operator.client_list(_type="pubsub") == [])
    assert not [each for each in asyncio.all_tasks() if each.get_name() == "listener"]


async def test_who_leaves_at_once_waits_for_nothing(operator):
    one = Receiver()
    for _ in range(20):
        await one.broker.subscribe("topic")
        since = time.monotonic()
        await one.broker.unsubscribe("topic")
        assert time.monotonic() - since < 0.9
    assert not [each for each in asyncio.all_tasks() if each.get_name() == "listener"]


async def test_a_message_that_is_on_its_way_when_its_topic_is_left_is_dropped(operator, caplog):
    async with listening("kept") as one:
        await one.broker.subscribe("topic")
        late = Envelope("topic", text("late")).write(b"p" * 12, 1, 0)
        # The loop has read nothing from then on until the topic is left.
        assert operator.publish(channel_of("topic"), late) == 1
        await one.broker.unsubscribe("topic")
        await published(one, "after", topic="kept")
        await one.takes(("kept", "after"))
        assert caplog.text == ""


async def test_who_leaves_and_comes_again_has_missed_nothing():
    publisher = Receiver()
    is_over = False

    async def publish():
        while not is_over:
            await published(publisher, *(["message"] * 5))

    publishing = asyncio.create_task(publish())
    async with listening("another") as one:
        for _ in range(50):
            leaving = asyncio.create_task(one.broker.unsubscribe("topic"))
            for _ in range(3):
                await asyncio.sleep(0)
            time.sleep(0.005)  # noqa: ASYNC251  # It is busy.
            await one.broker.subscribe("topic")
            await leaving
        await one.broker.unsubscribe("topic")
    is_over = True
    await publishing
    assert one.missed == []


async def test_a_message_that_was_refused_is_no_loss_of_others():
    async with listening("topic") as one:
        channel = channel_of("topic")
        with Client.from_url(one.broker._addresses[0].host["address"]) as other:
            for number, base in ((1, 0), (3, 1), (4, 1), (5, 4), (9, 7)):
                other.publish(channel, Envelope("topic", text("x")).write(b"p" * 12, number, base))
        await eventually(lambda: len(one.taken) == 5)
        # Redis has refused 2 and 8; 6 and 7 it has taken.
        assert [count for _, count, _ in one.missed] == [2]


def test_what_publishes_while_the_loop_ends_does_not_hold_it_up():
    async def leave(one):
        try:
            await asyncio.sleep(60)
        finally:
            with suppress(BrokerError):
                await published(one, "has left")

    async def main():
        one = Receiver()
        await one.broker.subscribe("topic")
        tasks = [asyncio.create_task(leave(one)) for _ in range(3)]
        tasks.append(asyncio.create_task(published(one, *(["message"] * 1000))))
        await asyncio.wait(tasks, timeout=0.02)

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # It has not unsubscribed.
        thread.start()
        thread.join(BOUND)
        assert not thread.is_alive()
        gc.collect()


def test_whenever_the_loop_ends_no_connection_is_left_open():
    async def main(milliseconds):
        one = Receiver()
        await one.broker.subscribe("topic")
        await published(one, "message")
        leaving = asyncio.create_task(one.broker.unsubscribe("topic"))
        await asyncio.wait([leaving], timeout=milliseconds / 1000)

    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always", ResourceWarning)
        for tenths in range(30):
            asyncio.run(main(tenths / 10))
        gc.collect()
    assert [str(each.message) for each in left] == []


async def test_an_outage_that_subscribers_come_and_go_in_is_one_line_and_its_end_another(
    redis, caplog
):
    async with listening("topic"):
        redis.stop()
        await eventually(lambda: "Redis is away" in caplog.text)
    for _ in range(3):
        async with listening("topic") as one:
            await eventually(lambda: one.broker._listeners)
    redis.start()
    async with listening("topic"):
        await eventually(lambda: "Redis is back" in caplog.text)
    assert caplog.text.count("Redis is away") == 1


def test_publishers_of_one_loop_have_the_same_numbers():
    async def publishers():
        return {id(Numbers.of_this_loop()) for _ in range(10)}

    assert len(asyncio.run(publishers())) == 1


async def test_no_message_waits_for_more_than_five_seconds(redis, monkeypatch):
    monkeypatch.setattr("ws_support._topics.brokers.redis.publisher.TIMEOUT", 1)
    async with listening("topic") as one:
        redis.pause()
        first = asyncio.create_task(published(one, "first"))
        await asyncio.sleep(0.8)
        since = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await published(one, "second")
        assert time.monotonic() - since < 1.5
        with pytest.raises(BrokerUnavailable):
            await first
        redis.go_on()


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_connections_that_are_ended_are_made_again_and_no_error_is_left(
    operator, kind, caplog
):
    async with listening("topic") as one:
        for number in range(10):
            operator.client_kill_filter(_type=kind, skipme=True)
            await asyncio.sleep(0.01)
            async with listening(f"topic {number}"):
                pass
        await eventually(lambda: operator.pubsub_numsub(channel_of("topic"))[0][1] == 1)
        one.taken.clear()
        for _ in range(2):
            with suppress(BrokerError):
                await published(one, "heard")
        await eventually(lambda: ("topic", "heard") in one.taken)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_lock_that_was_held_at_a_fork_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(Numbers, "_lock", threading.Lock())
    Numbers._lock.acquire()  # By another thread, which the new process does not have.
    Numbers.renew_lock()
    assert Numbers.of_this_loop()


async def test_a_redis_that_answers_no_subscription_is_an_outage(monkeypatch, caplog):
    with monkeypatch.context() as deaf:
        deaf.setattr(Listener, "_answered", lambda *_: None)
        deaf.setattr("ws_support._topics.brokers.redis.listener.TIMEOUT", 0.1)
        one = Receiver()
        await one.broker.subscribe("topic")
        await eventually(lambda: "Redis is away: no answer within" in caplog.text)
    await eventually(lambda: "Redis is back" in caplog.text)
    await one.broker.unsubscribe("topic")
