"""A loop that does nothing but send, and whose client leaves: everybody else is served on."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress

import pytest

from tests.harness import ASGI_SERVERS, BOUND, serving

ROUTES = ["handler", "background", "view", "of-channels", "sync-of-channels", "bare"]


@pytest.fixture(scope="module", params=ASGI_SERVERS)
def server(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    settings = {"ROOT_URLCONF": "tests.project.urls", "WS_SUPPORT": {"SHUTDOWN_TIMEOUT": 1}}
    with serving(log_file, asgi_server=request.param, **settings) as server:
        yield server


def read_and_leave(server, route, way):
    with server.raw() as client:
        assert client.handshake(f"/senders/{route}")[0] == 101
        client.send_frame(1, b"go")
        # Hypercorn begins with a ping.
        while client.frame()[0] != 2:
            pass
        connection = client.socket
        if way == "close":
            client.send_frame(8, b"\x03\xe8")
            connection.settimeout(BOUND)
            with suppress(OSError):
                while connection.recv(2**20):
                    pass
        elif way == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answers(server):
    began_at = time.monotonic()
    with server.connect("/ws") as client:
        client.send("still there?")
        assert client.recv(BOUND) == "still there?"
    return time.monotonic() - began_at


@pytest.mark.parametrize("way", ["close", "end", "reset"])
@pytest.mark.parametrize("route", [*ROUTES, "persistent"])
def test_a_loop_that_only_sends_ends_with_its_client(server, route, way):
    path = f"/senders/{route}"
    heard = len(server.events("disconnect()", path))
    read_and_leave(server, route, way)
    assert answers(server) < BOUND / 2
    server.wait_for_event("disconnect()", path, heard + 1)
    assert answers(server) < BOUND / 2


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/endless", "/endless-events"])
def test_a_response_that_only_sends_holds_up_nobody(server, method, path):
    ended = len(server.events("ended", path))
    with server.raw() as client:
        client.socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.socket.recv(2**16)
        assert answers(server) < BOUND / 2
    assert answers(server) < BOUND / 2
    server.wait_for_event("ended", path, ended + 1)


@pytest.mark.parametrize("way", ["end", "reset"])
@pytest.mark.parametrize("path", ["/denying-slowly", "/closing-late"])
def test_what_is_sent_to_a_client_that_has_left_is_no_error_of_the_application(server, path, way):
    if (server.name, path) == ("granian", "/denying-slowly"):
        pytest.skip("Granian 2.8 has no refusals with a response of their own")
    with server.raw() as client:
        client.request(path)
        assert client.socket.recv(100)
        if way == "reset":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if path == "/closing-late":
        server.wait_for_event("closing", path)
    answers(server)
    answers(server)


def test_each_of_them_has_heard_of_the_end_once(server):
    for route in ROUTES:
        path = f"/senders/{route}"
        before = len(server.events("disconnect()", path))
        read_and_leave(server, route, "end")
        server.wait_for_event("disconnect()", path, before + 1)
        answers(server)
        assert len(server.events("disconnect()", path)) == before + 1
