"""The transport over WebSockets."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hubs.clients import Socket, Web, rest, router, shake, until
from tests.hubs.recording import new_hub
from ws_support._asgi import DIRECT
from ws_support._connection.registry import open_connections
from ws_support._hubs.endpoint import Endpoint
from ws_support._hubs.messages import Completion, Invocation, StreamInvocation
from ws_support.hubs import HubRouter, description_of
from ws_support.middleware.heartbeat import Heartbeat
from ws_support.testing import HandshakeRefused

pytestmark = pytest.mark.usefixtures("problems")


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_messages_go_both_ways(protocol):
    async with Socket(router(new_hub())) as socket:
        await socket.shake_hands(protocol)
        assert await socket.result("echo", {"a": [1, None, "ä𝄞"]}) == {"a": [1, None, "ä𝄞"]}
        assert (await socket.result("who"))["transport"] == "WebSockets"
        assert socket.peer.subprotocol is None


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_frames_of_the_client_have_any_type_and_any_size(protocol):
    async with Socket(router(new_hub())) as socket:
        await socket.shake_hands(protocol)
        data = socket.parser.protocol.write(Invocation("echo", ["a"], "1"))
        for at in range(len(data)):
            byte = data[at : at + 1]
            is_text = at % 2 and byte < b"\x80"
            await socket.peer.send(byte.decode() if is_text else byte)
        assert await socket.next() == Completion("1", "a", has_result=True)


async def test_a_frame_with_many_messages_leaves_others_their_turns():
    hub = new_hub()
    turns = 0
    async with Socket(router(hub)) as socket:
        await socket.shake_hands()
        note = socket.parser.protocol.write(Invocation("note", ["the last"]))
        await socket.put(20_000 * b'{"type":6}\x1e' + note)
        await socket.peer.send_input({"type": "websocket.disconnect", "code": 1006})
        while "disconnected" not in hub.events:
            await asyncio.sleep(0)
            turns += 1
    assert hub.events == ["connected", "the last", "disconnected"]
    assert turns >= 40


async def test_answers_go_together_in_one_frame():
    async with Socket(router(new_hub())) as socket:
        await socket.shake_hands()
        await socket.put_message(*[Invocation("echo", [each], str(each)) for each in range(10)])
        assert (await socket.get()).count(b"\x1e") == 10


async def test_without_an_id_there_is_a_connection_all_the_same():
    async with Socket(router(new_hub())) as socket:
        await socket.shake_hands()
        assert len((await socket.result("who"))["id"]) == 24


@pytest.mark.parametrize("id_", ["", "unknown", "%ff", "A" * 52])
async def test_an_unknown_id_is_refused(id_):
    async with Socket.refused(router(new_hub()), f"?id={id_}") as refused:
        assert (refused.status, refused.reason) == (404, "No Connection with that ID")


async def test_a_second_socket_with_the_same_token_is_refused():
    web = Web(router(new_hub()))
    token = await web.token()
    async with Socket(web.application, f"?id={token}") as socket:
        async with Socket.refused(web.application, f"?id={token}") as refused:
            assert refused.status == 409
        await socket.shake_hands()
        assert await socket.result("echo", 1) == 1
    async with Socket.refused(web.application, f"?id={token}") as refused:
        assert refused.status == 404


async def test_two_sockets_at_the_same_time_with_one_token_are_one():
    web = Web(router(new_hub()))
    token = await web.token()
    sockets = [Socket(web.application, f"?id={token}") for _ in range(3)]
    for each in sockets:
        receive = each.peer.serve_receive

        async def later(receive: Any = receive) -> Any:
            await asyncio.sleep(0.01)  # Servers may take their time with the first message.
            return await receive()

        each.peer.serve_receive = later  # type: ignore[method-assign]
    results = await asyncio.gather(*[each.__aenter__() for each in sockets], return_exceptions=True)
    refused = [each for each in results if isinstance(each, HandshakeRefused)]
    assert [each.status for each in refused] == [409, 409]
    [socket] = [each for each in results if isinstance(each, Socket)]
    await socket.shake_hands()
    assert await socket.result("echo", 1) == 1
    await socket.peer.close()


async def test_a_client_that_has_gone_before_its_accept_leaves_nothing():
    hub = new_hub()
    socket = Socket(router(hub))

    async def gone() -> Any:
        return {"type": "websocket.disconnect", "code": 1006}

    socket.peer.serve_receive = gone  # type: ignore[method-assign]
    with pytest.raises(HandshakeRefused):
        await socket.__aenter__()
    await until(lambda: not open_connections)
    assert hub.events == []


async def test_a_client_is_not_read_while_too_much_waits():
    hub = new_hub(APPLICATION_MAX_BUFFER_SIZE=100)
    async with Socket(router(hub)) as socket:
        await socket.shake_hands()
        for _ in range(2):
            await socket.send("wait", "gate")
        for _ in range(20):
            await socket.send("note", "x" * 100)
        await until(lambda: "gate began" in hub.events)
        await asyncio.sleep(0)
        assert socket.peer.unread > 10
        hub.gate("gate").set()
        assert await socket.result("echo", 1) == 1
        assert hub.events.count("x" * 100) == 20


async def test_an_end_while_too_much_waits():
    hub = new_hub(APPLICATION_MAX_BUFFER_SIZE=100)
    socket = await Socket(router(hub)).__aenter__()
    await socket.shake_hands()
    for _ in range(2):
        await socket.send("wait", "gate")
    await socket.send("note", "x" * 300)
    await until(lambda: "gate began" in hub.events)
    [connection] = [each for each in open_connections._connections if hasattr(each, "is_full")]
    await until(lambda: connection.is_full)
    await connection.drain(1012, "")
    await until(lambda: not open_connections)
    await socket.peer.close()
    assert hub.events == ["connected", "gate began", "gate cancelled", "disconnected"]


async def test_a_stream_is_sent_item_by_item_to_a_slow_client():
    hub = new_hub(TRANSPORT_MAX_BUFFER_SIZE=100)
    async with Socket(router(hub)) as socket:
        await socket.shake_hands()
        await socket.put_message(StreamInvocation("counter", [500], "1"))
        items = [await socket.next() for _ in range(501)]
        assert [each.item for each in items[:-1]] == list(range(500))
        assert items[-1] == Completion("1")


async def test_an_error_of_accept_ends_the_connection():
    hub = new_hub()
    socket = Socket(router(hub))
    socket.peer.fail_sends(OSError("gone"))
    with pytest.raises(HandshakeRefused):
        await socket.__aenter__()
    await until(lambda: not open_connections)
    assert hub.events == []


async def test_a_heartbeat_of_the_route_gives_a_silent_client_up():
    hub = new_hub(KEEP_ALIVE_INTERVAL=1000)

    def middleware(inner: Any) -> Any:
        return Heartbeat(inner, interval=0.05, message=None)

    application = HubRouter(rest, {"hub": hub}, middleware=middleware)
    socket = await Socket(application).__aenter__()
    await socket.shake_hands()
    await until(lambda: len(hub.events) == 2)
    assert hub.events[1].startswith("disconnected: TimeoutError")
    await until(lambda: not open_connections)


async def test_the_handshake_of_messagepack_is_answered_in_binary():
    async with Socket(router(new_hub())) as socket:
        await socket.peer.send(shake("messagepack"))
        assert await socket.peer.receive() == b"{}\x1e"


async def test_a_middleware_may_wrap_send():
    sent = []

    def middleware(inner: Any) -> Any:
        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            async def wrapped_send(message: Any) -> None:
                sent.append(message["type"])
                await send(message)

            await inner(scope, receive, wrapped_send)

        return wrapped

    async with Socket(HubRouter(rest, {"hub": new_hub()}, middleware=middleware)) as socket:
        await socket.shake_hands()
        assert await socket.result("echo", 1) == 1
    assert sent == ["websocket.accept", "websocket.send", "websocket.send"]


def endpoint_of(hub: Any) -> Any:
    """The endpoint of a hub alone, without the middlewares of a router."""
    description = description_of(hub)
    return Endpoint(description, description.manager).websocket


async def test_an_endpoint_needs_no_middleware_around_it():
    hub = new_hub()
    async with Socket(endpoint_of(hub)) as socket:
        await socket.shake_hands()
        await socket.peer.send_input({"type": "websocket.unknown"})
        assert (await socket.result("echo", 1)) == 1
    assert hub.events == ["connected", "disconnected"]


async def test_a_send_that_fails_at_once_is_a_client_that_has_gone():
    hub = new_hub()
    socket = Socket(endpoint_of(hub))
    # As servers have it whose send() waits only for clients that are slow.
    socket.peer.scope["extensions"] = {DIRECT: SimpleNamespace(send=socket.peer.serve_send)}
    async with socket:
        await socket.shake_hands()
        assert await socket.result("echo", 1) == 1
        socket.peer.fail_sends(OSError("gone"))
        await socket.put_message(Invocation("echo", [1], "7"))
        await until(lambda: not open_connections)
    assert hub.events == ["connected", "disconnected"]


async def test_an_error_of_a_server_that_is_no_client_that_has_gone_is_raised(problems):
    socket = Socket(endpoint_of(new_hub()))
    socket.peer.fail_sends(LookupError("no such thing"))
    with pytest.raises(LookupError):
        async with socket:
            pass
    await until(lambda: not open_connections)
