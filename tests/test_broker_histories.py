"""The contract of a broker with histories, held by each of them."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest
from django.test import override_settings

from tests.redis import BROKER
from tests.test_brokers import Receiver, text
from tests.test_connection import eventually
from ws_support._topics.brokers import memory
from ws_support._topics.brokers.base import BrokerError, Keeping
from ws_support._topics.brokers.memory import Histories
from ws_support._topics.messages import EXCLUDE, JSONText
from ws_support.testing import clear_histories

KEEPING = Keeping(3, 600)


@pytest.fixture(params=["local", "redis", "cluster"])
def kind(request):
    settings = {"CHANNEL_LAYERS": {}}
    if request.param == "redis":
        settings = request.getfixturevalue("redis").settings(BROKER)
    elif request.param == "cluster":
        settings = {"WS_SUPPORT": {"BROKER": request.getfixturevalue("cluster").url}}
    with override_settings(**settings):
        yield request.param


@pytest.fixture
def topic(request):
    """The histories of this process stay for the next test."""
    return f"topic of {request.node.name}"


async def appended(broker, topic, *messages):
    return [(await broker.append(topic, text(each), KEEPING)).position for each in messages]


def texts(log):
    return [each.message["text"] for each in log.entries]


async def test_a_position_is_known_before_the_first_message(kind, topic):
    broker = Receiver().broker
    log = await broker.read(topic, None, 0)
    again = await broker.read(topic, None, 0)
    assert log.position == again.position
    await appended(broker, topic, "first")
    assert texts(await broker.read(topic, log.position, 10)) == ["first"]


async def test_what_follows_a_position_is_read_in_order(kind, topic):
    broker = Receiver().broker
    positions = await appended(broker, topic, "a", "b", "c")
    log = await broker.read(topic, positions[0], 10)
    assert texts(log) == ["b", "c"]
    assert [each.position for each in log.entries] == positions[1:]
    assert (log.position, log.is_complete, log.has_more) == (positions[2], True, False)


async def test_nothing_follows_the_last_position(kind, topic):
    broker = Receiver().broker
    *_, last = await appended(broker, topic, "a", "b")
    assert await broker.read(topic, last, 10) == ([], last, True, False)


async def test_a_part_says_that_more_follows(kind, topic):
    broker = Receiver().broker
    positions = await appended(broker, topic, "a", "b", "c")
    log = await broker.read(topic, positions[0], 1)
    assert (texts(log), log.position, log.has_more) == (["b"], positions[1], True)
    log = await broker.read(topic, log.position, 1)
    assert (texts(log), log.position, log.has_more) == (["c"], positions[2], False)


async def test_without_a_position_the_last_messages_are_read(kind, topic):
    broker = Receiver().broker
    positions = await appended(broker, topic, "a", "b", "c")
    log = await broker.read(topic, None, 2)
    assert (texts(log), log.position, log.has_more) == (["b", "c"], positions[2], False)


async def test_large_messages_are_read_in_parts_also_without_a_position(kind, topic):
    broker = Receiver().broker
    large = ["x" * 700_000, "y" * 700_000, "z" * 700_000]
    positions = await appended(broker, topic, *large)
    log = await broker.read(topic, None, 2)
    assert (texts(log), log.position, log.has_more) == ([large[1]], positions[1], True)
    log = await broker.read(topic, positions[0], 2)
    assert (texts(log), log.position, log.has_more) == ([large[1]], positions[1], True)


async def test_a_history_that_does_not_reach_back_says_so_and_gives_nothing(kind, topic):
    broker = Receiver().broker
    positions = await appended(broker, topic, "a", "b", "c", "d", "e")
    assert texts(await broker.read(topic, positions[1], 10)) == ["c", "d", "e"]
    log = await broker.read(topic, positions[0], 10)
    assert log == ([], positions[4], False, False)


@pytest.mark.parametrize("since", ["0-1", "2-1", "3-1", "99-1"])
async def test_a_position_of_another_history_is_noticed(kind, topic, since):
    broker = Receiver().broker
    positions = await appended(broker, topic, "a", "b", "c")
    assert await broker.read(topic, since, 10) == ([], positions[2], False, False)


async def test_a_history_expires_and_its_last_position_stays(kind, topic):
    broker = Receiver().broker
    short = Keeping(3, 0.05)
    first, _ = await broker.append(topic, text("a"), short)
    last, _ = await broker.append(topic, text("b"), short)
    await asyncio.sleep(0.1)
    assert await broker.read(topic, None, 10) == ([], last, True, False)
    assert await broker.read(topic, last, 10) == ([], last, True, False)
    assert not (await broker.read(topic, first, 10)).is_complete
    after, _ = await broker.append(topic, text("c"), KEEPING)
    assert (await broker.read(topic, last, 10)).entries == [(after, text("c"))]


async def test_every_kind_of_message_is_kept_as_it_is(kind, topic):
    broker = Receiver().broker
    messages = [
        text("Grüße"),
        text(JSONText('{"a": 1}')),
        {"type": "websocket.send", "bytes": b"\x00 h \xff"},
        {**text(""), EXCLUDE: "u:1"},
    ]
    for each in messages:
        await broker.append(topic, each, Keeping(10, 600))
    found = [each.message for each in (await broker.read(topic, None, 10)).entries]
    assert found == messages
    assert isinstance(found[1]["text"], JSONText)


async def test_a_message_is_delivered_with_its_position_and_that_before_it(kind, topic):
    one = Receiver()
    await one.broker.subscribe(topic)
    begin = (await one.broker.read(topic, None, 0)).position
    positions = await appended(one.broker, topic, "a", "b")
    await one.takes((topic, "a"), (topic, "b"))
    assert one.kept == [(positions[0], begin), (positions[1], positions[0])]
    await one.broker.unsubscribe(topic)


async def test_the_broker_knows_how_many_have_taken_a_message(kind, topic):
    one, two = Receiver(), Receiver()
    assert (await one.broker.append(topic, text("a"), KEEPING)).takers == 0
    await one.broker.subscribe(topic)
    await two.broker.subscribe(topic)
    assert (await one.broker.append(topic, text("b"), KEEPING)).takers == 2
    for each in (one, two):
        await each.broker.unsubscribe(topic)


async def test_what_somebody_else_has_put_into_a_history_is_left_out(redis, topic):
    with override_settings(**redis.settings(BROKER)):
        broker = Receiver().broker
        first, last = await appended(broker, topic, "a", "b")
        redis.ask("XADD", f"asgi:log:{{{topic}}}", "3-1", "p", last, "d", "?nonsense")
        redis.ask("SET", f"asgi:position:{{{topic}}}", "3-1")
        log = await broker.read(topic, first, 10)
        assert (texts(log), log.position) == (["b"], "3-1")


async def test_an_entry_of_somebody_else_that_is_newer_stops_nobody_from_publishing(redis, topic):
    with override_settings(**redis.settings(BROKER)):
        broker = Receiver().broker
        first, last = await appended(broker, topic, "a", "b")
        redis.ask("XADD", f"asgi:log:{{{topic}}}", "99-1", "p", "98-1", "d", "tforeign")
        after = await appended(broker, topic, "c", "d")
        assert texts(await broker.read(topic, last, 10)) == ["c", "d"]
        assert await broker.read(topic, first, 10) == ([], after[1], False, False)


async def test_a_damaged_message_is_skipped_and_those_after_it_come(redis, topic, caplog):
    with override_settings(**redis.settings(BROKER)):
        one = Receiver()
        await one.broker.subscribe(topic)
        for damaged in ("h", "h 1-1 0-1", "h x 0-1 tmessage", "h 1-1 0-1 ?", "h 1-1 0-1 T"):
            redis.ask("PUBLISH", f"asgi:0:{{{topic}}}", damaged)
        await appended(one.broker, topic, "after")
        await one.takes((topic, "after"))
        await one.broker.unsubscribe(topic)
    assert "bytes that are no broadcast" in caplog.text


async def test_a_channel_layer_keeps_nothing():
    with override_settings(
        CHANNEL_LAYERS={"default": {"BACKEND": "tests.test_brokers.SharedLayer"}}
    ):
        broker = Receiver().broker
        with pytest.raises(BrokerError, match="it keeps no history"):
            await broker.append("topic", text("a"), KEEPING)
        with pytest.raises(BrokerError, match="it keeps no history"):
            await broker.read("topic", None, 1)


async def test_messages_come_with_pauses_to_who_has_much_to_do(kind, topic):
    one = Receiver()
    one.is_filling = True
    await one.broker.subscribe(topic)
    await appended(one.broker, topic, "a", "b")
    await one.takes((topic, "a"), (topic, "b"))
    await one.broker.unsubscribe(topic)


async def test_messages_of_many_threads_are_delivered_in_the_order_of_the_history(kind, topic):
    one = Receiver()
    await one.broker.subscribe(topic)

    async def publish():
        broker = Receiver().broker
        for number in range(25):
            await broker.append(topic, text(str(number)), Keeping(1000, 600))

    threads = [threading.Thread(target=asyncio.run, args=[publish()]) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        await asyncio.to_thread(each.join)
    log = await one.broker.read(topic, None, 1000)
    await one.takes(*((topic, each) for each in texts(log)))
    assert [position for position, _ in one.kept] == [each.position for each in log.entries]
    await one.broker.unsubscribe(topic)


async def test_the_memory_of_a_history_is_given_back_when_it_has_expired(monkeypatch):
    monkeypatch.setattr(memory, "_SWEEP_EVERY", (0.01, 0.02))
    monkeypatch.setattr(memory, "KEEP_POSITION", 0.1)
    monkeypatch.setattr(memory, "KEEP_BEGINNING", 0.1)
    kept = Histories()
    for seconds in (0.01, 600, 0.05, 0.01):
        for number in range(10):
            kept.append(f"{seconds} {number}", text("kept"), Keeping(3, seconds))
    kept.read("never appended to", None, 1)
    assert len(kept) == 31
    await eventually(lambda: len(kept) == 10)


async def test_of_topics_without_a_message_only_those_that_were_read_last_are_known(monkeypatch):
    monkeypatch.setattr(memory, "_MOST_BEGINNINGS", 3)
    kept = Histories()
    positions = {name: kept.read(name, None, 1).position for name in "abc"}
    assert kept.read("a", positions["a"], 1).is_complete
    kept.read("d", None, 1)
    assert len(kept) == 3
    assert not kept.read("b", positions["b"], 1).is_complete
    assert kept.read("a", positions["a"], 1).is_complete


def test_histories_expire_although_each_call_has_an_event_loop_of_its_own(monkeypatch):
    monkeypatch.setattr(memory, "KEEP_POSITION", 0.01)
    kept = Histories()

    async def append(topic):
        kept.append(topic, text("kept"), Keeping(3, 0.01))

    for number in range(5):
        asyncio.run(append(f"{number}"))
        time.sleep(0.03)
    assert len(kept) <= 2


def test_a_history_expires_although_the_event_loop_that_has_filled_it_is_closed(monkeypatch):
    monkeypatch.setattr(memory, "_SWEEP_EVERY", (0.01, 0.02))
    monkeypatch.setattr(memory, "KEEP_POSITION", 0.01)
    kept = Histories()

    async def append(topic):
        kept.append(topic, text("kept"), Keeping(3, 0.01))

    async def wait():
        await append("second")
        await eventually(lambda: len(kept) == 0)

    asyncio.run(append("first"))
    asyncio.run(wait())


async def test_a_test_may_begin_without_what_others_have_left():
    with override_settings(CHANNEL_LAYERS={}):
        first, _ = await appended(Receiver().broker, "topic of many tests", "a", "b")
        await Receiver().broker.read("topic of nobody", None, 0)
        clear_histories()
        assert len(memory.histories()) == 0
        log = await Receiver().broker.read("topic of many tests", first, 10)
        assert (log.entries, log.is_complete) == ([], False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork(), which this system lacks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_process_that_is_forked_begins_with_no_histories():
    async def append():
        memory.histories().append("topic before the fork", text("kept"), KEEPING)

    asyncio.run(append())
    process = os.fork()
    if process == 0:
        os._exit(len(memory.histories()))
    assert os.waitpid(process, 0)[1] == 0
    assert len(memory.histories()) > 0
