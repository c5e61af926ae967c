"""`WebSocket` and `websocket_view`, on every server."""

from __future__ import annotations

import json
import signal
from functools import partial

import pytest
from websockets.exceptions import ConnectionClosed

from tests.harness import ASGI_SERVERS, BOUND, serving
from tests.servers.test_behaviours import expected


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
        expected(server, "The client's close code", code),
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


def test_when_the_server_stops_a_handler_hears_1001(tmp_path):
    for name in ASGI_SERVERS:
        with serving(tmp_path / name, asgi_server=name) as server:
            path = "/live/handed-over/stop"
            with server.connect(path) as socket:
                socket.recv(BOUND)
                server.process.send_signal(signal.SIGTERM)
                assert ending(socket) == (1001, "The server is stopping")
            assert server.process.wait(BOUND) == 0
            assert server.wait_for_event("ended", path)["code"] == 1001
            assert "Traceback" not in server.log()
