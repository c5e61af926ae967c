"""What is done for Granian; how its connections end is in `test_endings.py`."""

from __future__ import annotations

import socket
import struct

import granian._signals
import pytest

from tests.harness import BOUND
from ws_support.servers.granian import say_goodbye_when_it_stops


def test_a_granian_that_stops_in_another_way_is_left_alone(monkeypatch):
    monkeypatch.delattr(granian._signals, "set_loop_signals")
    say_goodbye_when_it_stops()
    assert not hasattr(granian._signals, "set_loop_signals")


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
