"""Groups of consumers, as long as these are connected."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from unittest.mock import Mock

import pytest
from channels.layers import InMemoryChannelLayer, get_channel_layer
from channels_redis.pubsub import RedisSingleShardConnection
from django.test import override_settings
from django.utils.module_loading import import_string

from tests.harness import until
from tests.peers import connected
from tests.redis import CORE, PUBSUB
from tests.test_connection import eventually
from ws_support._connection.groups import Groups
from ws_support._connection.queue import MAX_MESSAGES
from ws_support.consumers import AsyncWebsocketConsumer

pytestmark = pytest.mark.long


class Hears(AsyncWebsocketConsumer):
    async def note(self, event):
        await self.send(event["text"])


class Declared(Hears):
    groups = ["group"]


class Does(Hears):
    """Joins and leaves as its client says, which gets the name of its channel."""

    async def connect(self):
        await self.accept()
        await self.send(self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        does, group = text_data.split(" ", 1)
        try:
            await getattr(self.channel_layer, f"group_{does}")(group, self.channel_name)
        except (TypeError, RuntimeError) as error:
            await self.send(type(error).__name__)
        else:
            await self.send("done")


class Added(Hears):
    async def connect(self):
        await self.channel_layer.group_add("group", self.channel_name)
        await self.accept()


@pytest.fixture
def using(redis):
    """A context in which consumers use this Redis."""

    @asynccontextmanager
    async def use(backend=CORE, **config):
        with override_settings(CHANNEL_LAYERS=redis.layers(backend, **config)):
            yield get_channel_layer()
            await get_channel_layer().flush()

    return use


@pytest.fixture
async def hears(redis):
    """Send to the group from elsewhere until it is heard, as it is once all is restored."""
    (settings,) = redis.layers().values()
    sender = import_string(settings["BACKEND"])(**settings["CONFIG"])

    async def hear(peer):
        for _ in range(100):
            await sender.group_send("group", {"type": "note", "text": "heard"})
            with suppress(TimeoutError):
                assert (await peer.receive_output(0.3))["text"] == "heard"
                return
        raise AssertionError("not heard")

    yield hear
    await sender.close_pools()


@pytest.mark.parametrize("consumer", [Declared, Added])
async def test_groups_are_restored_when_redis_has_forgotten_them(redis, using, hears, consumer):
    async with using():
        async with connected(consumer.as_asgi()) as peer:
            await hears(peer)
            await eventually(lambda: any("mark" in name for name in redis.names()))
            redis.ask("FLUSHALL")
            await hears(peer)
        assert redis.names() == []


async def test_groups_are_restored_that_redis_has_forgotten_before_it_was_looked_at(
    redis, using, hears, monkeypatch
):
    mark = Groups._mark

    async def mark_late(self, connection, key):
        redis.ask("FLUSHALL")
        monkeypatch.setattr(Groups, "_mark", mark)
        await mark(self, connection, key)

    monkeypatch.setattr(Groups, "_mark", mark_late)
    async with using(), connected(Added.as_asgi()) as peer:
        await eventually(lambda: Groups._mark is mark)
        await hears(peer)


async def test_groups_are_renewed_before_they_expire(using, hears):
    async with using(group_expiry=2), connected(Added.as_asgi()) as peer:
        start = time.monotonic()
        while time.monotonic() - start < 5:
            await hears(peer)
            await asyncio.sleep(0.1)


async def test_groups_in_memory_are_renewed_too():
    backend = "channels.layers.InMemoryChannelLayer"
    layers = {"default": {"BACKEND": backend, "CONFIG": {"group_expiry": 2}}}
    with override_settings(CHANNEL_LAYERS=layers):
        async with connected(Added.as_asgi()) as peer:
            start = time.monotonic()
            while time.monotonic() - start < 5:
                await get_channel_layer().group_send("group", {"type": "note", "text": "heard"})
                assert await peer.texts(1) == ["heard"]
                await asyncio.sleep(0.1)
        assert get_channel_layer().groups == {}


async def test_who_joins_while_redis_is_away_hears_once_it_is_back(redis, using, hears):
    async with using():
        redis.stop()
        async with connected(Added.as_asgi()) as first, connected(Added.as_asgi()) as second:
            redis.start()
            await hears(first)
            await second.receive_output()


both_layers = pytest.mark.parametrize("backend", [CORE, PUBSUB], ids=["core", "pubsub"])


async def told(peer, *commands):
    """Let the consumer of `Does` do it, and return what it says."""
    await peer.says(*commands)
    return await peer.texts(len(commands))


@both_layers
async def test_groups_that_were_left_while_redis_was_away_are_left_once_it_is_back(
    redis, using, backend, caplog
):
    async with using(backend) as layer, connected(Does.as_asgi()) as stays:
        await stays.receive_output()
        async with connected(Does.as_asgi()) as goes:
            await goes.receive_output()
            assert await told(stays, "add other", "add again") == ["done"] * 2
            assert await told(goes, "add group", "add left") == ["done"] * 2
            redis.stop()
            assert await told(goes, "discard left") == ["done"]
            assert await told(stays, "discard again", "add again") == ["done"] * 2
        redis.start()
        await eventually(lambda: "is back" in caplog.text)
        for name in ("group", "left", "again", "other"):
            await layer.group_send(name, {"type": "note", "text": name})
        assert await stays.texts(2) == ["again", "other"]


@both_layers
async def test_a_group_that_was_never_joined_is_left_without_a_word(redis, using, backend):
    async with using(backend):
        async with connected(Does.as_asgi()) as peer:
            await peer.receive_output()
            assert await told(peer, "add group", "discard other") == ["done"] * 2
        await eventually(lambda: redis.names() == [])


async def test_a_group_that_is_left_first_while_redis_is_away_brings_it_back(redis, using, caplog):
    async with using():
        async with connected(Does.as_asgi()) as peer:
            await peer.receive_output()
            redis.stop()
            assert await told(peer, "discard group") == ["done"]
            redis.start()
            await eventually(lambda: "is back" in caplog.text)
        await eventually(lambda: redis.names() == [])


async def test_what_the_layer_refuses_is_raised_and_forgotten(redis, using, hears):
    async with using(), connected(Does.as_asgi()) as peer:
        await peer.receive_output()
        assert await told(peer, "add no name", "discard no name") == ["TypeError"] * 2
        assert await told(peer, "add group") == ["done"]
        await eventually(lambda: any("mark" in name for name in redis.names()))
        redis.ask("FLUSHALL")
        await hears(peer)


async def test_what_the_layer_refuses_later_keeps_nothing_else_from_being_restored(
    redis, using, hears, caplog
):
    async with using(), connected(Does.as_asgi()) as peer:
        await peer.receive_output()
        redis.stop()
        commands = ["discard first", "add no name", "discard a name", "add group"]
        assert await told(peer, *commands) == ["done"] * 4
        redis.start()
        await hears(peer)
        await eventually(lambda: "is back" in caplog.text)
        groups = Groups.of(get_channel_layer())
        assert list(groups._joined.values()) == [{"group": True}]  # It is not tried again.
    assert "The layer refuses a change of the group 'no name'" in caplog.text
    assert "The layer refuses a change of the group 'a name'" in caplog.text
    assert "Traceback" not in caplog.text


@both_layers
async def test_channels_of_nobody_here_join_and_leave_as_ever(using, backend):
    async with using(backend) as layer:
        Groups.of(layer)
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.group_send("group", {"type": "note"})
        assert await layer.receive(channel) == {"type": "note"}
        await layer.group_discard("group", channel)


async def test_of_several_redis_the_one_that_has_forgotten_is_told_again(redis, using, hears):
    hosts = [f"redis://127.0.0.1:{redis.port}/{number}" for number in range(2)]
    async with using(hosts=hosts) as layer, connected(Does.as_asgi()) as peer:
        await peer.receive_output()
        names = [f"group{number}" for number in range(20)]
        assert {layer.consistent_hash(name) for name in names} == {0, 1}
        assert await told(peer, *[f"add {name}" for name in names]) == ["done"] * 20
        redis.ask("FLUSHDB")
        for name in names:
            for _ in until(f"a message of {name}"):
                await layer.group_send(name, {"type": "note", "text": name})
                with suppress(TimeoutError):
                    assert await peer.receive_output(0.3)
                    break


async def test_what_comes_for_a_consumer_that_has_gone_is_not_kept(using):
    async with using() as layer, connected(Does.as_asgi()) as stays:
        channel = (await stays.receive_output())["text"]
        async with connected(Does.as_asgi()) as goes:
            gone = (await goes.receive_output())["text"]
        await layer.send(gone, {"type": "note", "text": "for nobody"})
        await layer.send(channel, {"type": "note", "text": "next"})
        assert await stays.texts(1) == ["next"]
        assert gone not in layer.receive_buffer


async def test_the_channel_of_a_consumer_that_was_busy_is_given_back_to_redis(redis, using):
    class Busy(Added):
        async def note(self, event):
            await asyncio.Event().wait()

    async with using(PUBSUB) as layer:
        async with connected(Busy.as_asgi()):
            (queue,) = layer.channels.values()
            for _ in range(2 * MAX_MESSAGES):
                await layer.group_send("group", {"type": "note"})
            # Nobody waits for the next one: what is read is full.
            await eventually(lambda: queue.qsize() >= MAX_MESSAGES - 2)
        assert layer.channels == {}
        await eventually(lambda: redis.names() == [])


@both_layers
async def test_who_came_and_went_while_redis_was_away_leaves_nothing_in_redis(
    redis, using, backend, caplog
):
    async with using(backend) as layer, connected(Added.as_asgi()) as stays:
        async with AsyncExitStack() as before:
            for _ in range(10):
                await before.enter_async_context(connected(Added.as_asgi()))
            redis.stop()
        async with AsyncExitStack() as meanwhile:
            for _ in range(10):
                await meanwhile.enter_async_context(connected(Added.as_asgi()))
        async with connected(Added.as_asgi()) as comes:
            redis.start()
            await eventually(lambda: "is back" in caplog.text)
            await layer.group_send("group", {"type": "note", "text": "heard"})
            assert [await comes.texts(1), await stays.texts(1)] == [["heard"]] * 2
            groups = Groups.of(layer)
            await eventually(lambda: not (groups._left or groups._is_unsettled))
            # With those of two consumers, and of the group that they are in.
            await eventually(lambda: len(redis.names()) <= 3)
    await eventually(lambda: redis.names() == [])
    assert "cleaning-up" not in caplog.text
    assert caplog.text.count("The channel layer is away") == 1


async def test_an_error_of_the_layer_at_the_end_is_none_of_the_consumer(redis, using, monkeypatch):
    async def lose(self, channel):
        monkeypatch.undo()
        raise TypeError("'NoneType' object is not callable")

    async with using(PUBSUB):
        async with connected(Added.as_asgi()):
            monkeypatch.setattr(RedisSingleShardConnection, "unsubscribe", lose)
        await eventually(lambda: redis.names() == [])


@both_layers
async def test_many_may_leave_at_once(redis, using, backend, caplog):
    async with using(backend):
        async with AsyncExitStack() as stack:
            peers = [
                await stack.enter_async_context(connected(Declared.as_asgi())) for _ in range(150)
            ]
            for peer in peers:
                await peer.leaves()
            await asyncio.gather(*[peer.wait() for peer in peers])
        await eventually(lambda: redis.names() == [])
    assert "away" not in caplog.text


class LayerThatGoesAway(InMemoryChannelLayer):
    """Channels' own in memory, which can be away as Redis can."""

    is_away = False
    tries = 0

    async def group_add(self, group, channel):
        self.tries += 1
        if self.is_away:
            self.fail()
        await super().group_add(group, channel)

    async def group_discard(self, group, channel):
        if self.is_away:
            self.fail()
        await super().group_discard(group, channel)

    def fail(self):
        raise ConnectionRefusedError("away")


