"""Applications that only send, or only receive, on both protocols of Uvicorn."""

from __future__ import annotations

import socket as sockets
import struct
import threading
import time
import urllib.request
import uuid
from contextlib import suppress

import pytest

from tests.harness import BOUND, free_port, memory, running

pytestmark = pytest.mark.long

TEXT, CLOSE = 1, 8
PROTOCOLS = {
    "picows": "ws_support.servers.picows:PicowsProtocol",
    "websockets-sansio": "ws_support.servers.uvicorn.websocket:Protocol",
}


@pytest.fixture(scope="module", params=PROTOCOLS)
def server(request, tmp_path_factory):
    """With a ping each second, and a second for the pong."""
    yield from served(request.param, tmp_path_factory, 1)


@pytest.fixture(scope="module", params=PROTOCOLS)
def patient(request, tmp_path_factory):
    yield from served(request.param, tmp_path_factory, BOUND)


def served(name, tmp_path_factory, ping):
    port = free_port()
    options = ["--ws", PROTOCOLS[name], "--ws-ping-interval", str(ping)]
    with running(
        [
            *("-m", "uvicorn", "tests.project.bare_senders:application", "--port", str(port)),
            *(*options, "--ws-ping-timeout", str(ping), "--log-level", "warning"),
        ],
        tmp_path_factory.mktemp(name) / "server.log",
        port=port,
        environment={},
        name=name,
    ) as server:
        yield server


def close(client):
    client.send_frame(CLOSE, b"\x03\xe8")
    with suppress(OSError):
        while client.socket.recv(2**20):
            pass


def end_tcp_and_read(client):
    client.socket.shutdown(sockets.SHUT_WR)
    with suppress(OSError):
        while client.socket.recv(2**20):
            pass


def end_tcp(client):
    client.socket.shutdown(sockets.SHUT_WR)


def go(client):
    client.socket.close()


def reset(client):
    linger = struct.pack("ii", 1, 0)
    client.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, linger)
    client.socket.close()


def stop_reading(client):
    """And answer no ping."""


WAYS = [close, end_tcp_and_read, end_tcp, go, reset, stop_reading]


def read_for_a_while(client):
    end = time.monotonic() + 0.1
    while time.monotonic() < end and client.socket.recv(2**20):
        pass


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("kind", ["large", "small", "stubborn"])
def test_whoever_sends_without_end_hears_of_it_and_holds_up_nobody(server, kind, leave):
    path = f"/{kind}/{uuid.uuid4().hex}"
    with server.raw() as client:
        assert client.handshake(path)[0] == 101
        read_for_a_while(client)
        leave(client)
        assert urllib.request.urlopen(server.origin, timeout=BOUND).read() == b"up"
        server.wait_for_event("ended", path)


@pytest.mark.parametrize("leave", [close, end_tcp, go, reset])
def test_whoever_sends_after_the_end_hears_of_it(server, leave):
    path = f"/telling/{uuid.uuid4().hex}"
    with server.raw() as client:
        assert client.handshake(path)[0] == 101
        leave(client)
        server.wait_for_event("ended", path)


def test_whoever_refuses_without_end_holds_up_nobody(server):
    path = f"/denying/{uuid.uuid4().hex}"
    with server.raw() as client:
        client.request(path)
        assert client.response()[0] == 418
        server.wait_for_event("ended", path)


def test_a_client_that_reads_as_fast_as_it_is_sent_to_holds_up_nobody(server):
    path = f"/large/{uuid.uuid4().hex}"
    with server.raw() as client:
        assert client.handshake(path)[0] == 101
        reading = threading.Thread(target=end_tcp_of_one_that_reads, args=(client,))
        reading.start()
        for _ in range(5):
            assert urllib.request.urlopen(server.origin, timeout=BOUND).read() == b"up"
        client.socket.shutdown(sockets.SHUT_WR)
        server.wait_for_event("ended", path)
        reading.join()


def end_tcp_of_one_that_reads(client):
    with suppress(OSError):
        while client.socket.recv(2**20):
            pass


def test_no_message_is_lost_by_a_reader_that_is_cancelled(patient):
    path = f"/polling/{uuid.uuid4().hex}"
    with patient.raw() as client:
        assert client.handshake(path)[0] == 101
        for number in range(400):
            client.send_frame(TEXT, b"%d" % number)
            time.sleep(0.002 + number % 7 / 10_000)  # About when it is cancelled.
        received = []
        while len(received) < 400:
            opcode, payload = client.frame()
            if opcode == TEXT:
                received.append(payload)
            else:
                client.send_frame(10, payload)
        assert received == [b"%d" % number for number in range(400)]
    patient.wait_for_event("ended", path)


@pytest.mark.parametrize("fragments", [1, 2])
def test_a_text_waits_in_the_bytes_in_which_it_was_sent(patient, fragments):
    """One character that takes four bytes makes each of a million take as many."""
    text = ("x" * (2**20 - 4) + "\N{GRINNING FACE}").encode()
    half = len(text) // fragments
    with patient.raw() as client:
        assert client.handshake(f"/busy/{fragments}")[0] == 101
        before = memory(patient.process.pid)
        client.send_frame(TEXT, text[:half], fin=fragments == 1)
        if fragments == 2:
            client.send_frame(0, text[half:])
        client.send_frame(TEXT, "\N{GRINNING FACE} short".encode())
        held = []
        for _ in range(30):
            assert urllib.request.urlopen(patient.origin, timeout=BOUND).read() == b"up"
            held.append(memory(patient.process.pid) - before)
            time.sleep(0.01)
        urllib.request.urlopen(f"{patient.origin}/go", timeout=BOUND).close()
        texts = []
        while len(texts) < 2:
            opcode, payload = client.frame()
            if opcode == TEXT:
                texts.append(payload.decode())
    assert texts == ["1048573 \N{GRINNING FACE}", "7 t"]
    # By then it waits. Of what joining fragments has taken for a moment, the C library keeps some.
    assert min(held[20:]) < (4e6 if fragments == 1 else 6e6)
