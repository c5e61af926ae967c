"""The transport over long polling."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.hubs.clients import (
    BINARY,
    TEXT,
    Clock,
    Parser,
    Poller,
    Response,
    Socket,
    Stream,
    Web,
    router,
    shake,
    turns,
    until,
)
from tests.hubs.recording import Recording, new_hub
from ws_support._connection.registry import open_connections
from ws_support._hubs.messages import Close, Completion, Invocation, Ping
from ws_support.hubs import hub_context

pytestmark = pytest.mark.usefixtures("problems")


async def open_poller(hub: Any, protocol: str = "json", query: str = "") -> Poller:
    poller = await Poller.connected(Web(router(hub)), query)
    await poller.shake_hands(protocol)
    return poller


async def end(poller: Poller) -> None:
    assert (await poller.web.request("DELETE", poller.query)).what == (202, TEXT, b"")
    await until(lambda: not open_connections)


async def waiting_poll(poller: Poller) -> asyncio.Task[Response]:
    task = asyncio.ensure_future(poller.poll())
    await turns()
    assert not task.done()
    return task


def is_not_kept(response: Response) -> bool:
    return (
        response.headers["cache-control"],
        response.headers["pragma"],
        response.headers["expires"],
    ) == ("no-cache, no-store", "no-cache", "Thu, 01 Jan 1970 00:00:00 GMT")


async def test_the_first_poll_is_answered_at_once_and_empty():
    web = Web(router(new_hub()))
    poller = Poller(web, await web.token())
    response = await poller.poll()
    assert response.what == (200, BINARY, b"")
    assert response.headers["content-length"] == "0"
    assert is_not_kept(response)
    await end(poller)


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_a_poll_is_answered_with_all_that_waits(protocol):
    poller = await open_poller(new_hub(), protocol)
    calls = [Invocation("echo", [each], str(each)) for each in range(3)]
    await poller.put_message(*calls)
    await turns()
    response = await poller.poll()
    assert response.what[:2] == (200, BINARY)
    assert is_not_kept(response)
    poller.parser.feed(response.body)
    assert poller.parser.messages == [
        Completion(str(each), each, has_result=True) for each in range(3)
    ]
    await end(poller)


async def test_a_poll_waits_for_a_message():
    poller = await open_poller(new_hub())
    poll = await waiting_poll(poller)
    await poller.put_message(Invocation("echo", [1], "1"))
    response = await poll
    assert response.what == (200, BINARY, b'{"type":3,"invocationId":"1","result":1}\x1e')
    await end(poller)


async def test_a_poll_without_a_message_is_answered_after_90_s(clock: Clock):
    poller = await open_poller(new_hub())
    poll = await waiting_poll(poller)
    await clock.forward(89)
    assert not poll.done()
    await clock.forward(2)
    response = await poll
    assert response.what == (200, TEXT, b"")
    assert response.headers["content-length"] == "0"
    assert is_not_kept(response)
    assert await poller.result("echo", 1) == 1
    await end(poller)


async def test_before_the_handshake_no_poll_is_answered_empty(clock: Clock):
    poller = await Poller.connected(Web(router(new_hub(POLL_TIMEOUT=3))))
    poll = await waiting_poll(poller)
    for _ in range(3):
        await clock.forward(4)
        assert not poll.done()
    await poller.post(shake())
    assert (await poll).body == b"{}\x1e"
    await end(poller)


async def test_the_end_is_the_close_message_and_then_204_and_then_404(clock: Clock):
    hub = new_hub()
    poller = await open_poller(hub)
    await poller.send("abort")
    await turns()
    parser = Parser("json")
    parser.feed(b"{}\x1e" + (await poller.poll()).body)
    assert parser.messages == [{}, Close()]
    response = await poller.poll()
    assert response.what == (204, TEXT, b"")
    assert is_not_kept(response)
    assert "content-length" not in response.headers
    await until(lambda: not open_connections)
    assert (await poller.poll()).what == (204, TEXT, b"")
    await clock.forward(32)
    await end(await open_poller(hub))
    assert (await poller.poll()).what == (404, TEXT, b"No Connection with that ID")
    del hub.events[2:]
    assert hub.events == ["connected", "disconnected"]


async def test_a_poll_behind_the_close_message_is_answered_204_while_the_hub_is_busy():
    class Busy(Recording):
        async def on_disconnected(self, error: Exception | None) -> None:
            await self.gate("end").wait()

    hub = new_hub(Busy)
    poller = await open_poller(hub)
    assert await poller.result("echo", 1) == 1
    await poller.send("abort")
    assert await poller.next() == Close()
    assert (await poller.poll()).what == (204, TEXT, b"")
    assert open_connections
    hub.gate("end").set()
    await until(lambda: not open_connections)


async def test_a_close_message_that_nobody_fetches_holds_up_the_end_for_5_s(clock: Clock):
    hub = new_hub()
    poller = await open_poller(hub)
    await poller.send("abort")
    await turns()
    assert hub.events == ["connected"]
    await clock.forward(5.1)
    await until(lambda: not open_connections)
    assert hub.events == ["connected", "disconnected"]


async def test_a_newer_poll_takes_over():
    poller = await open_poller(new_hub())
    older = await waiting_poll(poller)
    newer = await waiting_poll(poller)
    assert (await older).what == (204, TEXT, b"")
    await poller.put_message(Invocation("echo", [1], "1"))
    assert (await newer).what[:2] == (200, BINARY)
    await end(poller)


async def test_a_thousand_polls_leave_one(problems):
    poller = await open_poller(new_hub())
    polls = [asyncio.ensure_future(poller.poll()) for _ in range(1000)]
    await until(
        lambda: sum(each.done() for each in polls) == 999,
        lambda: sum(each.done() for each in polls),
    )
    await poller.put_message(Invocation("echo", [1], "1"))
    answers = [(await each).status for each in polls]
    assert sorted(answers) == [200] + 999 * [204]
    await end(poller)


async def test_delete_ends_the_connection_and_the_poll_that_waits():
    hub = new_hub()
    poller = await open_poller(hub)
    poll = await waiting_poll(poller)
    await end(poller)
    assert (await poll).what == (204, TEXT, b"")
    assert hub.events == ["connected", "disconnected"]
    # Some clients say it twice, and browsers would show an error.
    response = await poller.web.request("DELETE", poller.query)
    assert response.what == (202, TEXT, b"")


async def test_delete_drops_what_waits():
    hub = new_hub()
    poller = await open_poller(hub)
    await poller.put_message(Invocation("echo", [1], "1"))
    await turns()
    await end(poller)
    assert (await poller.poll()).status == 204


async def test_delete_twice_is_one_end():
    hub = new_hub()
    poller = await open_poller(hub)
    answers = await asyncio.gather(*[poller.web.request("DELETE", poller.query) for _ in range(5)])
    assert {each.status for each in answers} <= {202, 404}
    await until(lambda: not open_connections)
    assert hub.events == ["connected", "disconnected"]


async def test_a_client_that_stops_polling_is_gone_after_15_s(clock: Clock):
    hub = new_hub()
    poller = await open_poller(hub)
    await clock.forward(14)
    assert hub.events == ["connected"]
    poll = await waiting_poll(poller)
    await clock.forward(30)
    await poller.put_message(Invocation("echo", [1], "1"))
    await poll
    await clock.forward(14)
    assert hub.events == ["connected"]
    await clock.forward(2)
    await clock.forward(6)
    await until(lambda: not open_connections)
    assert hub.events == ["connected", "disconnected"]


async def test_a_client_that_never_polls_after_its_handshake_is_gone_after_15_s(clock: Clock):
    hub = new_hub()
    poller = await Poller.connected(Web(router(hub)))
    await poller.post(shake())
    await clock.forward(16)
    await clock.forward(6)
    await until(lambda: not open_connections)
    assert hub.events == ["connected", "disconnected"]


async def test_a_client_that_leaves_its_poll_is_gone_after_15_s(clock: Clock):
    hub = new_hub()
    poller = await open_poller(hub)
    async with poller.web.begin("GET", poller.query) as poll:
        await turns()
        await poll.leave()
    await clock.forward(14)
    assert hub.events == ["connected"]
    await clock.forward(2)
    await until(lambda: not open_connections)
    assert hub.events == ["connected", "disconnected"]


async def test_what_comes_after_a_poll_was_left_is_there_for_the_next():
    poller = await open_poller(new_hub())
    async with poller.web.begin("GET", poller.query) as poll:
        await turns()
        await poll.leave()
    assert await poller.result("echo", 1) == 1
    await end(poller)


async def test_a_poll_whose_receive_fails_is_a_client_that_has_gone():
    poller = await open_poller(new_hub())
    poll = poller.web.begin("GET", poller.query)

    async def broken() -> Any:
        raise OSError("gone")

    poll.serve_receive = broken  # type: ignore[method-assign]
    async with poll:
        assert (await poll.response()).status == 204
    await end(poller)


async def test_there_are_no_pings_over_long_polling(clock: Clock):
    poller = await open_poller(new_hub(KEEP_ALIVE_INTERVAL=15, CLIENT_TIMEOUT_INTERVAL=30))
    await poller.put_message(Ping())
    poll = await waiting_poll(poller)
    await clock.forward(40)
    assert not poll.done()
    await end(poller)
    await poll


async def test_a_broadcast_waits_for_the_next_poll():
    hub = new_hub()
    poller = await open_poller(hub)
    assert await poller.result("echo", 1) == 1
    for text in ("one", "two"):
        await hub_context(hub).clients.all.send("Told", text)
    assert [await poller.next(), await poller.next()] == [
        Invocation("Told", ["one"]),
        Invocation("Told", ["two"]),
    ]
    await end(poller)


async def test_more_than_64_kib_of_broadcasts_end_a_client_that_does_not_poll():
    hub = new_hub(CLOSE_TIMEOUT=0.01)
    poller = await open_poller(hub)
    assert await poller.result("echo", 1) == 1
    for _ in range(5):
        await hub_context(hub).clients.all.send("Told", "x" * 30_000)
    await until(lambda: not open_connections)
    assert hub.events[1].startswith("disconnected: TooSlow")


async def test_methods_run_on_between_two_polls():
    hub = new_hub()
    poller = await open_poller(hub)
    for each in range(10):
        await poller.send("note", str(each))
    await until(lambda: len(hub.events) == 11)
    assert hub.events[1:] == [str(each) for each in range(10)]
    await end(poller)


async def test_the_scope_is_that_of_the_first_poll():
    hub = new_hub()
    poller = await open_poller(hub, query="&user=ann")
    assert (await poller.result("who"))["user"] == "ann"
    poller.query = poller.query.replace("ann", "bob")
    who = await poller.result("who")
    assert (who["user"], who["transport"]) == ("ann", "LongPolling")
    await end(poller)


async def test_a_connection_that_polls_is_not_carried_by_anything_else():
    poller = await open_poller(new_hub())
    stream = await poller.web.request("GET", poller.query, headers={"accept": "text/event-stream"})
    assert stream.what == (400, TEXT, b"Cannot change transports mid-connection")
    async with Socket.refused(poller.web.application, poller.query) as refused:
        assert (refused.status, refused.reason) == (
            400,
            "Cannot change transports mid-connection",
        )
    await end(poller)


async def test_a_connection_of_another_transport_is_not_polled():
    web = Web(router(new_hub()))
    async with Stream(web, await web.token()) as stream:
        response = await web.request("GET", stream.query)
        assert response.what == (400, TEXT, b"Cannot change transports mid-connection")
    token = await web.token()
    async with Socket(web.application, f"?id={token}"):
        response = await web.request("GET", f"?id={token}")
        assert response.what == (400, TEXT, b"Cannot change transports mid-connection")


async def test_two_first_polls_make_one_connection():
    web = Web(router(new_hub()))
    poller = Poller(web, await web.token())
    polls = [asyncio.ensure_future(poller.poll()) for _ in range(2)]
    await turns()
    assert len(open_connections) == 1
    await end(poller)
    assert sorted([(await each).status for each in polls]) == [200, 204]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("", 400, b"Connection ID required"),
        ("?id=", 400, b"Connection ID required"),
        ("?other=1", 400, b"Connection ID required"),
        ("?id=%ff", 404, b"No Connection with that ID"),
        ("?id=unknown", 404, b"No Connection with that ID"),
        ("?" + "&".join(["a=1"] * 200) + "&id=1", 400, b"Connection ID required"),
    ],
)
async def test_a_request_needs_the_id_of_a_connection(method, query, status, text):
    response = await Web(router(new_hub())).request(method, query)
    assert response.what == (status, TEXT, text)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "TRACE", "BREW"])
async def test_other_methods_are_not_allowed(method):
    web = Web(router(new_hub()))
    response = await web.request(method, f"?id={await web.token()}")
    assert response.what == (405, TEXT, b"")


async def test_names_in_the_query_have_any_case():
    web = Web(router(new_hub()))
    poller = await Poller.connected(web)
    poller.query = poller.query.replace("?id=", "?ID=")
    assert await poller.shake_hands() == {}
    await end(poller)
