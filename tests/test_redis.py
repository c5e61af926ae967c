"""Broadcasts between processes, through a real Redis."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import ExitStack, suppress

import pytest
from channels.layers import get_channel_layer
from channels_redis.core import RedisChannelLayer
from django.test import override_settings
from websockets.exceptions import ConnectionClosed

from tests.conftest import need_program
from tests.harness import ASGI_SERVERS, BOUND, serving, until
from tests.peers import connected
from tests.project.live import Prices
from tests.redis import BROKER, WAYS, Redis
from tests.test_broadcast import asked, subscribed, tell
from ws_support._topics.brokers.channel_layer.calls import group_of
from ws_support.broadcast import broadcast

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=WAYS)
def shared(request, tmp_path_factory):
    """Two servers with the same Redis, for tests that leave all of them as they are."""
    directory = tmp_path_factory.mktemp("redis")
    redis = Redis(need_program("redis-server"), directory)
    redis.start()
    # Queues that a busy machine does not fill.
    settings = redis.settings(WAYS[request.param], options={"BROADCAST_QUEUE": 1000})
    with (
        serving(directory / "one.log", asgi_server="uvicorn", **settings) as one,
        serving(directory / "two.log", asgi_server="granian", **settings) as two,
    ):
        yield one, two
    redis.stop()


def comes(publisher, topic, reader):
    """Broadcast until a message has come, as it does once everybody is back."""
    for number in range(1000):
        tell(publisher, "broadcast", topic=topic, text=f"new {number}")
        publisher.recv(BOUND)
        try:
            while not reader.recv(0.2).startswith("new "):
                pass
        except TimeoutError:
            continue
        return
    raise AssertionError


def test_every_process_gets_a_message_once(shared):
    with ExitStack() as stack:
        one, two = (subscribed(stack, server, "all") for server in shared)
        publisher = subscribed(stack, shared[0], "publisher")
        tell(publisher, "broadcast many", topic="all", count=300, pause=0.003)
        for reader in (one, two):
            assert [reader.recv(BOUND) for _ in range(300)] == [f"{n} " for n in range(300)]
        assert publisher.recv(BOUND) == "done"
        tell(publisher, "broadcast", topic="all", text="the end")
        assert one.recv(BOUND) == two.recv(BOUND) == "the end"


async def test_what_redis_hands_out_twice_is_sent_once(redis, serve):
    server = serve(asgi_server="uvicorn", **redis.settings())
    layer = RedisChannelLayer(hosts=[f"redis://127.0.0.1:{redis.port}"])
    message = {"type": "ws_support.published", "topic": "all", "text": "twice", "id": "1"}
    with ExitStack() as stack:
        reader = subscribed(stack, server, "all")
        await layer.group_send(group_of("all"), message)
        await layer.group_send(group_of("all"), message)
        await layer.group_send(group_of("all"), {"type": "somebody.else"})
        await layer.group_send(group_of("all"), {**message, "text": "once", "id": "2"})
        assert reader.recv(BOUND) == "twice"
        assert reader.recv(BOUND) == "once"
    await layer.close_pools()


@pytest.mark.parametrize("topic", ["é𝄞", "x" * 1000, "a b/c"])
def test_any_string_is_a_topic(shared, topic):
    one, two = shared
    with ExitStack() as stack:
        publisher = subscribed(stack, one, "publisher")
        reader = subscribed(stack, two, "reader")
        tell(reader, "subscribe", topic=topic)
        assert reader.recv(BOUND) == "subscribed"
        tell(publisher, "broadcast", topic=topic, text="message")
        assert reader.recv(BOUND) == "message"


@pytest.mark.slow
def test_when_a_process_is_killed_the_subscribers_of_others_miss_nothing(two_servers):
    killed, other = two_servers
    with ExitStack() as stack:
        publisher = subscribed(stack, other, "publisher")
        reader = subscribed(stack, other, "all")
        gone = subscribed(stack, killed, "all")
        tell(publisher, "broadcast many", topic="all", count=300, pause=0.005)
        assert gone.recv(BOUND) == "0 "
        killed.process.kill()
        assert [reader.recv(BOUND) for _ in range(300)] == [f"{n} " for n in range(300)]


@pytest.mark.slow
def test_memberships_are_renewed_before_they_expire(redis, serve):
    server = serve(asgi_server="uvicorn", **redis.settings(group_expiry=3))
    with ExitStack() as stack:
        reader = subscribed(stack, server, "all")
        until_later = time.monotonic() + 8
        number = 0
        while time.monotonic() < until_later:
            tell(reader, "broadcast", topic="all", text=str(number))
            assert {reader.recv(BOUND), reader.recv(BOUND)} == {"broadcast", str(number)}
            number += 1
            time.sleep(0.1)


def test_nothing_is_left_in_redis_when_the_last_has_gone(redis, connected_settings, serve):
    server = serve(asgi_server="uvicorn", **connected_settings)
    with ExitStack() as stack:
        publisher = stack.enter_context(server.connect("/topics/publisher"))
        publisher.recv(BOUND)
        for _ in range(100):
            tell(publisher, "subscribe", topic="restless")
            assert publisher.recv(BOUND) == "subscribed"
            tell(publisher, "unsubscribe", topic="restless")
            assert publisher.recv(BOUND) == "unsubscribed"
        assert asked(publisher)["topics"] == 1
    for _ in until("nothing in Redis", redis.names):
        if not redis.names():
            break


@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_a_server_with_subscribers_stops_in_good_order(redis, serve, name):
    server = serve(asgi_server=name, **redis.settings())
    with ExitStack() as stack:
        reader = subscribed(stack, server, "all")
        stack.enter_context(server.connect("/live/subscribed/all"))
        comes(reader, "all", reader)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(BOUND) == 0
    assert redis.names() == []
    assert "destroyed" not in server.log()


def test_the_server_says_where_broadcasts_go(redis, serve):
    server = serve(asgi_server="uvicorn", **redis.settings())
    assert "broadcasts  through RedisChannelLayer to every process" in server.log()
    server = serve(asgi_server="uvicorn", **redis.settings(BROKER))
    assert "broadcasts  through Redis to every process" in server.log()
    server = serve(asgi_server="uvicorn", arguments=("--workers", "2"))
    assert "broadcasts  within each of the 2 processes by itself" in server.log()


async def test_what_is_broadcast_together_arrives_in_order_and_does_not_ask_too_much(redis, way):
    count = 500
    with override_settings(**redis.settings(way, options={"BROADCAST_QUEUE": count})):
        async with connected(Prices.as_asgi()) as peer:
            await asyncio.gather(*(broadcast("prices", str(number)) for number in range(count)))
            assert await peer.texts(count) == [str(number) for number in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "seconds", [0, pytest.param(6, marks=pytest.mark.slow)], ids=["briefly", "for-long"]
)
def test_a_process_that_stands_still_gets_what_was_broadcast_meanwhile(
    connected_settings, serve, seconds
):
    still, other = (serve(asgi_server="uvicorn", **connected_settings) for _ in range(2))
    with ExitStack() as stack:
        reader = subscribed(stack, still, "all")
        publisher = subscribed(stack, other, "publisher")
        still.process.send_signal(signal.SIGSTOP)
        tell(publisher, "broadcast many", topic="all", count=500)
        assert publisher.recv(BOUND) == "done"
        time.sleep(seconds)  # redis-py 8 waits for 5.
        still.process.send_signal(signal.SIGCONT)
        assert [reader.recv(BOUND) for _ in range(500)] == [f"{n} " for n in range(500)]


def test_who_has_missed_messages_that_redis_has_lost_is_closed_with_1013(redis, serve):
    still, other = (serve(asgi_server="uvicorn", **redis.settings()) for _ in range(2))
    with ExitStack() as stack:
        reader = subscribed(stack, still, "all")
        publisher = subscribed(stack, other, "publisher")
        tell(publisher, "broadcast", topic="all", text="heard")
        assert publisher.recv(BOUND) == "broadcast"
        assert reader.recv(BOUND) == "heard"
        still.process.send_signal(signal.SIGSTOP)
        tell(publisher, "broadcast many", topic="all", count=10)
        assert publisher.recv(BOUND) == "done"
        for name in redis.names():
            if "specific" in name:
                redis.ask("DEL", name)
        still.process.send_signal(signal.SIGCONT)
        tell(publisher, "broadcast", topic="all", text="after")
        with suppress(ConnectionClosed):
            while True:  # One may have been on its way.
                reader.recv(BOUND)
        assert reader.close_code == 1013
        still.wait_for_log("Messages are lost")
        assert publisher.recv(BOUND) == "broadcast"
        assert asked(publisher)["lost"] == 0


@pytest.mark.parametrize(
    "message",
    [
        {"type": "somebody.else"},
        {"type": "ws_support.published"},
        {"type": "ws_support.published", "topic": "all", "id": "1", "text": 1},
        {"type": "ws_support.published", "topic": "all", "id": "1", "bytes": "text"},
        {"type": "ws_support.published", "topic": 1, "id": "1", "text": "x"},
        {"type": "ws_support.published", "topic": "all", "id": "1", "text": "x", "number": "1"},
    ],
)
async def test_a_message_that_is_not_ours_is_named_and_is_no_outage(
    redis, caplog, monkeypatch, message
):
    monkeypatch.setattr("ws_support._topics.outages.Strangers._logged_at", None)
    with override_settings(**redis.settings()):
        async with connected(Prices.as_asgi()) as peer:
            layer = get_channel_layer()
            for _ in range(3):
                await layer.group_send(group_of("prices"), message)
            await broadcast("prices", "1.08")
            assert await peer.texts(1) == ["1.08"]
        await layer.close_pools()
    messages = [record.message for record in caplog.records]
    assert sum("A message in the channel layer was skipped" in each for each in messages) == 1
    # redis-py itself may be late on a busy machine.
    assert [each for each in messages if "is away" in each and "Timeout" not in each] == []


async def test_bytes_in_redis_that_nobody_can_read_are_no_outage(redis, caplog, monkeypatch):
    monkeypatch.setattr("ws_support._topics.outages.Strangers._logged_at", None)
    with override_settings(**redis.settings()):
        async with connected(Prices.as_asgi()) as peer:
            await broadcast("prices", "1.07")
            assert await peer.texts(1) == ["1.07"]
            channel = redis.channel_of(group_of("prices"))
            for junk in ("0" * 12 + "junk", "0" * 12, "1", "0" * 12 + chr(5)):
                # As of now: the layer drops what is old when it sends the next one.
                now = str(time.time())
                redis.ask("ZADD", f"asgi{channel.partition('!')[0]}!", now, junk)
            await broadcast("prices", "1.08")
            assert await peer.texts(1) == ["1.08"]
    assert "was skipped" in caplog.text
    assert "layer is away" not in caplog.text


async def test_an_answer_that_nobody_waits_for_is_no_outage(redis, caplog):
    with override_settings(**redis.settings()):
        async with connected(Prices.as_asgi()) as peer:
            layer = get_channel_layer()
            message = {"type": "ws_support.published", "topic": "prices", "id": "1", "text": "x"}
            await layer.group_send(group_of("prices"), {**message, "reply_to": "no channel!!"})
            assert await peer.texts(1) == ["x"]
            await broadcast("prices", "1.08")
            assert await peer.texts(1) == ["1.08"]
        await layer.close_pools()
    assert "layer is away" not in caplog.text
