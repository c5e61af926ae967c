"""Broadcasts through a channel layer that takes its time, in one process."""

from __future__ import annotations

import asyncio

import pytest
from channels.layers import InMemoryChannelLayer
from django.test import override_settings

from tests.test_broadcast import KnownPeer, received
from tests.test_connection import connected
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
        await peer.next()
        await peer.end()
    assert statistics().topics == 0
    assert len(asyncio.all_tasks()) == before


@layer(SlowLayer)
@override_settings(WS_SUPPORT={"BROADCAST_QUEUE": 4})
async def test_messages_that_come_in_one_go_give_a_client_that_reads_its_turn():
    class Slow(KnownPeer):
        __module__ = KnownPeer.__module__

        async def send(self, message):
            await asyncio.sleep(0)
            await super().send(message)

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
        peer.leaves()
        await asyncio.wait_for(peer.task, BOUND)
        assert peer.outgoing.empty()
