"""Applications behind `WebSocketSupport` that send, and do not receive."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.peers import Served, connected
from tests.test_connection import eventually
from ws_support._connection.lifecycle import TURN
from ws_support._connection.queue import MAX_MESSAGES
from ws_support.consumers import AsyncWebsocketConsumer
from ws_support.middleware.heartbeat import Heartbeat
from ws_support.signals import disconnected
from ws_support.testing import Peer


def sender(told):
    """Sends for as long as it may, and then receives what is there."""

    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        with suppress(OSError):
            while True:
                await send({"type": "websocket.send", "text": "tick"})
        # What is no data goes nowhere now, and is no error.
        with suppress(OSError):
            await send({"type": "websocket.close"})
        while not told or told[-1]["type"] == "websocket.receive":
            told.append(await receive())

    return application


class Reading(Served):
    """A client that reads whatever comes, and keeps what is no tick."""

    ticks = 0
    is_gone = False

    def fail_sends(self, error):
        super().fail_sends(error)
        self.is_gone = True

    async def serve_send(self, message):
        if message.get("text") != "tick" or self.is_gone:
            await super().serve_send(message)
        else:
            self.ticks += 1


async def ticks(peer, count):
    count += peer.ticks
    await eventually(lambda: peer.ticks >= count)


def texts(told):
    return [message["text"] for message in told[:-1]]


async def test_it_hears_of_the_end_behind_what_it_has_not_received():
    told = []
    async with connected(Heartbeat(sender(told)), Reading) as peer:
        await ticks(peer, 2 * TURN)
        await peer.says("0", "1", "2")
        await peer.leaves(4000)
        await peer.wait()
    assert texts(told) == ["0", "1", "2"]
    assert told[-1] == {"type": "websocket.disconnect", "code": 4000}


class Failing(Reading):
    """A server whose `receive()` raises instead of returning data."""

    async def serve_receive(self):
        message = await super().serve_receive()
        if message["type"] == "websocket.receive":
            raise RuntimeError("The server has failed.")
        return message


async def test_it_hears_of_the_end_also_from_a_server_that_fails(caplog):
    told = []
    async with connected(Heartbeat(sender(told)), Failing) as peer:
        await ticks(peer, 2 * TURN)
        await peer.says("0")
        await peer.wait()
    assert [message["code"] for message in told] == [1006]
    assert "RuntimeError('The server has failed.')" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_heartbeat_is_answered_meanwhile():
    application = Heartbeat(sender([]), interval=60, message="ping", reply="pong")
    async with connected(application, Reading) as peer:
        await ticks(peer, 2 * TURN)
        await peer.says("ping")
        assert (await peer.receive_output())["text"] == "pong"


async def test_no_more_is_read_ahead_than_a_queue_holds():
    told = []
    messages = [str(number) for number in range(MAX_MESSAGES + 10)]
    async with connected(Heartbeat(sender(told)), Reading) as peer:
        await ticks(peer, 2 * TURN)
        await peer.says(*messages)
        await peer.leaves(4000)
        await ticks(peer, 20 * TURN)
        assert peer.received == 1 + MAX_MESSAGES  # One is the handshake.
        peer.fail_sends(OSError("gone"))
        await peer.wait()
    assert texts(told) == messages
    assert told[-1]["code"] == 4000


async def test_an_application_that_lets_the_error_pass_is_reported_with_the_code_of_the_client():
    codes = []

    def note(code, **_):
        codes.append(code)

    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "tick"})

    disconnected.connect(note)
    try:
        async with connected(Heartbeat(application), Reading) as peer:
            await ticks(peer, 2 * TURN)
            await peer.says(*"x" * (MAX_MESSAGES + 10))
            await peer.leaves(4000)
            await ticks(peer, 2 * TURN)
            peer.fail_sends(OSError("gone"))
            await peer.wait()
    finally:
        disconnected.disconnect(note)
    assert codes == [4000]


@pytest.mark.parametrize("begins_before", [False, True])
async def test_one_that_receives_beside_its_sending_gets_its_message(begins_before):
    told = []

    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        receiving = asyncio.create_task(receive())
        if begins_before:
            await asyncio.sleep(0)
        while not receiving.done():
            await send({"type": "websocket.send", "text": "tick"})
        told.append(receiving.result())

    async with connected(Heartbeat(application), Reading) as peer:
        await ticks(peer, 2 * TURN)
        await ticks(peer, 2 * TURN)
        await peer.says("stop")
        await peer.wait()
    assert told[0]["text"] == "stop"


class Echo(AsyncWebsocketConsumer):
    channel_layer_alias = None  # With one, the connection reads ahead from its start.

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data)


def sending_through(application):
    """Wraps `send`, and not `receive`, as the middleware for sessions of Channels does."""

    async def middleware(scope, receive, send):
        async def forward(message):
            await send(message)

        await application(scope, receive, forward)

    return middleware


async def test_a_consumer_whose_send_is_wrapped_gets_every_message():
    async with Peer(Heartbeat(sending_through(Echo.as_asgi())), "/") as peer:
        for number in range(2 * TURN):
            await peer.send(str(number))
            assert await peer.receive() == str(number)


async def test_a_silent_client_is_given_up():
    told = []
    async with connected(Heartbeat(sender(told), interval=0.2), Reading) as peer:
        assert (await peer.receive_output())["code"] == 3008
        await peer.wait()
    assert told[-1]["code"] == 3008


@pytest.mark.parametrize("waits", [False, True])
async def test_it_hears_that_the_server_stops(waits):
    told, watches = [], []

    async def application(scope, receive, send):
        watches.append(receive.__self__)
        await receive()
        await send({"type": "websocket.accept"})
        with suppress(OSError):
            for _ in range(2 * TURN if waits else 10**9):
                await send({"type": "websocket.send", "text": "tick"})
        told.append(await receive())

    async with connected(Heartbeat(application), Reading) as peer:
        await eventually(lambda: peer.ticks >= 2 * TURN)
        await watches[0].drain(1001, "stopping")
        assert (await peer.receive_output())["code"] == 1001
        await peer.wait()
    assert told == [{"type": "websocket.disconnect", "code": 1001, "reason": "stopping"}]