def fail_as_closed_transport() -> None:
    """Raise what asyncio of Python 3.13.0 raises for a connection that is lost when it is used."""
    names: dict = {}
    code = "def writelines(write_ready=None): write_ready()"
    exec(compile(code, "asyncio/selector_events.py", "exec"), names)
    names["writelines"]()


async def test_a_connection_that_is_lost_when_it_is_used_is_an_outage(caplog):
    layer = LayerThatGoesAway()
    groups = Groups.of(layer)
    channel = await groups.new_channel()
    layer.is_away = True
    layer.fail = fail_as_closed_transport
    await layer.group_add("group", channel)
    layer.is_away = False
    await eventually(lambda: channel in layer.groups.get("group", {}))
    await groups.leave(channel)
    assert caplog.text.count("The channel layer is away: TypeError") == 1


async def test_another_error_of_the_layer_is_one_of_its_caller():
    layer = LayerThatGoesAway()
    groups = Groups.of(layer)
    channel = await groups.new_channel()
    layer.is_away = True
    for error in (TypeError("one argument is missing"), LookupError("writelines")):
        layer.fail = Mock(side_effect=error)
        with pytest.raises(type(error)):
            await layer.group_add("group", channel)
    layer.is_away = False
    await groups.leave(channel)


async def test_who_came_and_went_while_the_layer_was_away_leaves_nothing_behind():
    layer = LayerThatGoesAway()
    groups = Groups.of(layer)
    channel = await groups.new_channel()
    layer.is_away = True
    await layer.group_add("group", channel)
    tender = groups._tender
    await eventually(lambda: layer.tries > 2)
    await groups.leave(channel)
    layer.is_away = False
    await asyncio.wait_for(tender, 30)
    assert channel not in layer.groups.get("group", {})
    assert channel not in layer.channels


