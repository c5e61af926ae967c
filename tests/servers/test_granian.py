"""What is done for Granian; how its connections end is in `test_endings.py`."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack

import granian._signals
import pytest

from tests.harness import BOUND, serving
from ws_support.servers.granian import patch_set_loop_signals


def test_a_granian_that_stops_in_another_way_is_left_alone(monkeypatch):
    monkeypatch.delattr(granian._signals, "set_loop_signals")
    patch_set_loop_signals()
    assert not hasattr(granian._signals, "set_loop_signals")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("granian") / "server.log", asgi_server="granian") as one:
        yield one


@pytest.fixture(scope="module", autouse=True)
def unfinished(server):
    """Clients with a head that they never end, while the other tests run."""
    with ExitStack() as stack:
        clients = {}
        for head in (b"", b"P", b"PRI * HTTP/2.0\r\n", b"GET /ws HTTP/1.1\r\nHost: x\r\n"):
            clients[head] = stack.enter_context(server.raw())
            clients[head].socket.sendall(head)
        yield clients


@pytest.mark.slow
def test_who_sends_no_head_or_half_of_one_is_not_waited_for(unfinished):
    for client in unfinished.values():
        client.response()  # The end, within the bound, with an answer or without one.


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: x", b"is not 16 bytes in base64."),
        (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: YWJj\r\nX: ", b"is not 16 bytes in base64."),
        (b"X: x", b"Sec-WebSocket-Key: YWJj", b"more than one sec-websocket-key header."),
        (b"X: x", b"Sec-WebSocket-Version: 8", b"more than one sec-websocket-version header."),
        (b"X: x", b"Host: other.example", b"more than one host header."),
        (b"HTTP/1.1", b"HTTP/1.0", b"A WebSocket needs HTTP/1.1."),
        (b"X: x", b"Content-Length: 5", b"A handshake has no body."),
        (b"X: x", b"Transfer-Encoding: chunked", b"A handshake has no body."),
    ],
)
def test_a_malformed_handshake_is_refused_before_the_application_hears_of_it(
    server, old, new, reason
):
    head = (
        f"GET /logged HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nOrigin: {server.origin}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX: x\r\n\r\n"
    ).encode()
    with server.raw() as client:
        client.socket.sendall(head.replace(old, new))
        status, response = client.response()
    assert (status, response.rpartition(b"\r\n\r\n")[2].endswith(reason + b"\n")) == (400, True)
    assert server.events("connected", "/logged") == []


def test_a_head_has_64_kib_also_for_a_websocket(server):
    with server.raw() as client:
        client.request("/ws", [(b"Origin", server.origin.encode()), (b"Cookie", b"c" * 60_000)])
        assert client.response()[0] == 101


@pytest.mark.parametrize("upgrade", [True, False])
@pytest.mark.parametrize(
    "line",
    [
        b"Cookie: " + b"c" * 66_000 + b"\r\n",
        b"".join(b"X-%d: x\r\n" % number for number in range(110)),
    ],
    ids=["too long", "too many lines"],
)
def test_a_larger_head_is_a_431(server, line, upgrade):
    head = f"GET /ws HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n".encode()
    if upgrade:
        head += b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        head += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    with server.raw() as client:
        client.socket.sendall(head + line + b"\r\n")
        assert client.response()[0] == 431


@pytest.mark.parametrize("resets", [False, True])
def test_who_does_nothing_but_send_keeps_nobody_from_their_turn(serve, resets):
    server = serve(asgi_server="granian", WS_SUPPORT={"SHUTDOWN_TIMEOUT": 1})
    with server.raw() as client:
        assert client.handshake("/sending-only")[0] == 101
        assert client.frame() == (2, bytes(2**16))
        if resets:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with server.connect() as other:
        other.send("still there")
        assert other.recv(BOUND) == "still there"
