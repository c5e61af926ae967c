"""Groups of consumers, as long as these are connected."""

from __future__ import annotations

import asyncio
import time

import pytest
from channels.layers import channel_layers, get_channel_layer
from django.test import override_settings

from tests.redis import CORE
from tests.test_connection import connected, eventually
from ws_support.consumers import AsyncWebsocketConsumer


class Hears(AsyncWebsocketConsumer):
    async def note(self, event):
        await self.send(event["text"])


class Declared(Hears):
    groups = ["group"]


class Added(Hears):
    async def connect(self):
        await self.channel_layer.group_add("group", self.channel_name)
        await self.accept()


@pytest.fixture
def using(redis):
    """A context in which consumers use this Redis."""

    def use(backend=CORE, **config):
        return override_settings(CHANNEL_LAYERS=redis.layers(backend, **config))

    return use


async def hears(peer):
    """Send to the group until it is heard, as it is once all is restored."""
    sender = channel_layers.make_backend("default")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        await sender.group_send("group", {"type": "note", "text": "heard"})
        try:
            assert (await asyncio.wait_for(peer.outgoing.get(), 0.3))["text"] == "heard"
        except asyncio.TimeoutError:
            continue
        await sender.close_pools()
        return
    raise AssertionError


@pytest.mark.parametrize("consumer", [Declared, Added])
async def test_groups_are_restored_when_redis_has_forgotten_them(redis, using, consumer):
    with using():
        async with connected(consumer.as_asgi()) as peer:
            await hears(peer)
            await eventually(lambda: any("mark" in name for name in redis.names()))
            redis.ask("FLUSHALL")
            await hears(peer)
        assert redis.names() == []
        await get_channel_layer().close_pools()


async def test_groups_are_renewed_before_they_expire(using):
    with using(group_expiry=2):
        async with connected(Added.as_asgi()) as peer:
            start = time.monotonic()
            while time.monotonic() - start < 5:
                await hears(peer)
        await get_channel_layer().close_pools()


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


async def test_who_joins_while_redis_is_away_hears_once_it_is_back(redis, using):
    with using():
        redis.stop()
        async with connected(Added.as_asgi()) as first, connected(Added.as_asgi()) as second:
            redis.start()
            await hears(first)
            await second.next()
        await get_channel_layer().close_pools()
