"""HTTP requests, as `runasgi` follows them; how they end with a server is in `test_stopping.py`."""

from __future__ import annotations

import asyncio

import pytest

from tests.harness import BOUND
from tests.test_connection import eventually
from ws_support.servers._run.requests import Requests


@pytest.fixture
def requests():
    return Requests()


def serving(requests, application, *received):
    """The task of a request that gets these messages, and what it sends."""
    queue = asyncio.Queue()
    for message in received:
        queue.put_nowait({"type": "http.request", **message})
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http"}
    return asyncio.create_task(requests.serve(application, scope, queue.get, send)), queue, sent


async def test_a_body_comes_in_pieces_and_then_the_end(requests):
    messages = []

    async def application(scope, receive, send):
        while not messages or messages[-1]["type"] == "http.request":
            messages.append(await receive())

    pieces = [{"body": b"1", "more_body": True}, {"body": b"2"}]
    task, queue, _ = serving(requests, application, *pieces)
    await asyncio.sleep(0)
    queue.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(task, BOUND)
    assert [message.get("body") for message in messages] == [b"1", b"2", None]


async def test_a_request_that_the_server_cancels_is_cancelled(requests):
    started = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        started.set()
        await receive()

    task, _, sent = serving(requests, application, {})
    await asyncio.wait_for(started.wait(), BOUND)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, BOUND)
    assert sent == []
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_one_that_hears_of_the_end_is_answered_with_503(requests, caplog):
    started = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        started.set()
        assert await receive() == {"type": "http.disconnect"}

    task, _, sent = serving(requests, application, {})
    await asyncio.wait_for(started.wait(), BOUND)
    requests.stop()  # Nothing endless.
    requests.give_up()
    requests.give_up()  # Nothing more.
    await asyncio.wait_for(task, BOUND)
    assert [message.get("status") for message in sent] == [503, None]
    assert sent[1]["body"] == b"The server is stopping.\n"
    assert len(caplog.records) == 1


async def test_one_that_does_not_hear_of_it_is_cancelled_and_answered_with_503(requests):
    started = asyncio.Event()
    is_cancelled = False

    async def application(scope, receive, send):
        nonlocal is_cancelled
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_cancelled = True

    task, _, sent = serving(requests, application, {})
    await asyncio.wait_for(started.wait(), BOUND)
    # At once: where little time is left, it gets less than it may have otherwise.
    loop = asyncio.get_running_loop()
    begun = loop.time()
    requests.give_up(0)
    await asyncio.wait_for(task, BOUND)
    assert is_cancelled
    assert loop.time() - begun < 1
    assert [message.get("status") for message in sent] == [503, None]


async def test_a_response_that_is_cut_off_is_completed_and_one_that_is_complete_is_not(requests):
    started = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all", "more_body": scope["more"]})
        started.set()
        await receive()

    async def more(scope, receive, send):
        await application({"more": True}, receive, send)

    async def complete(scope, receive, send):
        await application({"more": False}, receive, send)

    bodies = []
    for each in (more, complete):
        task, _, sent = serving(requests, each, {})
        started.clear()
        await asyncio.wait_for(started.wait(), BOUND)
        requests.give_up()
        await asyncio.wait_for(task, BOUND)
        bodies.append([message["body"] for message in sent[1:]])
    assert bodies == [[b"all", b""], [b"all"]]


@pytest.mark.parametrize("is_late", [False, True])
async def test_an_endless_response_ends_as_soon_as_the_server_stops(requests, is_late):
    started = asyncio.Event()
    told = []

    async def application(scope, receive, send):
        await receive()
        if is_late:
            requests.stop()
        headers = [(b"Content-Type", b"Text/Event-Stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        started.set()
        told.append(await receive())

    task, _, sent = serving(requests, application, {})
    await asyncio.wait_for(started.wait(), BOUND)
    if not is_late:
        requests.stop()
    await asyncio.wait_for(task, BOUND)
    assert told == [{"type": "http.disconnect"}]
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def hears(scope, receive, send):
    await receive()
    await receive()


async def test_whoever_served_an_ended_request_is_not_cancelled_for_it_later(requests):
    async def connection():
        queue = asyncio.Queue()
        queue.put_nowait({"type": "http.request"})

        async def send(message):
            raise ConnectionError("The client has gone.")

        await requests.serve(hears, {"type": "http"}, queue.get, send)
        await asyncio.sleep(0.1)
        return "went on"

    task = asyncio.create_task(connection())
    await eventually(lambda: requests._requests)
    requests.give_up(0.05)
    assert await asyncio.wait_for(task, BOUND) == "went on"


async def test_a_request_that_was_answered_is_not_late(requests, caplog):
    task, queue, _ = serving(requests, hears, {})
    queue.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(task, BOUND)
    requests.give_up()
    assert caplog.records == []


BODY = {"type": "http.response.body", "body": b"x", "more_body": True}


@pytest.mark.parametrize("count", [64, 1000])
async def test_what_is_read_in_place_of_one_that_only_sends_waits_for_it(requests, count):
    received = []

    async def application(scope, receive, send):
        for _ in range(count):
            await send(BODY)
        assert queue.qsize() == 4  # One of five has been read.
        while not received or received[-1]["type"] == "http.request":
            received.append(await receive())

    pieces = [{"body": b"%d" % number, "more_body": number < 3} for number in range(4)]
    task, queue, sent = serving(requests, application, *pieces)
    await asyncio.sleep(0)
    queue.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(task, BOUND)
    assert [message.get("body") for message in received] == [b"0", b"1", b"2", b"3", None]
    assert len(sent) == count


async def test_nothing_is_read_in_place_of_one_that_waits_for_it(requests):
    async def application(scope, receive, send):
        receiving = asyncio.ensure_future(receive())
        await asyncio.sleep(0)  # Until it waits.
        for _ in range(1000):
            await send(BODY)
        queue.put_nowait({"type": "http.request", "body": b"late"})
        assert (await receiving)["body"] == b"late"

    task, queue, _ = serving(requests, application)
    await asyncio.wait_for(task, BOUND)


async def test_one_that_only_sends_ends_with_its_client_and_others_have_their_turn(requests):
    started = asyncio.Event()

    async def application(scope, receive, send):
        started.set()
        while True:
            await send(BODY)

    task, queue, _ = serving(requests, application, {"body": b""})
    await asyncio.wait_for(started.wait(), BOUND)
    queue.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(task, BOUND)


async def test_what_else_an_application_raises_is_raised(requests):
    async def application(scope, receive, send):
        raise OSError("the disk is full")

    task, _, _ = serving(requests, application)
    with pytest.raises(OSError, match="the disk is full"):
        await asyncio.wait_for(task, BOUND)
