"""Consumers and views in the tests of a project, under the communicators of Channels."""

from __future__ import annotations

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer as ChannelsConsumer
from channels.generic.websocket import WebsocketConsumer as SyncChannelsConsumer
from channels.testing import WebsocketCommunicator

from tests.peers import connected
from ws_support.asgi import WebSocketSupport
from ws_support.consumers import AsyncWebsocketConsumer
from ws_support.websocket import websocket_view


class Failing(AsyncWebsocketConsumer):
    channel_layer_alias = None

    async def receive(self, text_data=None, bytes_data=None):
        raise LookupError("asked for")


@websocket_view
async def failing(websocket):
    await websocket.accept()
    await websocket.receive()
    raise LookupError("asked for")


async def bare(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    raise LookupError("asked for")


APPLICATIONS = [
    application
    for each in (Failing.as_asgi(), failing, bare)
    for application in (each, WebSocketSupport(each, allow_missing_origin=True))
]


@pytest.mark.parametrize("application", APPLICATIONS)
async def test_a_test_reads_the_exception_of_a_handler(application):
    communicator = WebsocketCommunicator(application, "/ws")
    assert (await communicator.connect())[0]
    await communicator.send_to("hello")
    with pytest.raises(LookupError, match="asked for"):
        await communicator.receive_from()


class OfChannels(ChannelsConsumer):
    channel_layer_alias = None
    codes: list = []

    async def receive(self, text_data=None, bytes_data=None):
        await self.send("too late")

    async def disconnect(self, code):
        self.codes.append(code)
        await self.send("goodbye")


class SyncOfChannels(SyncChannelsConsumer):
    channel_layer_alias = None
    codes: list = []

    def receive(self, text_data=None, bytes_data=None):
        self.send("too late")

    def disconnect(self, code):
        self.codes.append(code)
        self.send("goodbye")


@pytest.mark.parametrize("consumer", [OfChannels, SyncOfChannels])
async def test_a_consumer_of_channels_hears_of_the_end_once_when_its_send_fails(consumer):
    consumer.codes.clear()
    application = WebSocketSupport(consumer.as_asgi(), allow_missing_origin=True)
    async with connected(application) as peer:
        peer.fail_sends(OSError("gone"))
        await peer.says("hello", "unread")
        await peer.leaves(1000)
        await peer.wait()
    assert consumer.codes == [1000]


@pytest.mark.parametrize("consumer", [OfChannels, SyncOfChannels])
async def test_a_consumer_of_channels_that_fails_in_its_disconnect_is_not_told_again(consumer):
    consumer.codes.clear()
    application = WebSocketSupport(consumer.as_asgi(), allow_missing_origin=True)
    async with connected(application) as peer:
        peer.fail_sends(OSError("gone"))
        await peer.leaves(1000)
        await peer.wait()
    assert consumer.codes == [1000]


async def test_a_server_that_never_says_why_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("ws_support._connection.lifecycle._END_TIMEOUT", 0.01)
    OfChannels.codes.clear()
    application = WebSocketSupport(OfChannels.as_asgi(), allow_missing_origin=True)
    async with connected(application) as peer:
        peer.fail_sends(OSError("gone"))
        await peer.says("hello")
        await peer.wait()
    assert OfChannels.codes == [1006]
