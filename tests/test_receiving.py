"""A `receive()` that is cancelled takes no message with it."""

from __future__ import annotations

import asyncio
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.peers import Served, connected
from tests.test_connection import BOUND
from ws_support._connection.queue import MAX_SIZE, MessageQueue
from ws_support.middleware.heartbeat import Heartbeat
from ws_support.middleware.limits import MessageSizeLimit
from ws_support.websocket import websocket_view

STEPS = st.lists(st.sampled_from(["put", "receive", "cancel", "turn"]), max_size=40)


def text_of(message):
    return message if isinstance(message, str) else message["text"]


async def kept(steps, put, receive):
    """What is received when these steps are taken, and then all of the rest."""
    received, sent, receiving = [], 0, None
    tasks = []

    async def take():
        message = await receive()
        # Nothing may be lost from here on: there is no `await`.
        received.append(text_of(message))

    for step in steps:
        if step == "put":
            await put(str(sent))
            sent += 1
        elif step == "receive" and (receiving is None or receiving.done()):
            receiving = asyncio.create_task(take())
            tasks.append(receiving)
        elif step == "cancel" and receiving is not None:
            receiving.cancel()
        elif step == "turn":
            await asyncio.sleep(0)
    await asyncio.gather(*[task for task in tasks if task.cancelling()], return_exceptions=True)
    if receiving is not None and not receiving.done() and len(received) < sent:
        await asyncio.wait_for(receiving, BOUND)
    while len(received) < sent:
        await asyncio.wait_for(take(), BOUND)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return received == [str(number) for number in range(sent)]


def app_that_waits():
    received = asyncio.get_running_loop().create_future()

    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        received.set_result(receive)
        await asyncio.Event().wait()

    return application, received


if sys.version_info >= (3, 11):  # `Task.cancelling()`

    @given(steps=STEPS)
    def test_of_the_queue(steps):
        async def run():
            queue = MessageQueue()

            async def put(text):
                queue.put({"text": text})

            return await kept(steps, put, queue.get)

        assert asyncio.run(run())

    @pytest.mark.parametrize(
        "middleware", [Heartbeat, lambda application: MessageSizeLimit(application, 100)]
    )
    @given(steps=STEPS)
    def test_of_an_application_behind_our_middleware(middleware, steps):
        async def run():
            application, receive = app_that_waits()
            async with connected(middleware(application)) as peer:
                return await kept(steps, peer.says, await receive)

        assert asyncio.run(run())

    @given(steps=STEPS)
    def test_of_a_websocket(steps):
        async def run():
            websockets = asyncio.get_running_loop().create_future()

            @websocket_view
            async def handler(websocket):
                await websocket.accept()
                websockets.set_result(websocket)
                await websocket.wait_closed()

            async with connected(handler) as peer:
                return await kept(steps, peer.says, (await websockets).receive)

        assert asyncio.run(run())


async def test_a_message_that_comes_when_receiving_is_cancelled_is_received_next():
    queue = MessageQueue()
    receiving = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    receiving.cancel()
    # The future is cancelled, and the task has not run since.
    queue.put({"text": "one"})
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert await queue.get() == {"text": "one"}


async def test_two_may_wait_one_after_the_other_has_been_cancelled():
    queue = MessageQueue()
    first = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    first.cancel()
    second = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    queue.put({"text": "one"})
    assert await asyncio.wait_for(second, BOUND) == {"text": "one"}


@pytest.mark.parametrize("text", ["x", "é", "€", "𝄞", "\ud834"])
async def test_the_queue_holds_no_text_in_four_bytes_a_character(text):
    queue = MessageQueue()
    large = {"type": "websocket.receive", "text": "x" * (MAX_SIZE - 200) + text, "more": 1}
    queue.put(large)
    assert not queue.is_full
    ((held, _, _),) = queue._messages
    assert sys.getsizeof(held["text"]) < 2 * MAX_SIZE
    queue.put({"type": "websocket.receive", "text": "x" * 200})
    assert queue.is_full
    assert await queue.get() == large
    assert not queue.is_full


@pytest.mark.parametrize("text", ["é", "€", "𝄞"])
async def test_the_queue_counts_what_a_text_takes_in_memory(text):
    queue = MessageQueue()
    large = text * MAX_SIZE
    queue.put({"type": "websocket.receive", "text": large})
    assert queue.is_full
    assert (await queue.get())["text"] == large
    assert not queue.is_full


@pytest.mark.parametrize("content", [{"text": 5}, {"bytes": 5}, {"text": ["x"], "bytes": None}])
async def test_messages_of_a_layer_may_have_anything(content):
    queue = MessageQueue()
    queue.put({"type": "note", **content})
    assert await queue.get() == {"type": "note", **content}


async def test_a_message_that_is_too_large_closes_also_when_its_receiver_was_cancelled():
    application, receive = app_that_waits()
    blocked = asyncio.Event()

    class Blocking(Served):
        async def serve_send(self, message):
            if message["type"] == "websocket.close" and not blocked.is_set():
                blocked.set()
                await asyncio.Event().wait()
            await super().serve_send(message)

    async with connected(MessageSizeLimit(application, 3), Blocking) as peer:
        receive = await receive
        receiving = asyncio.create_task(receive())
        await peer.says("four")
        await asyncio.wait_for(blocked.wait(), BOUND)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert (await receive())["code"] == 1009
        assert (await peer.receive_output())["code"] == 1009


async def test_a_message_that_is_too_large_ends_a_client_that_does_not_read():
    application, receive = app_that_waits()

    class Full(Served):
        async def serve_send(self, message):
            if message["type"] == "websocket.close":
                await asyncio.Event().wait()
            await super().serve_send(message)

    async with connected(MessageSizeLimit(application, 3), Full) as peer:
        receive = await receive
        await peer.says("four")
        assert (await asyncio.wait_for(receive(), BOUND))["code"] == 1009
