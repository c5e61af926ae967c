"""Where `runasgi` listens: ports, Unix sockets, TLS, and behind proxies."""

from __future__ import annotations

import json
import socket as sockets
import stat
import time
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Thread

import pytest
from websockets.sync.client import connect, unix_connect

from tests.harness import ASGI_SERVERS, BOUND, free_port, until
from ws_support.conf import get_options
from ws_support.servers._run.sockets import check
from ws_support.servers.base import ServeConfig

pytestmark = pytest.mark.alone


@pytest.fixture(params=ASGI_SERVERS)
def name(request):
    return request.param


def scope_of(socket, *keys: str):
    socket.send(json.dumps({"do": "scope", "keys": keys}))
    return json.loads(socket.recv(BOUND))


# Unix sockets


@pytest.fixture
def path(tmp_path_factory):
    # Not in the folder of the test, whose name may be too long for a Unix socket.
    return tmp_path_factory.mktemp("s") / "asgi.sock"


def serve_at(serve, name: str, path: Path, *arguments: str):
    server = serve(asgi_server=name, arguments=("--uds", str(path), *arguments), listens_at=path)
    server.wait_for_log(f"at unix:{path}")
    return server


def connect_at(path: Path, route: str = "/ws", **options):
    return unix_connect(str(path), f"ws://localhost{route}", origin="http://localhost", **options)


def test_a_unix_socket_serves_whoever_reaches_it_and_goes_with_the_server(serve, name, path):
    server = serve_at(serve, name, path)
    with connect_at(path) as socket:
        socket.send("hello")
        assert socket.recv(BOUND) == "hello"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert server.stop() == 0
    assert not path.exists()


def test_the_socket_of_a_server_that_was_killed_is_taken_over(serve, name, path):
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(path))
    serve_at(serve, name, path)
    with connect_at(path) as socket:
        socket.send("hello")
        assert socket.recv(BOUND) == "hello"


def test_by_a_unix_socket_nobody_has_an_address_unless_a_proxy_says_it(serve, name, path):
    serve_at(serve, name, path)
    headers = {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"}
    with connect_at(path, "/commands", additional_headers=headers) as socket:
        scope = scope_of(socket, "client", "scheme")
    assert not (scope["client"] and scope["client"][1])
    assert scope["scheme"] == "ws"


def test_by_a_unix_socket_a_proxy_is_believed_when_asked_for(serve, name, path):
    serve_at(serve, name, path, "--proxy-headers")
    headers = {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"}
    with connect_at(path, "/commands", additional_headers=headers) as socket:
        assert scope_of(socket, "client", "scheme") == {"client": ["1.2.3.4", 0], "scheme": "wss"}


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "granian"], indirect=True)
def test_workers_share_a_unix_socket(serve, name, path):
    server = serve_at(serve, name, path, "--workers", "2")
    pids = set()
    for _ in until("two workers", server.log):
        with ExitStack() as stack:
            clients = [stack.enter_context(connect_at(path, "/pid/x")) for _ in range(10)]
            pids |= {client.recv(BOUND) for client in clients}
        if len(pids) == 2:
            break
    assert server.stop() == 0
    assert not path.exists()


def test_nobody_gets_into_an_address_that_is_only_looked_at():
    """They would be cut off when the look is over."""
    plan = ServeConfig(options=get_options(), port=free_port())
    is_over = Event()
    connections = []

    def knock():
        while not is_over.is_set():
            with suppress(ConnectionRefusedError):
                sockets.create_connection((plan.host, plan.port), BOUND).close()
                connections.append("got in")

    thread = Thread(target=knock)
    thread.start()
    for _ in range(500):
        check(plan)
    is_over.set()
    thread.join()
    assert connections == []


# TLS


def test_tls_is_served_with_the_whole_chain(serve, name, certificates):
    server = serve(
        asgi_server=name,
        arguments=("--ssl-certfile", certificates.chain, "--ssl-keyfile", certificates.key),
    )
    trust = certificates.context_for_threads()
    url = f"wss://localhost:{server.port}/commands"
    with connect(url, ssl=trust, origin=f"https://localhost:{server.port}") as socket:
        assert scope_of(socket, "scheme") == {"scheme": "wss"}
    assert f"https://127.0.0.1:{server.port}" in server.log()


