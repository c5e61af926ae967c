"""A channel layer that raises: what is an outage, and what is something else."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from contextlib import asynccontextmanager, suppress

import pytest
from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.test import override_settings
from redis import Redis as Client
from redis import exceptions

from tests.peers import connected
from tests.test_brokers import Receiver
from tests.test_connection import BOUND, eventually
from ws_support._connection.groups import Groups
from ws_support._topics.brokers.base import BrokerError
from ws_support._topics.outages import Outages
from ws_support.broadcast import BroadcastError, broadcast
from ws_support.consumers import AsyncWebsocketConsumer

ANSWERS = [
    exceptions.ReadOnlyError("You can't write against a read only replica."),
    exceptions.ResponseError("UNBLOCKED force unblock from blocking operation"),
    exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."),
    exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
    exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
    exceptions.MasterDownError("Link with MASTER is down"),
    exceptions.ClusterDownError("The cluster is down"),
    exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    exceptions.AuthenticationError("NOAUTH Authentication required."),
    exceptions.NoPermissionError("this user has no permissions to run the command"),
]


class Hears(AsyncWebsocketConsumer):
    async def note(self, event):
        await self.send(event["text"])


async def sooner_or_later(condition):
    """Redis may be asked in vain several times, for 5 s each."""
    deadline = time.monotonic() + 4 * BOUND
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


class Joins(Hears):
    groups = ["group"]


@pytest.fixture
def hasty(monkeypatch):
    """Consumers try again soon."""
    monkeypatch.setattr("ws_support._asyncio.Backoff.next", lambda self: 0.2)


class FailingLayer(InMemoryChannelLayer):
    """Raises what it is given, once, instead of receiving."""

    def __init__(self, **config):
        super().__init__(**config)
        self.errors = []
        self.raised = 0

    async def receive(self, channel):
        if self.errors:
            self.raised += 1
            raise self.errors.pop(0)
        return await super().receive(channel)


@pytest.fixture
def failing(monkeypatch):
    monkeypatch.setattr("ws_support._asyncio.Backoff.next", lambda self: 0)
    backend = {"BACKEND": f"{__name__}.FailingLayer"}
    with override_settings(CHANNEL_LAYERS={"default": backend}):
        yield get_channel_layer()


@pytest.mark.parametrize("error", ANSWERS, ids=lambda error: str(error).split()[0])
async def test_a_redis_that_answers_with_an_error_is_away_and_the_socket_stays_open(failing, error):
    consumer = Hears()
    failing.errors = [error]
    async with connected(consumer) as peer:
        await eventually(lambda: failing.raised)
        await failing.send(consumer.channel_name, {"type": "note", "text": "heard"})
        assert await peer.texts(1) == ["heard"]


async def test_a_socket_stays_open_while_redis_is_a_replica(redis, hasty, caplog):
    def looks():
        """How often Redis was asked if it still has the groups."""
        return int(re.search(r"zscore:calls=(\d+)|$", redis.ask("INFO", "commandstats"))[1] or 0)

    with override_settings(CHANNEL_LAYERS=redis.layers()):
        consumer = Joins()
        async with connected(consumer) as peer:
            layer = get_channel_layer()
            await eventually(lambda: "bzpopmin" in redis.ask("CLIENT", "LIST"))
            await eventually(lambda: any("mark" in name for name in redis.names()))
            redis.ask("REPLICAOF", "127.0.0.1", "1")
            await eventually(lambda: "The channel layer is away" in caplog.text)
            before = looks()
            await sooner_or_later(lambda: looks() >= before + 2)
            assert "is back" not in caplog.text  # It can be read from all the time.
            redis.ask("REPLICAOF", "NO", "ONE")
            await sooner_or_later(lambda: "The channel layer is back" in caplog.text)
            # Redis has closed the connections of the other one.
            other = channel_layers.make_backend("default")
            await other.send(consumer.channel_name, {"type": "note", "text": "heard"})
            assert await peer.texts(1) == ["heard"]
            await other.close_pools()
        await layer.close_pools()


def lines(caplog):
    """What the log says about the layer: "away" or "back", from the first line on."""
    records = [each for each in caplog.records if each.name == "ws_support.channel_layer"]
    return [each.message.split()[4].rstrip(":") for each in records]


class Both(Hears):
    """Uses the layer for a group and for a topic."""

    groups = ["group"]
    subscriptions = ["topic"]

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_add(text_data, self.channel_name)
        await self.send("joined")


async def test_an_outage_is_one_line_for_broadcasts_and_consumers_and_so_is_its_end(
    redis, hasty, way, caplog
):
    with override_settings(**redis.settings(way)):
        async with connected(Both.as_asgi()) as one, connected(Both.as_asgi()) as two:
            redis.stop()
            with pytest.raises(BroadcastError):
                await broadcast("topic", "lost")
            for each in (one, two):
                await each.says("another")
                assert await each.texts(1) == ["joined"]
            await eventually(lambda: lines(caplog) == ["away"])
            redis.start()
            await sooner_or_later(lambda: lines(caplog) == ["away", "back"])
            await broadcast("topic", "after")
            await get_channel_layer().group_send("another", {"type": "note", "text": "heard"})
            for each in (one, two):
                assert sorted(await each.texts(2)) == ["after", "heard"]
        await get_channel_layer().flush()
    assert lines(caplog) == ["away", "back"]


@pytest.mark.slow
async def test_a_password_that_is_changed_is_an_outage_until_it_is_changed_back(
    redis, hasty, way, caplog
):
    with Client(port=redis.port) as operator:
        operator.config_set("requirepass", "rosebud")
        hosts = [f"redis://:rosebud@127.0.0.1:{redis.port}"]
        with override_settings(**redis.settings(way, hosts=hosts)):
            async with connected(Both.as_asgi()) as peer:
                operator.config_set("requirepass", "another")
                for kind in ("normal", "pubsub"):
                    operator.client_kill_filter(_type=kind, skipme=True)
                with pytest.raises(BroadcastError, match="invalid username-password pair"):
                    await until_raised(broadcast, "topic", "lost")
                await peer.says("another")
                assert await peer.texts(1) == ["joined"]
                await eventually(lambda: lines(caplog) == ["away"])
                before = refused(operator)
                await sooner_or_later(lambda: refused(operator) >= before + 5)
                assert lines(caplog) == ["away"]
                operator.config_set("requirepass", "rosebud")
                await sooner_or_later(lambda: lines(caplog) == ["away", "back"])
                await broadcast("topic", "after")
                await get_channel_layer().group_send("another", {"type": "note", "text": "heard"})
                assert sorted(await peer.texts(2)) == ["after", "heard"]
            await get_channel_layer().flush()
    assert lines(caplog) == ["away", "back"]
    assert "rosebud" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pubsub"], indirect=True)
async def test_the_layer_is_back_when_also_those_who_heard_nothing_of_the_outage_are_back(
    redis, hasty, way, caplog, monkeypatch
):
    monkeypatch.setattr("ws_support._topics.brokers.channel_layer.listener._PROBE_EVERY", 60)
    with Client(port=redis.port) as operator:
        operator.config_set("requirepass", "rosebud")
        hosts = [f"redis://:rosebud@127.0.0.1:{redis.port}"]
        with override_settings(**redis.settings(way, hosts=hosts)):
            async with connected(Both.as_asgi()) as peer:
                await broadcast("topic", "before")
                assert await peer.texts(1) == ["before"]
                operator.config_set("requirepass", "another")
                operator.client_kill_filter(_type="normal", skipme=True)
                pubsub = sorted(operator.client_list(_type="pubsub"), key=lambda each: each["sub"])
                # The connection for topics is the last, since it has more channels. Each connects
                # again after whole seconds: the one for topics later than the other.
                for each in pubsub:
                    operator.client_kill_filter(_id=each["id"])
                    await asyncio.sleep(0.3)
                await peer.says("another")
                assert await peer.texts(1) == ["joined"]
                await eventually(lambda: lines(caplog) == ["away"])
                operator.config_set("requirepass", "rosebud")
                await sooner_or_later(lambda: lines(caplog) == ["away", "back"])
                await broadcast("topic", "after")
                assert await peer.texts(1) == ["after"]
            await get_channel_layer().flush()
    assert lines(caplog) == ["away", "back"]


@pytest.mark.parametrize("way", ["pubsub"], indirect=True)
async def test_a_listener_that_has_ended_takes_no_part_in_an_outage(redis, way, caplog):
    async def come_and_go():
        broker = Receiver().broker
        await broker.subscribe("topic")
        listener = broker._listener
        await broker.unsubscribe("topic")
        return listener

    with override_settings(**redis.settings(way)):
        # The event loop of one of them has ended, too.
        ended = [await come_and_go(), await asyncio.to_thread(asyncio.run, come_and_go())]
        user = Outages.of(get_channel_layer()).detector()
        user.lose(BrokerError("no answer"))
        await asyncio.sleep(0)
        assert not any(each._outage.is_away for each in ended)
        user.find()
    assert lines(caplog) == ["away", "back"]


def refused(operator: Client) -> int:
    """How many passwords Redis has refused: redis-py says them with HELLO or AUTH."""
    commands = operator.info("commandstats")
    names = commands.keys() & {"cmdstat_auth", "cmdstat_hello"}
    return sum(commands[name]["failed_calls"] for name in names)


async def until_raised(function, *arguments):
    """A connection that was killed fails in another way, once."""
    for _ in range(10):
        try:
            await function(*arguments)
        except BroadcastError as error:
            if "username" in str(error):
                raise
        await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_a_redis_that_is_far_away_is_no_outage(redis, way, caplog):
    async with delaying(redis.port, 0.1) as port:
        hosts = [f"redis://127.0.0.1:{port}"]
        with override_settings(**redis.settings(way, hosts=hosts)):
            async with connected(Both.as_asgi()) as peer:
                await asyncio.gather(*(broadcast("topic", f"{number}") for number in range(5)))
                assert await peer.texts(5) == ["0", "1", "2", "3", "4"]
                await get_channel_layer().group_send("group", {"type": "note", "text": "heard"})
                assert await peer.texts(1) == ["heard"]
            await get_channel_layer().flush()
            assert lines(caplog) == []


@asynccontextmanager
async def delaying(target: int, delay: float):
    """A port that is connected to another one, so many seconds away in each direction."""
    loop = asyncio.get_running_loop()
    writers = set()

    async def forward(reader, writer):
        with suppress(OSError):
            while data := await reader.read(2**16):
                loop.call_later(delay, writer.write, data)
        loop.call_later(delay, writer.close)

    async def connect(reader, writer):
        there, to_there = await asyncio.open_connection("127.0.0.1", target)
        writers.update((writer, to_there))
        await asyncio.gather(forward(reader, to_there), forward(there, writer))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.close()
    await asyncio.sleep(2 * delay)  # Until what was under way has come.


async def test_a_layer_that_can_only_be_received_from_is_back_when_it_is_quiet(
    failing, monkeypatch, caplog
):
    monkeypatch.setattr("ws_support._connection.groups._CALM", 0.5)
    failing.errors = [ConnectionError("one"), ConnectionError("two"), ConnectionError("three")]
    async with connected(Hears.as_asgi()):
        await eventually(lambda: lines(caplog) == ["away", "back"])
        assert failing.raised == 3
        assert "away: ConnectionError: one." in caplog.text


async def test_an_outage_that_all_clients_have_left_in_is_over_without_a_word(failing, caplog):
    for count in range(1, 3):
        failing.errors = [ConnectionError("gone")]
        async with connected(Hears.as_asgi()):
            await eventually(lambda: lines(caplog) == ["away"] * count)  # noqa: B023
        outage = Groups.of(failing)._outage
        await eventually(lambda: not outage.is_away)  # noqa: B023
    assert lines(caplog) == ["away", "away"]


async def test_a_broker_that_ends_in_an_outage_leaves_its_end_to_others(caplog):
    outages = Outages()
    one, two = outages.detector(), outages.detector()
    for each in (one, two):
        each.lose(BrokerError("no answer"))
        each.lose(BrokerError("still no answer"))
    one.forget()
    one.find()
    assert lines(caplog) == ["away"]
    two.find()
    assert lines(caplog) == ["away", "back"]


def test_a_broker_may_begin_in_another_thread_while_an_outage_is_noted(caplog):
    class Interrupted(Outages):
        def _are_away(self):
            # Another thread has its turn between two steps of the loop.
            each = iter(self._detectors)
            next(each)
            other.start()
            other.join(0.2)
            self._are_away = super()._are_away
            return any(detector.is_away for detector in each)

    outages = Interrupted()
    detectors = [outages.detector(), outages.detector()]
    other = threading.Thread(target=lambda: detectors.append(outages.detector()))
    detectors[0].lose(BrokerError("no answer"))
    other.join(BOUND)
    assert lines(caplog) == ["away"]
    assert len(detectors) == 3