class LayerThatHangs(InMemoryChannelLayer):
    """Answers nothing when it is asked to leave, as Redis may."""

    is_hanging = True
    tries = 0

    async def group_discard(self, group, channel):
        self.tries += 1
        if self.is_hanging:
            await asyncio.Event().wait()
        await super().group_discard(group, channel)


@pytest.fixture
def hasty(monkeypatch):
    """Look often."""
    monkeypatch.setattr("ws_support._connection.groups._LOOK_EVERY", 0.01)


async def test_who_leaves_does_not_wait_for_a_layer_that_hangs(hasty, monkeypatch):
    for module in ("_connection.groups", "_topics.brokers.channel_layer.calls"):
        monkeypatch.setattr(f"ws_support.{module}.TIMEOUT", 0.1)
    layer = LayerThatHangs()
    groups = Groups.of(layer)
    channel = await groups.new_channel()
    await layer.group_add("group", channel)
    await asyncio.wait_for(layer.group_discard("group", channel), 4)
    layer.is_hanging = False
    tender = groups._tender
    await groups.leave(channel)
    await asyncio.wait_for(tender, 30)
    assert channel not in layer.groups.get("group", {})


async def test_a_consumer_that_is_cancelled_while_it_leaves_leaves_all_the_same(hasty):
    layer = LayerThatHangs()
    groups = Groups.of(layer)
    channel = await groups.new_channel()
    for group in ("first", "second"):
        await layer.group_add(group, channel)
    tender = groups._tender
    leaving = asyncio.create_task(groups.leave(channel))
    await eventually(lambda: layer.tries)
    leaving.cancel()
    await asyncio.wait([leaving])
    layer.is_hanging = False
    await asyncio.wait_for(tender, 30)
    assert channel not in layer.groups.get("second", {})
    # It is nobody's any more, and what others do for it is theirs.
    await layer.group_add("group", channel)
    assert groups._tender.done()


