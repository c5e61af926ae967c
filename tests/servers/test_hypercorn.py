"""What is done for Hypercorn over HTTP/1.1; over HTTP/2: `test_http2.py`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket as sockets
import struct
import time
import uuid
from contextlib import suppress

import pytest
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.config import Config
from hypercorn.protocol.events import EndBody

from tests.harness import BOUND, RawClient, serving
from tests.servers.test_behaviours import children
from ws_support.servers.hypercorn import tcp
from ws_support.servers.hypercorn.websocket import WSStream

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    log_file = tmp_path_factory.mktemp("hypercorn") / "server.log"
    settings = {"KEEP_ALIVE_INTERVAL": None}
    with serving(log_file, asgi_server="hypercorn", WS_SUPPORT=settings) as server:
        yield server


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    log_file = tmp_path_factory.mktemp("endless") / "server.log"
    application = "tests.project.endless_sockets.application"
    with serving(log_file, asgi_server="hypercorn", ASGI_APPLICATION=application) as server:
        yield server


def handshake(server, *lines: bytes, key: bytes = KEY, first: bytes = b"GET /ws HTTP/1.1"):
    """The status, the response, and whether what is sent then comes back."""
    head = [
        first,
        b"Host: %b:%d" % (server.host.encode(), server.port),
        b"Origin: " + server.origin.encode(),
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + key,
        *(lines or (b"Connection: Upgrade", b"Upgrade: websocket")),
    ]
    with server.raw() as client:
        client.socket.sendall(b"\r\n".join([*head, b"", b""]))
        status, response = client.response()
        if status == 101:
            client.send_frame(TEXT, b"hello")
            assert client.frame() == (TEXT, b"hello")
        else:
            assert client._fill() is False  # The connection is closed.
    return status, response


USUAL = (b"Connection: Upgrade", b"Upgrade: websocket")


@pytest.mark.parametrize(
    ("lines", "key", "first", "status"),
    [
        (USUAL, b"abc", b"GET /ws HTTP/1.1", 400),
        ((*USUAL, b"Sec-WebSocket-Key: " + KEY), KEY, b"GET /ws HTTP/1.1", 400),
        (USUAL, KEY, b"get /ws HTTP/1.1", 405),
        (USUAL, KEY, b"POST /ws HTTP/1.1", 405),
        (USUAL, KEY, b"GET /ws HTTP/1.0", 400),
        (USUAL, KEY, b"GET http://user@localhost/ws HTTP/1.1", 400),
        ((*USUAL, b"Sec-WebSocket-Protocol: a b"), KEY, b"GET /ws HTTP/1.1", 400),
        ((*USUAL, b"Sec-WebSocket-Version: 13"), KEY, b"GET /ws HTTP/1.1", 426),
    ],
)
def test_a_malformed_handshake_is_told_what_is_wrong(server, lines, key, first, status):
    answer, response = handshake(server, *lines, key=key, first=first)
    assert answer == status
    assert response.endswith(b".\n")


@pytest.mark.parametrize(
    "lines",
    [
        (b"Connection: keep-alive", b"Connection: Upgrade", b"Upgrade: websocket"),
        (b"Connection: Upgrade", b"Connection: keep-alive", b"Upgrade: websocket"),
        (b"Connection: Upgrade", b"Upgrade: h2c, websocket"),
        (b"Connection: Upgrade", b"Upgrade: other", b"Upgrade: websocket"),
        (b"Connection:\tkeep-alive,\tUPGRADE\t", b"Upgrade:\tWebSocket\t"),
    ],
)
def test_a_header_may_be_written_in_each_lawful_way(server, lines):
    assert handshake(server, *lines)[0] == 101


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_the_target_may_be_a_url(server, scheme):
    target = f"{scheme}://{server.host}:{server.port}/ws?a=b"
    assert handshake(server, first=f"GET {target} HTTP/1.1".encode())[0] == 101
    with server.raw() as client:
        url = f"{scheme}://{server.host}:{server.port}"
        client.socket.sendall(f"GET {url}/scope HTTP/1.1\r\nHost: other\r\n\r\n".encode())
        assert client.response()[0] == 200
        client.socket.sendall(f"GET {url} HTTP/1.1\r\nHost: other\r\n\r\n".encode())
        assert client.response()[0] in (200, 404)


@pytest.mark.slow
def test_trailers_have_20_seconds(server):
    with server.raw() as client:
        start = time.monotonic()
        client.socket.sendall(
            b"POST /slow?22 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\nX-A: "
        )
        client.drip(b"a")
        assert 19 < time.monotonic() - start < 25
    server.wait_for_log("Closed: no request within 20 s from ")


def test_trailers_in_pieces_are_no_reason_to_end_a_request(server):
    with server.raw() as client:
        client.socket.sendall(
            b"POST /slow?0.1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for piece in (b"3\r\nabc\r\n0\r\n", b"X-A: a", b"\r\nX-B: b\r\n", b"\r\n"):
            client.socket.sendall(piece)
            time.sleep(0.01)
        assert client.response()[0] == 200
        client.socket.sendall(b"GET /scope HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.response()[0] == 200


async def test_a_connection_that_is_cancelled_waits_for_nothing_more():
    started = asyncio.Event()

    async def connection():
        async with TaskGroup(asyncio.get_running_loop()) as group:
            group.spawn(stream, group)
            await asyncio.Event().wait()

    async def stream(group):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:  # Its end makes the connection idle.
            await tcp.IdleTask().restart(group, asyncio.Event().wait)

    task = asyncio.create_task(connection())
    await asyncio.wait_for(started.wait(), BOUND)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, BOUND)


def test_sub_protocols_of_several_lines_are_one_list(server):
    lines = (b"Sec-WebSocket-Protocol: one", b"Sec-WebSocket-Protocol: two, three")
    head = b"\r\n".join(lines)
    with server.raw() as client:
        headers = [(b"Origin", server.origin.encode())]
        headers += [tuple(line.split(b": ")) for line in head.split(b"\r\n")]
        assert client.handshake("/commands", headers=headers)[0] == 101
        client.send_frame(TEXT, b'{"do": "scope", "keys": ["subprotocols"]}')
        assert json.loads(client.frame()[1]) == {"subprotocols": ["one", "two", "three"]}


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((b"Cookie: " + b"c" * 50_000,), 101),
        ((b"Cookie: " + b"c" * 70_000,), 431),
        (tuple(b"X-%d: 1" % number for number in range(200)), 101),
        (tuple(b"X-%d: 1" % number for number in range(300)), 431),
    ],
)
def test_a_head_may_have_64_kib_and_256_lines(server, lines, status):
    assert handshake(server, *USUAL, *lines)[0] == status


def test_a_frame_before_the_accept_is_a_400_of_which_the_application_hears(server):
    path = f"/ends/{uuid.uuid4().hex}"
    with server.raw() as client:
        client.request(f"{path}?wait", [(b"Origin", server.origin.encode())])
        server.wait_for_event("waiting", path)
        client.send_frame(TEXT, b"early")
        assert client.response()[0] == 400
    server.wait_for_event("disconnect() done", path)
    assert [event["code"] for event in server.events("disconnect()", path)] == [1006]


def test_invalid_utf_8_is_noticed_before_the_frame_is_complete(server):
    with server.raw() as client:
        assert client.handshake()[0] == 101
        client.socket.sendall(client.frame_of(TEXT, b"x" * 4000 + b"\xff" + b"x" * 95)[:4050])
        opcode, payload = client.frame()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1007))


def test_a_client_that_breaks_the_protocol_and_stays_is_cut_off(server):
    with server.raw() as client:
        assert client.handshake()[0] == 101
        client.socket.sendall(b"\x81\x05hello")
        assert client.frame()[0] == CLOSE
        client.send_frame(TEXT, b"more")
        assert client.frame() is None


@pytest.mark.parametrize(
    "data",
    [
        RawClient.frame_of(PING) + b"\x81\x05hello",
        RawClient.frame_of(BINARY, bytes(2**20 + 1)),
    ],
)
def test_a_client_that_answers_no_close_may_break_the_protocol(server, data):
    with server.raw() as client:
        assert client.handshake("/commands")[0] == 101
        client.send_frame(TEXT, b'{"do": "close"}')
        assert client.frame()[0] == CLOSE
        with suppress(ConnectionError):
            client.socket.sendall(data)
        assert client.frame() is None


def test_a_client_that_breaks_the_protocol_may_be_gone(server):
    path = f"/ends/{uuid.uuid4().hex}"
    pids = (server.process.pid, *children(server.process.pid))
    with server.raw() as client:
        assert client.handshake(path)[0] == 101
        server.wait_for_event("connected", path)
        for pid in pids:  # It reads what is sent, and finds out only when it answers.
            os.kill(pid, signal.SIGSTOP)
        try:
            client.socket.sendall(b"\x81\x05hello")
            leave(client, "reset")
            client.socket.close()
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    server.wait_for_event("disconnect() done", path)
    assert [event["code"] for event in server.events("disconnect()", path)] == [1006]


def leave(client, way: str) -> None:
    if way == "close":
        client.send_frame(CLOSE, struct.pack("!H", 1000))
        client.socket.settimeout(BOUND)
        with suppress(OSError):
            while client.socket.recv(2**20):
                pass
    elif way == "reset":
        client.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("way", ["close", "end", "reset"])
@pytest.mark.parametrize("path", ["/bare", "/of-channels"])
def test_a_loop_that_only_sends_ends_with_its_client(endless, path, way):
    before = len(endless.events("ended", path))
    with endless.raw() as client:
        assert client.handshake(path)[0] == 101
        # More than may wait, and nobody receives them. What is behind them is not read.
        for _ in range(1 if way == "close" else 30):
            client.send_frame(TEXT, b"go")
        while client.frame() != (BINARY, bytes(2**16)):
            pass
        leave(client, way)
    with endless.connect() as socket:
        socket.send("still there")
        assert socket.recv(BOUND) == "still there"
    endless.wait_for_event("ended", path, before + 1)


async def test_the_end_of_a_stream_that_is_over_is_nothing_new():
    sent = []
    stream = WSStream(None, Config(), None, None, False, None, None, sent.append, 1)
    stream.closed = True
    await stream.handle(EndBody(stream_id=1))
    assert sent == []
