"""`WebSocket` and `websocket_view`, on every server."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from functools import partial

import pytest
from websockets.exceptions import ConnectionClosed

from tests.harness import ASGI_SERVERS, BOUND, serving
from tests.peers import Served, connected
from tests.servers.test_behaviours import expected
from ws_support.broadcast import broadcast
from ws_support.exceptions import InvalidMessage
from ws_support.middleware.heartbeat import Heartbeat
from ws_support.websocket import ConnectionClosed as ConnectionHasEnded
from ws_support.websocket import websocket_view


@pytest.fixture(scope="module", params=ASGI_SERVERS)
def server(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    with serving(log_file, asgi_server=request.param) as server:
        yield server


def ending(socket):
    with pytest.raises(ConnectionClosed) as closed:
        list(iter(partial(socket.recv, BOUND), None))
    return closed.value.rcvd.code, closed.value.rcvd.reason


def reported(server, code, reason=""):
    """What the server says of what its client said."""
    return (
        code,
        expected(server, "The client's close reason", reason),
    )


def tell(socket, what, **command):
    socket.send(json.dumps({"do": what, **command}))


@pytest.mark.parametrize("message", ["text", b"binary", "", b"", "x" * 2**20])
def test_each_message_is_received_and_sent_as_the_same_type(server, message):
    with server.connect("/live/echo/types") as socket:
        socket.send(message)
        assert socket.recv(BOUND) == message


def test_messages_keep_their_order(server):
    messages = [str(number) for number in range(500)]
    with server.connect("/live/echo/order") as socket:
        for message in messages:
            socket.send(message)
        assert [socket.recv(BOUND) for _ in messages] == messages


def test_the_handler_agrees_to_a_sub_protocol(server):
    with server.connect("/live/echo/protocol", subprotocols=["one", "two"]) as socket:
        assert socket.subprotocol == "one"


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4000, "because"), (1001, "é")])
def test_iteration_ends_with_the_code_and_reason_of_the_client(server, code, reason):
    name = f"{code}-of-client"
    with server.connect(f"/live/echo/{name}") as socket:
        socket.close(code, reason)
    ended = server.wait_for_event("ended", f"/live/echo/{name}")
    assert ended["name"] == name
    assert (ended["code"], ended["reason"]) == reported(server, code, reason)


def test_iteration_ends_with_a_lost_connection(server):
    with server.raw() as client:
        assert client.handshake("/live/echo/lost")[0] == 101
    code = server.wait_for_event("ended", "/live/echo/lost")["code"]
    assert code == expected(server, "A lost connection", 1006)


def test_a_handler_closes_with_a_code_and_a_reason(server):
    with server.connect("/live/obedient/close") as socket:
        tell(socket, "close", code=4321, reason="because")
        assert ending(socket) == (4321, "because")


def test_a_handler_that_returns_closes_with_1000(server):
    with server.connect("/live/obedient/return") as socket:
        tell(socket, "return")
        assert ending(socket) == (1000, "")


@pytest.mark.websocket_tracebacks
def test_a_handler_that_raises_closes_with_1011(server):
    with server.connect("/live/obedient/raise") as socket:
        tell(socket, "raise")
        assert ending(socket)[0] == 1011
    server.wait_for_log("RuntimeError: asked for")


@pytest.mark.parametrize(("message", "code"), [("{", 1007), (b"{}", 1003)])
def test_what_is_no_json_is_told_to_the_client_and_leaves_one_line(server, message, code):
    before = server.log().count("Traceback")
    with server.connect(f"/live/obedient/json-{code}") as socket:
        socket.send(message)
        assert ending(socket)[0] == code
    server.wait_for_log(f"path '/live/obedient/json-{code}'")
    assert server.log().count("Traceback") == before


def test_a_handler_that_waits_for_something_else_is_cancelled_when_its_client_leaves(server):
    path = "/live/obedient/sleep"
    with server.connect(path) as socket:
        tell(socket, "sleep", seconds=60)
        server.wait_for_event("asleep", path)
        socket.close(4000)
    assert server.wait_for_event("cancelled", path)["code"] == reported(server, 4000)[0]


def test_a_service_writes_until_the_client_leaves_and_hears_why(server):
    path = "/live/handed-over/client"
    with server.connect(path) as socket:
        assert [socket.recv(BOUND) for _ in range(5)] == list("01234")
        socket.close(4000, "enough")
    ended = server.wait_for_event("service ended", path)
    assert (ended["code"], ended["reason"]) == reported(server, 4000, "enough")
    assert server.wait_for_event("ended", path)["code"] == ended["code"]


def test_a_service_hears_that_the_handler_has_returned(server):
    path = "/live/left-alone/x"
    with server.connect(path) as socket:
        socket.recv(BOUND)
        socket.send("return")
        assert ending(socket) == (1000, "")
    assert server.wait_for_event("service ended", path)["code"] == 1000


def test_when_the_server_stops_a_handler_hears_1012(tmp_path):
    for name in ASGI_SERVERS:
        with serving(tmp_path / name, asgi_server=name) as server:
            path = "/live/handed-over/stop"
            with server.connect(path) as socket:
                socket.recv(BOUND)
                server.process.send_signal(signal.SIGTERM)
                assert ending(socket) == (1012, "The server is stopping")
            assert server.process.wait(BOUND) == 0
            assert server.wait_for_event("ended", path)["code"] == 1012


# In one process, by ASGI messages.


@asynccontextmanager
async def handled(handler, **options):
    """A peer of this handler, and its `WebSocket`."""
    given = asyncio.get_running_loop().create_future()

    async def handing(websocket):
        given.set_result(websocket)
        await handler(websocket)

    async with Served(websocket_view(handing, **options)) as peer:
        await peer.connects()
        yield peer, await given


@asynccontextmanager
async def accepted(**options):
    """A peer and its `WebSocket`, whose handler waits for the end."""

    async def handler(websocket):
        await websocket.accept()
        await websocket.wait_closed()

    async with handled(handler, **options) as (peer, websocket):
        assert (await peer.receive_output())["type"] == "websocket.accept"
        yield peer, websocket


@asynccontextmanager
async def waiting():
    """A peer and its `WebSocket`, whose handler has not accepted."""
    async with handled(lambda _: asyncio.sleep(BOUND)) as both:
        yield both


@pytest.mark.parametrize("method", ["send", "receive", "send_json", "receive_json"])
async def test_before_the_accept_there_is_nothing_to_do(method):
    arguments = ["text"] if method.startswith("send") else []
    async with waiting() as (_, websocket):
        with pytest.raises(RuntimeError, match=r"first `await websocket.accept\(\)`"):
            await getattr(websocket, method)(*arguments)


async def test_accepting_twice_is_an_error():
    async with accepted() as (_, websocket):
        with pytest.raises(RuntimeError, match=r"accept\(\) was called twice"):
            await websocket.accept()


async def test_a_sub_protocol_that_was_not_offered_cannot_be_accepted():
    async with waiting() as (_, websocket):
        with pytest.raises(ValueError, match="did not offer the sub-protocol 'other'"):
            await websocket.accept(subprotocol="other")


@pytest.mark.parametrize("headers", [{"X-One": "é"}, [("X-One", "é")], [(b"x-one", b"\xe9")]])
async def test_headers_of_the_accept_may_be_text_or_bytes(headers):
    async def handler(websocket):
        await websocket.accept(headers=headers)

    async with handled(handler) as (peer, _):
        assert (await peer.receive_output())["headers"] == [(b"x-one", b"\xe9")]


async def test_an_accept_that_the_server_refuses_may_be_tried_again():
    async with waiting() as (peer, websocket):
        peer.fail_sends(ValueError("a header that cannot be sent"))
        with pytest.raises(ValueError, match="cannot be sent"):
            await websocket.accept()
        peer.fail_sends(None)
        await websocket.accept()
        assert (await peer.receive_output())["type"] == "websocket.accept"


async def test_closing_before_the_accept_refuses_the_handshake():
    async with waiting() as (peer, websocket):
        await websocket.close()
        assert (await peer.receive_output())["type"] == "websocket.close"
        assert (websocket.closed, websocket.close_code) == (True, 1006)


async def test_a_handler_that_never_accepts_refuses_the_handshake():
    async def handler(websocket):
        pass

    async with handled(handler) as (peer, _):
        assert (await peer.receive_output())["type"] == "websocket.close"
        await peer.wait()


async def test_two_readers_at_once_are_an_error():
    async with accepted() as (peer, websocket):
        first = asyncio.create_task(websocket.receive())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="let one receive, and hand on what came"):
            await websocket.receive()
        await peer.says("text")
        assert await first == "text"


async def test_a_receive_that_is_given_up_loses_nothing():
    async with accepted() as (peer, websocket):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(websocket.receive(), 0.01)
        await peer.says("one", "two")
        assert [await websocket.receive(), await websocket.receive()] == ["one", "two"]


async def test_what_was_sent_before_the_end_may_be_received_after_it():
    async with accepted(cancel_on_disconnect=False) as (peer, websocket):
        await peer.says("one", "two")
        await peer.leaves(4000)
        await websocket.wait_closed()
        assert [await websocket.receive(), await websocket.receive()] == ["one", "two"]
        for _ in range(2):
            with pytest.raises(ConnectionHasEnded) as closed:
                await websocket.receive()
            assert closed.value.code == 4000


async def test_after_closing_here_nothing_is_received():
    async with accepted() as (peer, websocket):
        reader = asyncio.create_task(websocket.receive())
        await peer.says("one")
        assert await reader == "one"
        reader = asyncio.create_task(websocket.receive())
        await asyncio.sleep(0)
        await websocket.close(4000, "enough")
        with pytest.raises(ConnectionHasEnded, match="closed with 4000: enough"):
            await reader
        with pytest.raises(ConnectionHasEnded):
            await websocket.receive()
        with pytest.raises(ConnectionHasEnded):
            await websocket.send("late")
        with pytest.raises(ConnectionHasEnded):
            await websocket.subscribe("topic")
        assert [message async for message in websocket] == []
        await websocket.close(4001)
        assert (websocket.close_code, websocket.close_reason) == (4000, "enough")


async def test_a_task_that_receives_hears_that_the_handler_has_raised():
    receiving = asyncio.get_running_loop().create_future()

    async def handler(websocket):
        await websocket.accept()
        receiving.set_result(asyncio.create_task(websocket.receive()))
        await asyncio.sleep(0)
        raise LookupError

    async with handled(handler) as (peer, _):
        with pytest.raises(ConnectionHasEnded) as closed:
            await asyncio.wait_for(await receiving, 5)
        assert closed.value.code == 1011
        with pytest.raises(LookupError):
            await peer.wait()


async def test_senders_take_turns():
    async with accepted() as (peer, websocket):
        sends = [websocket.send(f"{sender} {n}") for n in range(50) for sender in "ab"]
        await asyncio.gather(*sends)
        texts = await peer.texts(100)
        assert [text for text in texts if text[0] == "a"] == [f"a {n}" for n in range(50)]
        assert [text for text in texts if text[0] == "b"] == [f"b {n}" for n in range(50)]


async def test_a_send_that_the_server_refuses_says_why_the_connection_ended():
    async with accepted() as (peer, websocket):
        peer.fail_sends(OSError("gone"))
        sending = asyncio.create_task(websocket.send("late"))
        await asyncio.sleep(0)
        await peer.leaves(4000)
        with pytest.raises(ConnectionHasEnded) as closed:
            await sending
        assert closed.value.code == 4000


async def test_a_server_that_never_says_why_means_a_lost_connection():
    async with accepted() as (peer, websocket):
        peer.fail_sends(OSError("gone"))
        with pytest.raises(ConnectionHasEnded) as closed:
            await websocket.send("late")
        assert closed.value.code == 1006


async def test_an_accept_of_a_client_that_has_gone_says_so():
    async with waiting() as (peer, websocket):
        peer.fail_sends(OSError("gone"))
        await peer.leaves(1001)
        with pytest.raises(ConnectionHasEnded) as closed:
            await websocket.accept()
        assert closed.value.code == 1001


async def test_a_handler_that_ends_since_its_server_fails_sees_the_code_of_the_client():
    class Failing(Served):
        async def serve_receive(self):
            message = await super().serve_receive()
            if message["type"] == "websocket.receive":
                raise RuntimeError("asked for")
            return message

    @websocket_view
    async def handler(websocket):
        await websocket.accept()
        try:
            await asyncio.Event().wait()
        finally:
            codes.append(websocket.close_code)

    codes = []
    async with connected(handler, Failing) as peer:
        await peer.says("hello")
        assert (await peer.receive_output())["code"] == 1011
        with pytest.raises(RuntimeError, match="asked for"):
            await peer.wait()
    assert codes == [1011]


async def test_an_error_of_the_server_while_open_is_raised_as_it_is():
    async with accepted() as (peer, websocket):
        peer.fail_sends(KeyError("a defect"))
        with pytest.raises(KeyError):
            await websocket.send("text")


async def test_what_a_server_raises_for_a_send_that_was_overtaken_by_a_close_is_the_end():
    class Blocking(Served):
        blocked = None

        async def serve_send(self, message):
            if self.blocked is not None and message["type"] == "websocket.send":
                await self.blocked
                raise RuntimeError("after sending 'websocket.close'")
            await super().serve_send(message)

    given = asyncio.get_running_loop().create_future()

    @websocket_view
    async def handler(websocket):
        await websocket.accept()
        given.set_result(websocket)
        await websocket.wait_closed()

    async with Blocking(handler) as peer:
        await peer.connects()
        websocket = await given
        peer.blocked = asyncio.get_running_loop().create_future()
        sending = asyncio.create_task(websocket.send("text"))
        await asyncio.sleep(0)
        await websocket.close(4000)
        peer.blocked.set_result(None)
        with pytest.raises(ConnectionHasEnded, match="closed with 4000"):
            await sending
        await peer.wait()


async def test_a_connection_closed_of_another_socket_is_an_error_of_the_handler():
    async def handler(websocket):
        await websocket.accept()
        raise ConnectionHasEnded(4000)

    async with handled(handler) as (peer, websocket):
        with pytest.raises(RuntimeError, match="of another WebSocket was not caught"):
            await peer.wait()
        assert websocket.close_code == 1011


async def test_the_handler_of_a_client_that_left_has_the_time_it_wants_once_it_was_told():
    done = []

    async def handler(websocket):
        await websocket.accept()
        async for _ in websocket:
            pass
        await asyncio.sleep(1)
        done.append(websocket.close_code)

    async with handled(handler) as (peer, _):
        await peer.receive_output()
        await peer.leaves(4000)
        await peer.wait()
    assert done == [4000]


async def test_a_handler_that_may_go_on_is_not_cancelled():
    done = []

    async def handler(websocket):
        await websocket.accept()
        await asyncio.sleep(1)
        done.append(websocket.close_code)

    async with handled(handler, cancel_on_disconnect=False) as (peer, _):
        await peer.receive_output()
        await peer.leaves(4000)
        await peer.wait()
    assert done == [4000]


async def test_the_heartbeat_ends_a_silent_client_with_3008():
    codes = []

    @websocket_view
    async def handler(websocket):
        await websocket.accept()
        with pytest.raises(ConnectionHasEnded):
            await websocket.receive()
        codes.append(websocket.close_code)

    async with connected(Heartbeat(handler, interval=0.1)) as peer:
        assert await peer.receive_output() == {
            "type": "websocket.close",
            "code": 3008,
            "reason": "No message for 0.2 seconds",
        }
        await peer.wait()
    assert codes == [3008]


@pytest.mark.parametrize("code", [999, 1005, 1006, 5000, 0])
async def test_a_code_that_may_not_be_sent_is_an_error(code):
    async with accepted() as (_, websocket):
        with pytest.raises(ValueError, match=f"cannot be closed with {code}"):
            await websocket.close(code)


async def test_a_reason_that_does_not_fit_is_an_error():
    async with accepted() as (_, websocket):
        with pytest.raises(ValueError, match="124 bytes, and 123 are the most"):
            await websocket.close(4000, "é" * 62)
        await websocket.close(4000, "é" * 61)


@pytest.mark.parametrize(
    ("method", "says", "code"),
    [("receive_text", b"", 1003), ("receive_bytes", "", 1003), ("receive_json", "[" * 10**5, 1007)],
)
async def test_a_message_of_the_wrong_kind_is_told_to_the_client(method, says, code):
    async def handler(websocket):
        await websocket.accept()
        await getattr(websocket, method)()

    async with handled(handler) as (peer, websocket):
        await peer.receive_output()
        kind = "text" if isinstance(says, str) else "bytes"
        await peer.send_input({"type": "websocket.receive", kind: says})
        assert (await peer.receive_output())["code"] == code
        with pytest.raises(InvalidMessage):
            await peer.wait()
        assert websocket.close_code == code


async def test_messages_of_the_right_kind_arrive():
    async with accepted() as (peer, websocket):
        await peer.says("text", '{"a": 1}')
        await peer.send_input({"type": "websocket.receive", "bytes": b"bytes"})
        assert await websocket.receive_text() == "text"
        assert await websocket.receive_json() == {"a": 1}
        assert await websocket.receive_bytes() == b"bytes"
        await websocket.send_json({"b": [2]})
        await websocket.send(memoryview(b"view"))
        assert [await peer.texts(1), (await peer.receive_output())["bytes"]] == [
            ['{"b": [2]}'],
            b"view",
        ]


async def test_it_knows_what_is_known_of_the_connection():
    route = {"args": (), "kwargs": {"room": "red"}}
    rooms = []

    @websocket_view
    async def handler(websocket, room):
        rooms.append(room)
        assert websocket.url_kwargs == {"room": "red"}
        assert websocket.subprotocols == ["a", "b"]
        assert websocket.user == "somebody"
        assert repr(websocket) == "<WebSocket '/ws', open>"
        await websocket.close()
        assert repr(websocket) == "<WebSocket '/ws', closed with 1006>"

    async with Served(handler, url_route=route, user="somebody", subprotocols=["a", "b"]) as peer:
        await peer.connects()
        await peer.wait()
        assert rooms == ["red"]


async def test_a_user_that_nobody_looked_for_is_an_error():
    async with accepted() as (_, websocket):
        with pytest.raises(RuntimeError, match="put AuthMiddlewareStack around"):
            _ = websocket.user


def test_a_view_has_to_be_a_coroutine_function():
    def handler(websocket):
        pass

    with pytest.raises(TypeError, match=r"handler has to be a coroutine function: write `async"):
        websocket_view(handler)


async def test_the_decorator_takes_options():
    @websocket_view(cancel_on_disconnect=False)
    async def handler(websocket):
        await websocket.accept()

    async with connected(handler) as peer:
        assert await peer.receive_output() == {
            "type": "websocket.close",
            "code": 1000,
            "reason": "",
        }


async def test_a_view_refuses_plain_http():
    @websocket_view
    async def handler(websocket):
        pass

    with pytest.raises(ValueError, match=r"handler is for WebSockets, and was called for 'http'"):
        await handler({"type": "http"}, None, None)


async def test_broadcasts_reach_a_websocket_until_it_unsubscribes():
    async with accepted() as (peer, websocket):
        await websocket.unsubscribe("never subscribed to")
        await websocket.subscribe("topic")
        await websocket.unsubscribe("another topic")
        await broadcast("topic", "one")
        await websocket.unsubscribe("topic")
        await broadcast("topic", "two")
        await websocket.send("three")
        assert await peer.texts(2) == ["one", "three"]
