"""Hubs on real servers: each transport, in both protocols, and what comes at the end."""

from __future__ import annotations

import json
import time
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.harness import ASGI_SERVERS, BOUND, serving
from tests.hubs.clients import Parser, shake
from ws_support._hubs.messages import Close, Completion, Invocation

SETTINGS = {
    "ALLOWED_ORIGINS": None,
    "HUBS": {
        "ALLOW_STATEFUL_RECONNECTS": True,
        "POLL_TIMEOUT": 0.2,
        "DISCONNECT_TIMEOUT": 3,
        "CLOSE_TIMEOUT": 0.3,
    },
}


@pytest.fixture(scope="module", params=ASGI_SERVERS)
def shared(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    with serving(log_file, asgi_server=request.param, WS_SUPPORT=SETTINGS) as server:
        yield server


@pytest.fixture
def server(shared):
    return shared.from_now_on()


def request(server: Any, method: str, query: str = "", body: bytes = b"") -> tuple[int, bytes]:
    with closing(HTTPConnection(server.host, server.port, timeout=BOUND)) as connection:
        connection.request(method, f"/hub{query}", body, {"Origin": server.origin})
        with connection.getresponse() as response:
            return response.status, response.read()


def negotiate(server: Any) -> dict[str, Any]:
    status, body = request(server, "POST", "/negotiate?negotiateVersion=1")
    assert status == 200
    offer: dict[str, Any] = json.loads(body)
    return offer


def call(parser: Parser, target: str, *arguments: Any, id_: str | None = "1") -> bytes:
    return parser.protocol.write(Invocation(target, list(arguments), id_))


class Poller:
    def __init__(self, server: Any, protocol: str = "json") -> None:
        self.server = server
        offer = negotiate(server)
        self.id = offer["connectionId"]
        self.query = f"?id={offer['connectionToken']}"
        self.parser = Parser(protocol)
        assert self.poll() == (200, b"")
        assert self.post(shake(protocol)) == 200
        assert self.next() == {}

    def poll(self) -> tuple[int, bytes]:
        return request(self.server, "GET", self.query)

    def post(self, data: bytes) -> int:
        status, body = request(self.server, "POST", self.query, data)
        assert body == b""
        return status

    def next(self) -> Any:
        while not self.parser.messages:
            status, data = self.poll()
            assert status == 200
            if data:
                self.parser.feed(data)
        return self.parser.messages.pop(0)


def end_of(server: Any, id_: str) -> dict[str, Any]:
    """Return how the hub has heard of the end of a connection."""
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        for event in server.events("on_disconnected()"):
            if event["id"] == id_:
                return event
        time.sleep(0.01)
    raise AssertionError(f"The connection has not ended.\n{server.log()}")


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
def test_a_websocket_carries_calls_and_broadcasts(server, protocol):
    parser = Parser(protocol)
    with server.connect("/hub") as socket, server.connect("/hub") as other:
        sockets = (socket, Parser(protocol)), (other, Parser(protocol))
        for each, its in sockets:
            each.send(shake(protocol))
            while not its.messages:
                its.feed(as_bytes(each.recv(BOUND)))
        for number in range(20):
            socket.send(call(parser, "tell", "all", [], str(number), id_=None))
        for each, its in sockets:
            while len(its.messages) < 21:
                its.feed(as_bytes(each.recv(BOUND)))
            assert its.messages[1:] == [Invocation("Told", [str(number)]) for number in range(20)]
        socket.send(call(parser, "large", 2**20))
        its = sockets[0][1]
        its.messages.clear()
        while not its.messages:
            its.feed(as_bytes(socket.recv(BOUND)))
        assert its.messages == [Completion("1", "x" * 2**20, has_result=True)]


def as_bytes(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.encode()


@pytest.mark.parametrize("method", ["abort", "leave"])
def test_a_websocket_ends_from_both_sides(server, method):
    parser = Parser("json")
    with server.connect("/hub") as socket:
        socket.send(shake() + call(parser, "who"))
        while len(parser.messages) < 2:
            parser.feed(as_bytes(socket.recv(BOUND)))
        id_ = parser.messages[1].result["id"]
        parser.messages.clear()
        if method == "abort":
            socket.send(call(parser, "abort", id_=None))
            while not parser.messages:
                parser.feed(as_bytes(socket.recv(BOUND)))
            assert parser.messages == [Close()]
            with pytest.raises(Exception, match="1000"):
                socket.recv(BOUND)
    assert end_of(server, id_)["error"] is None


def test_a_websocket_that_another_one_replaces_is_closed(server):
    query = "negotiateVersion=1&useStatefulReconnect=true"
    status, body = request(server, "POST", f"/negotiate?{query}")
    assert status == 200
    path = f"/hub?id={json.loads(body)['connectionToken']}"
    with server.raw() as before:
        before.open(path)
        before.send_frame(1, b'{"protocol":"json","version":2}\x1e')
        while before.frame() != (1, b"{}\x1e"):
            pass  # Some servers send a ping first.
        with server.raw() as after:
            after.open(path)
            while after.frame() != (1, b'{"type":9,"sequenceId":1}\x1e'):
                pass
            while (frame := before.frame()) is not None:
                if frame[0] == 8:
                    before.send_frame(8, frame[1])


def test_a_websocket_that_is_refused_is_an_http_status_where_the_server_can(server):
    with pytest.raises(Exception, match=r"404|403"):
        server.connect("/hub?id=unknown")


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
def test_polls_carry_calls_until_delete(server, protocol):
    poller = Poller(server, protocol)
    assert poller.post(call(poller.parser, "echo", "ä")) == 200
    assert poller.next() == Completion("1", "ä", has_result=True)
    assert poller.poll() == (200, b"")
    assert request(server, "DELETE", poller.query) == (202, b"")
    assert end_of(server, poller.id)["error"] is None
    assert poller.poll() == (204, b"")


def test_a_post_that_ends_its_connection_has_been_taken(server):
    query = f"?id={negotiate(server)['connectionToken']}"
    assert request(server, "GET", query) == (200, b"")
    assert request(server, "POST", query, b'{"protocol":"json","version":99}\x1e') == (200, b"")
    status, body = request(server, "GET", query)
    assert (status, b"The server does not support version 99" in body) == (200, True)


def test_a_poll_that_is_left_ends_the_connection_in_time(server):
    poller = Poller(server)
    poller.post(call(poller.parser, "tell", "caller", [], "x", id_=None))
    assert poller.next() == Invocation("Told", ["x"])
    connection = HTTPConnection(server.host, server.port, timeout=BOUND)
    connection.request("GET", f"/hub{poller.query}", headers={"Origin": server.origin})
    connection.close()
    assert end_of(server, poller.id)["error"] is None


@pytest.mark.parametrize("end", ["client", "server"])
def test_an_event_stream_carries_messages_to_its_end(server, end):
    offer = negotiate(server)
    query = f"?id={offer['connectionToken']}"
    parser = Parser("json")
    headers = {"Origin": server.origin, "Accept": "text/event-stream"}
    with closing(HTTPConnection(server.host, server.port, timeout=BOUND)) as connection:
        connection.request("GET", f"/hub{query}", headers=headers)
        with connection.getresponse() as stream:
            assert stream.status == 200
            assert stream.readline() == b":\r\n"

            def following() -> Any:
                while not parser.messages:
                    line = stream.readline()
                    assert line
                    if line.startswith(b"data: "):
                        parser.feed(line[6:].rstrip(b"\r\n"))
                return parser.messages.pop(0)

            shaking = shake() + call(parser, "echo", 1)
            assert request(server, "POST", query, shaking) == (200, b"")
            assert [following(), following()] == [{}, Completion("1", 1, has_result=True)]
            if end == "server":
                request(server, "POST", query, call(parser, "abort", id_=None))
                assert following() == Close()
                assert stream.read() in (b"", b"\r\n")
    assert end_of(server, offer["connectionId"])["error"] is None
    assert request(server, "POST", query)[0] == 404


@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_a_server_that_stops_lets_its_clients_come_back(serve, name):
    server = serve(asgi_server=name, WS_SUPPORT=SETTINGS)
    poller = Poller(server)
    parser = Parser("json")
    with server.connect("/hub") as socket:
        socket.send(shake() + call(parser, "who"))
        while len(parser.messages) < 2:
            parser.feed(as_bytes(socket.recv(BOUND)))
        id_ = parser.messages[1].result["id"]
        parser.messages.clear()
        server.stop()
        while not parser.messages:
            parser.feed(as_bytes(socket.recv(BOUND)))
        assert parser.messages == [Close(None, True)]
        with pytest.raises(Exception, match="1012"):
            socket.recv(BOUND)
    assert end_of(server, id_)["error"] is None
    assert end_of(server, poller.id)["error"] is None