def test_a_burst_of_short_messages_comes_back_in_order(serve, name, certificates):
    server = serve(
        asgi_server=name,
        arguments=("--ssl-certfile", certificates.chain, "--ssl-keyfile", certificates.key),
    )
    with server.raw() as client:
        client.socket = certificates.context().wrap_socket(
            client.socket, server_hostname="localhost"
        )
        origin = f"https://localhost:{server.port}".encode()
        assert client.handshake(headers=[(b"Origin", origin)])[0] == 101
        client.socket.sendall(client.burst_of(6_000))
        for number in range(6_000):
            while (frame := client.frame())[0] == 9:  # Hypercorn pings at once.
                pass
            assert frame == (1, b"%d" % number)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["daphne", "uvicorn-picows"], indirect=True)
def test_a_client_that_drips_a_handshake_of_tls_is_given_up_after_20_seconds(
    serve, name, certificates
):
    server = serve(
        asgi_server=name,
        arguments=("--ssl-certfile", certificates.chain, "--ssl-keyfile", certificates.key),
    )
    with server.raw() as client:
        start = time.monotonic()
        client.socket.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        client.drip(b"a")
        assert 19 < time.monotonic() - start < 25


def test_a_client_that_speaks_no_tls_leaves_no_traceback(serve, name, certificates):
    server = serve(
        asgi_server=name,
        arguments=("--ssl-certfile", certificates.chain, "--ssl-keyfile", certificates.key),
    )
    with server.raw() as client:
        client.socket.sendall(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with pytest.raises((AssertionError, IndexError, OSError, ValueError)):
            assert client.response()[0] == 200
    with server.raw():
        pass
    trust = certificates.context_for_threads()
    url = f"wss://localhost:{server.port}/ws"
    with connect(url, ssl=trust, origin=f"https://localhost:{server.port}") as socket:
        socket.send("still there")
        assert socket.recv(BOUND) == "still there"
    assert server.stop() == 0


# Proxies


HEADERS = {"X-Forwarded-For": "5.6.7.8, 1.2.3.4", "X-Forwarded-Proto": "https"}


def test_a_trusted_proxy_says_who_the_client_is(serve, name):
    server = serve(asgi_server=name, arguments=("--proxy-headers",))
    with server.connect("/commands", additional_headers=HEADERS) as socket:
        assert scope_of(socket, "client", "scheme") == {"client": ["1.2.3.4", 0], "scheme": "wss"}
    server.wait_for_event("disconnected", "/commands")
    request = HTTPConnection(server.host, server.port, timeout=BOUND)
    request.request("GET", "/scope", headers=HEADERS)
    scope = json.loads(request.getresponse().read())
    request.close()
    assert (scope["client"], scope["scheme"]) == (["1.2.3.4", 0], "https")


def test_nobody_else_does(serve, name):
    server = serve(asgi_server=name, arguments=("--proxy-headers", "10.0.0.0/8,::1"))
    with server.connect("/commands", additional_headers=HEADERS) as socket:
        scope = scope_of(socket, "client", "scheme")
        assert scope == {"client": list(socket.local_address), "scheme": "ws"}


@pytest.mark.parametrize("setting", ["/app", "/app/"])
@pytest.mark.parametrize("name", [*ASGI_SERVERS, "runserver"], indirect=True)
def test_below_a_prefix_a_socket_is_found_as_a_page_is(serve, name, setting):
    how = {"command": name} if name == "runserver" else {"asgi_server": name}
    server = serve(**how, FORCE_SCRIPT_NAME=setting)
    for path in ("/app/commands", "/commands"):
        with server.connect(path) as socket:
            scope = scope_of(socket, "root_path", "path", "path_remaining")
            assert scope == {
                "root_path": "/app",
                "path": "/app/commands",
                "path_remaining": "",
            }


def test_ipv6_is_served(serve, name):
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("needs IPv6, which this machine has not")
    server = serve(asgi_server=name, host="::1")
    with connect(f"ws://[::1]:{server.port}/ws", origin=f"http://[::1]:{server.port}") as socket:
        socket.send("hello")
        assert socket.recv(BOUND) == "hello"
    assert f"http://[::1]:{server.port}" in server.log()


def test_every_address_is_served_of_both_families(serve, name):
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("needs IPv6, which this machine has not")
    server = serve(asgi_server=name, host="::")
    for host in ("[::1]", "127.0.0.1"):
        url = f"ws://{host}:{server.port}/ws"
        with connect(url, origin=f"http://{host}:{server.port}") as socket:
            socket.send("hello")
            assert socket.recv(BOUND) == "hello"