async def test_groups_that_could_not_be_left_are_remembered_up_to_a_limit(hasty, monkeypatch):
    monkeypatch.setattr("ws_support._connection.groups._MAX_LEFT", 2)
    layer = LayerThatGoesAway()
    groups = Groups.of(layer)
    channel = await groups.new_channel()
    names = [f"group{number}" for number in range(5)]
    for name in names:
        await layer.group_add(name, channel)
    layer.is_away = True
    await groups.leave(channel)
    layer.is_away = False
    tender = groups._tender
    await asyncio.wait_for(tender, 30)
    assert sum(channel in layer.groups.get(name, {}) for name in names) == 3


class LayerThatRaises(InMemoryChannelLayer):
    """Raises each of `errors`, and then has a message."""

    def __init__(self, *errors):
        super().__init__()
        self.errors = list(errors)

    async def receive(self, channel):
        if self.errors:
            raise self.errors.pop(0)
        return {"type": "note"}


async def test_what_a_layer_raises_is_raised_unless_a_message_is_malformed():
    layer = LayerThatRaises(ValueError("no message"), RuntimeError("out of order"))
    with pytest.raises(RuntimeError, match="out of order"):
        await Groups.of(layer).receive("specific.x")
    assert await Groups.of(layer).receive("specific.x") == {"type": "note"}
