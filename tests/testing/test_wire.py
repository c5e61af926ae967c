"""The client without a WebSocket library."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ws_support.testing import BOUND, RawClient, wire


class Scripted:
    """A server of one connection, which sends what a test says and notes what it hears."""

    def __init__(self, *answers: bytes, reset: bool = False) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(BOUND)
        self.port: int = self.listener.getsockname()[1]
        self.heard = b""
        self.answers = answers
        self.reset = reset
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(BOUND)
            for answer in self.answers:
                while b"\r\n\r\n" not in self.heard:
                    self.heard += connection.recv(65536)
                connection.sendall(answer)
            if self.reset:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            else:
                connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(65536):
                    self.heard += data


@contextmanager
def scripted(*answers: bytes, **options: bool) -> Iterator[tuple[Scripted, RawClient]]:
    server = Scripted(*answers, **options)
    server.thread.start()
    with server.listener:
        with RawClient("127.0.0.1", server.port) as client:
            yield server, client
        server.thread.join(BOUND)
    assert not server.thread.is_alive()


ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def test_a_handshake_is_sent_as_a_library_would():
    with scripted(ACCEPTED) as (server, client):
        head = client.open("/ws?a=1")
        assert head == ACCEPTED.removesuffix(b"\r\n\r\n")
    lines = server.heard.split(b"\r\n")
    assert lines[0] == b"GET /ws?a=1 HTTP/1.1"
    names = [line.partition(b":")[0] for line in lines[1:-2]]
    assert names == [
        b"Host",
        b"Upgrade",
        b"Connection",
        b"Sec-WebSocket-Key",
        b"Sec-WebSocket-Version",
        b"Origin",
    ]


def test_a_handshake_is_sent_as_no_library_would():
    with scripted(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\n", b"no\n") as (
        server,
        client,
    ):
        status, answer = client.handshake(
            headers=[(b"Host", b"a"), (b"Host", b"b")],
            method="PUT",
            without=(b"Host", b"Upgrade"),
            piece=7,
            then=b"\x81",
        )
    assert status == 400
    assert answer.endswith(b"\r\n\r\nno\n")
    assert server.heard.startswith(b"PUT /ws HTTP/1.1\r\nConnection: Upgrade\r\n")
    assert server.heard.endswith(b"Host: a\r\nHost: b\r\n\r\n\x81")


class Pieces:
    """A socket that receives one piece at a time."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def recv(self, size: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def ignored(self, *_: object) -> None:
        pass

    sendall = setsockopt = settimeout = close = ignored


@pytest.fixture
def reading(monkeypatch):
    """A client that receives these pieces."""

    def client_of(*pieces: bytes) -> RawClient:
        monkeypatch.setattr(socket, "create_connection", lambda *_: Pieces(*pieces))
        return RawClient("127.0.0.1", 1)

    return client_of


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 403 Forb", b"idden\r\nContent-Length: 4\r\n\r\n", b"12", b"34"],
        [b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r", b"\n\r\n"],
        [b"HTTP/1.1 403 Forbidden\r\n\r\n", b"until ", b"the end"],
        [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"],
    ],
)
def test_all_of_a_refusal_is_read(reading, answer):
    client = reading(*answer)
    assert client.handshake() == (403, b"".join(answer))
    assert client.socket.pieces == []


def test_a_head_without_its_end_has_a_status(reading):
    assert reading(b"HTTP/1.1 403 Forb").handshake()[0] == 403


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_that_come_byte_by_byte_are_read(reading, size):
    payload = b"x" * size
    data = unmasked(RawClient.frame_of(2, payload), payload)
    pieces = [*(data[i : i + 1] for i in range(14)), data[14:], b"\x89\0"]
    client = reading(*filter(None, pieces))
    assert client.frame() == (2, payload)
    assert client.frame() == (9, b"")
    assert client.frame() is None


def unmasked(frame: bytes, payload: bytes) -> bytes:
    """What a server would send for it."""
    head = frame[: len(frame) - len(payload) - 4]
    return bytes([head[0], head[1] & 0x7F]) + head[2:] + payload


def test_a_server_that_closes_without_an_answer_is_status_0():
    with scripted() as (_, client):
        assert client.handshake() == (0, b"")


def test_a_refusal_is_an_error_where_an_accept_is_expected():
    with scripted(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") as (_, client):
        with pytest.raises(AssertionError, match=r"refused: b'HTTP/1\.1 403"):
            client.open()
        assert client.socket.fileno() == -1


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_of_every_length_are_written_and_read(size):
    payload = b"x" * size
    sent = RawClient.frame_of(2, payload, fin=False)
    assert sent[0] == 2
    with scripted(ACCEPTED, unmasked(sent, payload)) as (server, client):
        client.open()
        client.send_frame(1, b"hello")
        assert client.frame() == (2, payload)
        assert client.frame() is None
    assert server.heard.endswith(b"\x81\x85\0\0\0\0hello")


def test_a_burst_is_so_many_texts():
    with scripted(ACCEPTED) as (server, client):
        client.open()
        client.socket.sendall(client.burst_of(2))
    assert server.heard.endswith(b"\x81\x81\0\0\0\x000\x81\x81\0\0\0\x001")


def test_a_connection_that_is_reset_has_closed():
    with scripted(ACCEPTED, reset=True) as (_, client):
        client.open()
        assert client.frame() is None


def test_a_wait_for_a_frame_has_a_bound():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = RawClient("127.0.0.1", listener.getsockname()[1])
        with client, pytest.raises(TimeoutError):
            client.frame(timeout=0.01)


@pytest.mark.parametrize("reset", [False, True])
def test_bytes_are_sent_again_and_again_until_the_end(monkeypatch, reset):
    monkeypatch.setattr(wire, "_DRIP_INTERVAL", 0.01)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        RawClient("127.0.0.1", listener.getsockname()[1]) as client,
    ):
        connection, _ = listener.accept()
        dripping = threading.Thread(target=client.drip, args=(b"x",))
        dripping.start()
        with connection:
            connection.settimeout(BOUND)
            for _ in range(3):
                assert connection.recv(1) == b"x"
            if reset:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            else:
                connection.shutdown(socket.SHUT_WR)
                dripping.join(BOUND)
        dripping.join(BOUND)
        assert not dripping.is_alive()
