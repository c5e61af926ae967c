"""Requests with bytes of the client, for the transports that only go down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.hubs.clients import TEXT, Poller, Socket, Stream, Web, router, shake, turns, until
from tests.hubs.recording import new_hub
from tests.hubs.test_long_polling import end, open_poller
from ws_support._connection.registry import open_connections
from ws_support._hubs.messages import Invocation

pytestmark = pytest.mark.usefixtures("problems")


def note(text: str) -> bytes:
    return b'{"type":1,"target":"note","arguments":["%b"]}\x1e' % text.encode()


async def test_a_post_is_answered_when_its_bytes_are_taken_and_not_when_they_are_handled():
    hub = new_hub()
    poller = await open_poller(hub)
    for _ in range(3):
        await poller.send("wait", "gate")
    assert hub.events.count("gate began") <= 1
    hub.gate("gate").set()
    await until(lambda: hub.events.count("gate began") == 3)
    await end(poller)


async def test_a_message_may_come_in_several_posts_and_pieces():
    hub = new_hub()
    poller = await open_poller(hub)
    whole = note("one") + note("two")
    for at in range(0, len(whole), 20):
        async with poller.web.begin("POST", poller.query, None) as post:
            await post.upload(whole[at : at + 10])
            await post.upload(b"")
            await post.upload(whole[at + 10 : at + 20], more_body=False)
            assert (await post.response()).what == (200, TEXT, b"")
    await until(lambda: hub.events == ["connected", "one", "two"])
    await end(poller)


async def test_an_empty_post_is_nothing():
    poller = await open_poller(new_hub())
    assert (await poller.post(b"")).what == (200, TEXT, b"")
    assert await poller.result("echo", 1) == 1
    await end(poller)


async def test_posts_take_their_turns():
    hub = new_hub()
    poller = await open_poller(hub)
    one, two = note("one"), note("two")
    async with poller.web.begin("POST", poller.query, None) as first:
        await first.upload(one[:10])
        await turns()
        second = asyncio.ensure_future(poller.post(two))
        await turns()
        assert not second.done()
        await first.upload(one[10:], more_body=False)
        await first.response()
        assert (await second).status == 200
    await until(lambda: hub.events == ["connected", "one", "two"])
    await end(poller)


async def test_a_post_waits_while_too_much_is_not_read():
    hub = new_hub(APPLICATION_MAX_BUFFER_SIZE=100)
    poller = await open_poller(hub)
    await poller.send("wait", "gate")
    await poller.send("wait", "gate")  # It waits for a slot, and what is behind for it.
    post = asyncio.ensure_future(poller.post(note("x" * 200)))
    await turns()
    assert not post.done()
    hub.gate("gate").set()
    assert (await post).status == 200
    await until(lambda: hub.events[-1] == "x" * 200)
    await end(poller)


async def test_a_post_that_waits_is_answered_404_when_the_connection_ends():
    hub = new_hub(APPLICATION_MAX_BUFFER_SIZE=100)
    poller = await open_poller(hub)
    await poller.send("wait", "gate")
    await poller.send("wait", "gate")
    posts = [asyncio.ensure_future(poller.post(note("x" * 200))) for _ in range(3)]
    await turns()
    await end(poller)
    assert [(await each).status for each in posts] == [404, 404, 404]


async def test_posts_that_wait_behind_another_have_a_bound():
    hub = new_hub(APPLICATION_MAX_BUFFER_SIZE=100)
    poller = await open_poller(hub)
    await poller.send("wait", "gate")
    await poller.send("wait", "gate")
    posts = [asyncio.ensure_future(poller.post(note("x" * 200))) for _ in range(500)]
    await turns(50)
    left = sum(not each.done() for each in posts)
    await end(poller)
    answers = [each.status for each in await asyncio.gather(*posts)]
    assert left == answers.count(404) == 32
    assert answers.count(429) == 468


async def test_a_body_that_is_broken_off_is_answered_400():
    hub = new_hub()
    poller = await open_poller(hub)
    async with poller.web.begin("POST", poller.query, None) as post:
        await post.upload(note("one")[:10])
        await post.send_input({"type": "http.disconnect"})
        # Servers take it, and throw it away.
        post.fail_sends(None)
        assert (await post.response()).what == (400, TEXT, b"")
    await end(poller)


async def test_a_post_may_come_before_the_first_poll():
    web = Web(router(new_hub()))
    poller = Poller(web, await web.token())
    await poller.put(shake())
    assert await poller.next() == {}
    await end(poller)


async def test_there_are_no_posts_for_a_websocket():
    web = Web(router(new_hub()))
    token = await web.token()
    async with Socket(web.application, f"?id={token}"):
        response = await web.request("POST", f"?id={token}", shake())
        assert response.what == (
            405,
            TEXT,
            b"POST requests are not allowed for WebSocket connections.",
        )
        response = await web.request("DELETE", f"?id={token}")
        assert response.what == (
            400,
            TEXT,
            b"Cannot terminate this connection using the DELETE endpoint.",
        )


@pytest.mark.parametrize("kind", [Poller, Stream])
async def test_a_post_to_a_connection_that_ends_is_answered_404(kind: Any):
    hub = new_hub()
    web = Web(router(hub))
    if kind is Poller:
        client: Any = await open_poller(hub)
    else:
        client = await Stream(web, await web.token()).__aenter__()
        await client.shake_hands()
    await client.send("abort")
    await until(
        lambda: (
            not open_connections or all(each.is_ending for each in open_connections._connections)
        )
    )
    response = await client.web.request("POST", client.query, note("late"))
    assert response.what[0] == 404
    await client.until_end()
    if kind is Stream:
        await client.__aexit__(None, None, None)
    await until(lambda: not open_connections)
    assert hub.events == ["connected", "disconnected"]


async def test_a_post_in_messagepack_is_read():
    poller = await Poller.connected(Web(router(new_hub())))
    await poller.shake_hands("messagepack")
    await poller.put_message(Invocation("echo", [b"\x1e\x00"], "1"))
    assert (await poller.next()).result == b"\x1e\x00"
    await end(poller)
