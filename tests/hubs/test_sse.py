"""The transport over server-sent events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.hubs.clients import (
    CLOSED,
    TEXT,
    Clock,
    Stream,
    Web,
    http_scope,
    router,
    shake,
    turns,
    until,
)
from tests.hubs.recording import new_hub
from tests.hubs.test_ends import drain
from ws_support._connection.registry import open_connections
from ws_support._hubs.messages import Close, Invocation, Ping
from ws_support._hubs.transports import sse
from ws_support._hubs.transports.sse import as_events
from ws_support.hubs import hub_context
from ws_support.testing import BOUND

pytestmark = pytest.mark.usefixtures("problems")


async def open_stream(hub: Any, query: str = "") -> Stream:
    web = Web(router(hub))
    stream = await Stream(web, await web.token(), query).__aenter__()
    assert await stream.shake_hands() == {}
    return stream


async def leave(stream: Stream) -> None:
    await stream.__aexit__(None, None, None)
    await until(lambda: not open_connections)


async def test_the_response_begins_at_once_and_is_not_kept_or_compressed():
    web = Web(router(new_hub()))
    async with Stream(web, await web.token()) as stream:
        assert stream.start.status == 200
        headers = {
            "content-type": "text/event-stream",
            "cache-control": "no-cache,no-store",
            "pragma": "no-cache",
            "content-encoding": "identity",
            "x-accel-buffering": "no",
        }
        assert headers.items() <= stream.start.headers.items()
        assert "content-length" not in stream.start.headers


async def test_messages_go_both_ways():
    hub = new_hub()
    stream = await open_stream(hub, "&user=ann")
    who = await stream.result("who")
    assert (who["user"], who["transport"]) == ("ann", "ServerSentEvents")
    await leave(stream)
    assert hub.events == ["connected", "disconnected"]


def test_lines_in_a_message_are_lines_of_its_event():
    assert as_events(b"a\nb\r\nc\rd") == b"data: a\r\ndata: b\r\ndata: c\r\ndata: d\r\n\r\n"
    assert as_events(b"\x1e") == b"data: \x1e\r\n\r\n"


async def test_whole_messages_go_together():
    stream = await open_stream(new_hub())
    await stream.put_message(*[Invocation("echo", [each], str(each)) for each in range(3)])
    data = await stream.get()
    assert data.count(b"\x1e") == 3
    await leave(stream)


async def test_there_is_no_messagepack():
    web = Web(router(new_hub()))
    async with Stream(web, await web.token()) as stream:
        await stream.put(shake("messagepack"))
        assert await stream.until_end() == [
            {
                "error": "Cannot use the 'messagepack' protocol on the current transport."
                " The transport does not support 'Binary' transfer format."
            }
        ]


async def test_there_are_pings(clock: Clock):
    stream = await open_stream(new_hub())
    for _ in range(2):
        await clock.forward(15.1)
        assert await stream.next() == Ping()
    await leave(stream)


async def test_a_silent_client_is_given_up(clock: Clock):
    hub = new_hub(KEEP_ALIVE_INTERVAL=1000)
    stream = await open_stream(hub)
    await stream.put_message(Ping())
    await clock.forward(31)
    assert await stream.until_end() == [Close(CLOSED, True)]
    await leave(stream)
    assert hub.events[1].startswith("disconnected: Silent")


async def test_the_response_ends_when_the_server_ends_the_connection():
    hub = new_hub()
    stream = await open_stream(hub)
    await stream.send("abort")
    assert await stream.until_end() == [Close()]
    await stream.request.wait()
    await leave(stream)
    assert hub.events == ["connected", "disconnected"]


async def test_a_response_that_has_just_begun_does_not_end_at_once():
    web = Web(router(new_hub()))
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    async with Stream(web, await web.token()) as stream:
        await drain()
        await stream.request.wait()
        assert loop.time() - began_at >= 0.2


async def test_a_drain_lets_the_client_come_back():
    hub = new_hub()
    stream = await open_stream(hub)
    await drain()
    assert await stream.until_end() == [Close(None, True)]
    await leave(stream)
    assert hub.events == ["connected", "disconnected"]


async def test_a_cancelled_request_ends_the_connection():
    hub = new_hub()
    stream = await open_stream(hub)
    await stream.result("echo", 1)
    stream.request.cancel()
    await until(lambda: not open_connections)
    await leave(stream)
    assert hub.events == ["connected", "disconnected"]


async def test_a_send_that_fails_ends_the_connection():
    hub = new_hub()
    stream = await open_stream(hub)
    await stream.result("echo", 1)
    stream.request.fail_sends(OSError("gone"))
    await stream.put_message(Invocation("echo", [1], "7"))
    await until(lambda: not open_connections)
    await leave(stream)
    assert hub.events == ["connected", "disconnected: OSError: gone"]


async def test_a_write_that_waits_too_long_ends_the_connection(clock: Clock):
    hub = new_hub(TRANSPORT_SEND_TIMEOUT=10, KEEP_ALIVE_INTERVAL=1000)
    stream = await open_stream(hub)
    await stream.result("echo", 1)
    stream.request.pause_reading()
    await stream.put_message(Invocation("echo", [1], "7"))
    await clock.forward(10.1)
    await until(lambda: not open_connections)
    assert hub.events[1].startswith("disconnected: TimeoutError")
    stream.request.resume_reading()
    await leave(stream)


async def test_a_receive_that_fails_ends_the_connection():
    hub = new_hub()
    web = Web(router(hub))
    stream = Stream(web, await web.token())
    fails = asyncio.Event()

    async def broken() -> Any:
        await fails.wait()
        raise OSError("gone")

    stream.request.serve_receive = broken  # type: ignore[method-assign]
    async with stream:
        await stream.shake_hands()
        await stream.result("echo", 1)
        fails.set()
        await until(lambda: not open_connections)
    assert hub.events == ["connected", "disconnected"]


async def test_a_second_stream_is_refused():
    stream = await open_stream(new_hub())
    response = await stream.web.request(
        "GET", stream.query, headers={"accept": "text/event-stream"}
    )
    assert response.what == (409, TEXT, b"")
    await leave(stream)


async def test_two_streams_with_one_token_make_one_connection():
    hub = new_hub()
    web = Web(router(hub))
    token = await web.token()
    streams = [Stream(web, token) for _ in range(2)]
    for each in streams:
        await each.request.__aenter__()
    starts = [(await each.request.start()).status for each in streams]
    assert sorted(starts) == [200, 409]
    for each in streams:
        await leave(each)


async def test_delete_is_refused():
    stream = await open_stream(new_hub())
    response = await stream.web.request("DELETE", stream.query)
    assert response.what == (
        400,
        TEXT,
        b"Cannot terminate this connection using the DELETE endpoint.",
    )
    await leave(stream)


async def test_a_stream_that_is_over_does_not_come_back():
    stream = await open_stream(new_hub())
    await leave(stream)
    response = await stream.web.request(
        "GET", stream.query, headers={"accept": "text/event-stream"}
    )
    assert response.what == (404, TEXT, b"No Connection with that ID")


async def test_broadcasts_come():
    hub = new_hub()
    stream = await open_stream(hub)
    await stream.result("echo", 1)
    await hub_context(hub).clients.all.send("Told", 1)
    assert await stream.next() == Invocation("Told", [1])
    await leave(stream)


async def test_a_client_that_leaves_before_the_handshake_is_unknown_to_the_hub():
    hub = new_hub()
    web = Web(router(hub))
    async with Stream(web, await web.token()):
        await turns()
    await until(lambda: not open_connections)
    assert hub.events == []


async def test_a_client_that_reads_nothing_does_not_keep_its_request(monkeypatch):
    monkeypatch.setattr(sse, "_LAST_TIMEOUT", 0.01)
    hub = new_hub(TRANSPORT_SEND_TIMEOUT=0.01)
    web = Web(router(hub))
    token = await web.token()
    is_blocked = asyncio.Event()
    never = asyncio.Event()

    async def receive() -> Any:
        await never.wait()

    async def send(message: Any) -> None:
        if is_blocked.is_set():
            await never.wait()

    scope = http_scope("GET", f"/hub?id={token}", {"accept": "text/event-stream"})
    request = asyncio.create_task(router(hub)(scope, receive, send))
    await until(lambda: open_connections)
    is_blocked.set()
    await web.request("POST", f"?id={token}", shake())
    await asyncio.wait_for(request, BOUND)
    await until(lambda: hub.events[1:] == ["disconnected: TimeoutError: "])
