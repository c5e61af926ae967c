"""A channel layer that raises: what is an outage, and what is something else."""

from __future__ import annotations

import pytest
from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.test import override_settings
from redis import exceptions

from tests.peers import connected
from tests.test_connection import eventually
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


async def test_a_socket_stays_open_while_redis_is_a_replica(redis, monkeypatch, caplog):
    monkeypatch.setattr("ws_support._topics.outages._logged_at", None)
    with override_settings(CHANNEL_LAYERS=redis.layers()):
        consumer = Hears()
        async with connected(consumer) as peer:
            layer = get_channel_layer()
            await eventually(lambda: "bzpopmin" in redis.ask("CLIENT", "LIST"))
            redis.ask("REPLICAOF", "127.0.0.1", "1")
            await eventually(lambda: "The channel layer is away" in caplog.text)
            redis.ask("REPLICAOF", "NO", "ONE")
            # Redis has closed the connections of the other one.
            other = channel_layers.make_backend("default")
            await other.send(consumer.channel_name, {"type": "note", "text": "heard"})
            assert await peer.texts(1) == ["heard"]
            await other.close_pools()
        await layer.close_pools()
