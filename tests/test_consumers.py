"""The echo, on every server at hand."""

from __future__ import annotations

import pytest

from tests.harness import SERVERS, serving


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    with serving(log_file, command=request.param) as server:
        yield server


@pytest.mark.parametrize(
    "message", ["text", b"binary", "", b"", "\x00", b"\x00\xff", "é𝄞", "x" * 2**20, bytes(2**20)]
)
def test_each_message_comes_back_as_the_same_type(server, message):
    with server.connect() as socket:
        socket.send(message)
        assert socket.recv() == message


@pytest.mark.parametrize("pieces", [["one ", "two ", "", "three"], [b"\x00", b"", b"\xff"]])
def test_a_fragmented_message_comes_back_as_one(server, pieces):
    with server.connect() as socket:
        socket.send(pieces)
        assert socket.recv() == type(pieces[0])().join(pieces)


def test_messages_come_back_in_order(server):
    messages = [str(number) for number in range(500)]
    with server.connect() as socket:
        for message in messages:
            socket.send(message)
        assert [socket.recv() for _ in messages] == messages


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_the_code_of_the_client_comes_back(server, code):
    with server.connect() as socket:
        socket.close(code, "because")
        assert (socket.close_code, socket.close_reason) == (code, "because")


def test_the_first_sub_protocol_that_was_offered_is_agreed_on(server):
    with server.connect(subprotocols=["one", "two"]) as socket:
        assert socket.subprotocol == "one"


def test_without_an_offer_there_is_no_sub_protocol(server):
    with server.connect() as socket:
        assert socket.subprotocol is None


def test_a_synchronous_consumer_of_channels_echoes_without_a_warning(server):
    with server.connect("/sync") as socket:
        socket.send("hello")
        assert socket.recv() == "hello"
    assert "Warning" not in server.log()
