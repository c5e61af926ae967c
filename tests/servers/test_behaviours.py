"""The same behaviours on every server that `runasgi` starts."""

from __future__ import annotations

import json
import re
import socket as sockets
import struct
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.harness import ASGI_SERVERS, BOUND, ROOT, Server, serving, until

pytestmark = pytest.mark.long

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

DIFFERENCES: dict[str, dict[str, Any]] = {
    "The client's close reason": {"granian": ""},
    "A lost connection": {"granian": 1005},
    "A frame that breaks the protocol": {"granian": (CLOSE, b"")},
    "Another WebSocket version": {"granian": 400},
    "Headers of the accept": {"granian": []},
    "Ping frames": {"granian": False},
    "A missing pong": {"hypercorn": "stays", "granian": "stays"},
    "A flood of pings": {"granian": "grows"},
    "A client that is closed and reads nothing": {"granian": "stays"},
}
"""Where servers differ from what is asserted for the others: the rows of `docs/servers.md`."""


def expected(server: Server, what: str, usual: Any) -> Any:
    return DIFFERENCES[what].get(server.name, usual)


def test_each_difference_is_a_row_of_the_documentation():
    page = (ROOT / "docs" / "servers.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \|(.+)\|$", page, re.MULTILINE))
    for what, servers in DIFFERENCES.items():
        cells = [cell.strip() for cell in rows[what].split("|")]
        # The first one says what is usual.
        differing = [
            name for name, cell in zip(ASGI_SERVERS, cells[1:], strict=True) if cell != "✓"
        ]
        assert differing == [name for name in ASGI_SERVERS if name in servers], what


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def path_for(route: str) -> str:
    return f"/{route}/{uuid.uuid4().hex}"


@pytest.fixture(scope="module", params=ASGI_SERVERS)
def server(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    with serving(log_file, asgi_server=request.param) as server:
        yield server


@pytest.fixture(scope="module", params=ASGI_SERVERS)
def pinging(request, tmp_path_factory):
    """With a ping each half second and half a second for the pong."""
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    settings = {"KEEP_ALIVE_INTERVAL": 0.5, "KEEP_ALIVE_TIMEOUT": 0.5, "MAX_MESSAGE_SIZE": 1000}
    with serving(log_file, asgi_server=request.param, WS_SUPPORT=settings) as server:
        yield server


def raw(server, path="/ws"):
    client = server.raw()
    client.open(path)
    return client


def frame(client) -> tuple[int, bytes] | None:
    """The next frame that is no ping: Hypercorn sends the first one with the accept."""
    deadline = time.monotonic() + BOUND
    while (received := client.frame(deadline - time.monotonic())) and received[0] == PING:
        pass
    return received


def close_frame(code: int, reason: str = "") -> tuple[int, bytes]:
    return CLOSE, struct.pack("!H", code) + reason.encode()


def closed_with(socket) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(BOUND)
    frame = closed.value.rcvd
    return (frame.code, frame.reason) if frame else (1006, "")


def code_of_disconnect(server, path: str) -> int:
    """What `disconnect()` was told, once."""
    code = server.wait_for_event("disconnect() done", path)["code"]
    assert [event["code"] for event in server.events("disconnect()", path)] == [code]
    return code


def lost(server: Server) -> int:
    return expected(server, "A lost connection", 1006)  # type: ignore[no-any-return]


def command(socket, do: str, **arguments: Any) -> None:
    socket.send(json.dumps({"do": do, **arguments}))


def unasked_tracebacks(server: Server) -> int:
    log = server.log()
    return log.count("Traceback (most recent") - len(re.findall("^RuntimeError: asked", log, re.M))


# Messages


@pytest.mark.parametrize(
    "message",
    [
        "text",
        b"binary",
        "",
        b"",
        "\x00",
        "é𝄞" * 1000,
        b"\x00\xff" * 50_000,
        "x" * 2**20,
        bytes(2**20),
    ],
    ids=lambda message: f"{type(message).__name__}-{len(message)}",
)
def test_a_message_comes_back_as_it_was(server, message):
    with server.connect() as socket:
        socket.send(message)
        assert socket.recv(BOUND) == message


def test_fragments_are_one_message_and_a_ping_between_them_is_answered(server):
    with raw(server) as client:
        client.send_frame(TEXT, b"one ", fin=False)
        client.send_frame(PING, b"there?")
        client.send_frame(0, b"", fin=False)
        client.send_frame(0, b"two")
        assert [frame(client), frame(client)] == [(PONG, b"there?"), (TEXT, b"one two")]


def test_messages_come_back_in_order(server):
    messages = [str(number) for number in range(1000)]
    with server.connect() as socket:
        for message in messages:
            socket.send(message)
        assert [socket.recv(BOUND) for _ in messages] == messages


def test_a_burst_of_short_messages_comes_back_in_order(server):
    # Each takes Granian from one thread to another and back: 6 ms on a busy machine.
    count = 2_000 if server.name == "granian" else 20_000
    with raw(server) as client:
        sending = Thread(target=client.socket.sendall, args=(client.burst_of(count),))
        sending.start()
        for number in range(count):
            assert frame(client) == (TEXT, b"%d" % number)
        sending.join()


def test_a_message_that_arrives_byte_by_byte_comes_back(server):
    with raw(server) as client:
        for byte in b"\x81\x85\0\0\0\0hello":
            client.socket.sendall(bytes([byte]))
            time.sleep(0.005)
        assert frame(client) == (TEXT, b"hello")


def test_a_client_that_reads_late_loses_nothing(server):
    path = path_for("counting")
    with server.connect(f"{path}?400", max_queue=1) as socket:
        server.wait_for_event("accepted", path)
        time.sleep(1)  # The buffers between are full long before.
        received = [socket.recv(BOUND) for _ in range(400)]
    assert [int.from_bytes(message[:4], "big") for message in received] == list(range(400))
    assert {len(message) for message in received} == {2**15}


def test_a_busy_consumer_holds_up_nobody_else(server):
    with server.connect("/busy") as busy, server.connect() as other:
        busy.send("1")
        other.send("hello")
        assert other.recv(0.9) == "hello"
        assert busy.recv(BOUND) == "1"


def test_an_oversized_message_closes_with_1009(pinging):
    path = path_for("ends")
    # Hypercorn leaves it to the client to end the connection, for a while.
    with pinging.connect(path, close_timeout=0.5) as socket:
        socket.send("x" * 1001)
        assert closed_with(socket)[0] == 1009
    assert code_of_disconnect(pinging, path) == 1009


def test_a_message_of_the_largest_size_is_taken(pinging):
    with pinging.connect() as socket:
        socket.send("x" * 1000)
        assert socket.recv(BOUND) == "x" * 1000


def test_the_size_is_that_of_all_fragments_in_bytes(pinging):
    with pinging.connect(close_timeout=0.5) as socket:
        with suppress(ConnectionClosed):  # It may be closed before the last fragment, an empty one.
            socket.send(["é" * 250, "é" * 251])
        assert closed_with(socket)[0] == 1009


# Handshake


def test_the_first_sub_protocol_that_was_offered_is_agreed_on(server):
    with server.connect(subprotocols=["one", "two"]) as socket:
        assert socket.subprotocol == "one"


def test_without_an_offer_there_is_no_sub_protocol(server):
    with server.connect() as socket:
        assert socket.subprotocol is None


def test_the_headers_of_the_accept_are_sent(server):
    with server.connect("/headers?value") as socket:
        values = socket.response.headers.get_all("x-first")
    assert values == expected(server, "Headers of the accept", ["value", "again"])


def test_the_scope_says_where_the_client_is_and_what_it_wants(server):
    keys = ["type", "scheme", "http_version", "path", "client", "subprotocols", "query_string"]
    with server.connect("/commands?a=%20b", subprotocols=["a", "b"]) as socket:
        command(socket, "scope", keys=keys)
        scope = json.loads(socket.recv(BOUND))
        client = list(socket.local_address)
    assert scope == {
        "type": "websocket",
        "scheme": "ws",
        "http_version": "1.1",
        "path": "/commands",
        "client": client,
        "subprotocols": ["a", "b"],
        "query_string": "a=%20b",
    }


def test_the_headers_of_the_client_arrive_byte_by_byte(server):
    headers = [(b"Origin", server.origin.encode()), (b"X-Own", b'caf\xe9, \t"quoted"')]
    with server.raw() as client:
        assert client.handshake("/commands", headers)[0] == 101
        client.send_frame(TEXT, b'{"do": "headers", "name": "x-own"}')
        assert json.loads(frame(client)[1]) == [headers[1][1].hex()]


def test_headers_of_proxies_are_not_believed(server):
    headers = {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"}
    with server.connect("/commands", additional_headers=headers) as socket:
        command(socket, "scope", keys=["client", "scheme"])
        scope = json.loads(socket.recv(BOUND))
        assert scope == {"client": list(socket.local_address), "scheme": "ws"}


def test_a_handshake_that_arrives_in_pieces_is_taken(server):
    with server.raw() as client:
        client.request(piece=7)
        assert client.response()[0] == 101


def test_an_unknown_path_is_refused(server):
    with pytest.raises(InvalidStatus) as refused:
        server.connect("/nope")
    assert refused.value.response.status_code == 404
    assert refused.value.response.body == b"There is no WebSocket at this path.\n"
    server.wait_for_event("rejected", "/nope")


def test_a_foreign_origin_is_refused(server):
    with pytest.raises(InvalidStatus) as refused:
        server.connect(origin="https://evil.example")
    assert refused.value.response.status_code == 403
    assert refused.value.response.body == b"This origin may not connect.\n"


def test_a_missing_origin_is_refused(server):
    with server.raw() as client:
        assert client.handshake(headers=[])[0] == 403


def test_a_consumer_that_refuses_is_a_403(server):
    with pytest.raises(InvalidStatus) as refused:
        server.connect("/refusing")
    assert refused.value.response.status_code == 403


def test_plain_http_is_told_to_upgrade(server):
    with server.raw() as client:
        client.socket.sendall(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, response = client.response()
    assert status == 426
    assert b"upgrade: websocket" in response.lower()


def test_requests_whose_body_nobody_reads_do_not_hold_up_the_next(server):
    request = b"POST /scope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nunread"
    with server.raw() as client:
        for _ in range(3):
            client.socket.sendall(request)
            assert client.response()[0] == 200


def test_another_version_is_refused_with_the_one_that_is_spoken(server):
    with server.raw() as client:
        status, response = client.handshake(
            headers=[(b"Origin", server.origin.encode()), (b"Sec-WebSocket-Version", b"99")],
            without=(b"Sec-WebSocket-Version",),
        )
    assert status == expected(server, "Another WebSocket version", 426)
    if status == 426:
        assert b"sec-websocket-version: 13" in response.lower()


@pytest.mark.parametrize(
    ("without", "header"),
    [
        (b"Sec-WebSocket-Key", b""),
        (b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: short"),
        (
            b"Sec-WebSocket-Key",
            b"Sec-WebSocket-Key: " + 16 * b"\xe9",
        ),
        (b"Sec-WebSocket-Version", b""),
        (b"Connection", b""),
        (b"Upgrade", b"Upgrade: h2c"),
        (b"", b"Sec-WebSocket-Protocol: caf\xe9"),
        (b"", b"Sec-WebSocket-Protocol: "),
        (b"", b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=abc"),
        (b"", b"Sec-WebSocket-Extensions: permessage-deflate; \xe9"),
        (b"", b"Sec-WebSocket-Extensions: ;;==,"),
        (b"", b"Bad\0Header: x"),
        (b"", b"X: " + b"x" * 70_000),
        (b"", b"Content-Length: 5"),
    ],
)
def test_a_malformed_handshake_leaves_no_traceback(server, without, header):
    name, _, value = header.partition(b": ")
    with server.raw() as client:
        client.socket.settimeout(1)
        client.request(
            headers=[(b"Origin", server.origin.encode()), *([(name, value)] if name else [])],
            without=(without,),
        )
        with suppress(OSError, ValueError):  # Some wait for more, some just end the connection.
            client.socket.recv(1000)
    with server.connect() as socket:
        socket.send("still there")
        assert socket.recv(BOUND) == "still there"
    assert unasked_tracebacks(server) == 0


def test_nothing_is_compressed_unless_the_settings_say_so(server):
    offer = [(b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits")]
    with server.raw() as client:
        status, head = client.handshake(headers=[*offer, (b"Origin", server.origin.encode())])
    assert status == 101
    assert b"permessage-deflate" not in head


@pytest.mark.websocket_tracebacks
def test_what_a_callback_of_the_project_raises_is_logged_once(server):
    before = server.log().count("RuntimeError: asked for, later")
    with server.connect("/commands") as socket:
        socket.send('{"do": "raise later"}')
        for _ in until("the traceback", server.log):
            if server.log().count("RuntimeError: asked for, later") > before:
                break
        socket.send('{"do": "scope", "keys": ["path"]}')
        assert socket.recv(BOUND) == '{"path": "/commands"}'
    assert server.log().count("RuntimeError: asked for, later") == before + 1


# The end


@pytest.mark.parametrize("code", [1000, 1001, 1008, 3000, 4999])
def test_the_code_of_the_client_is_echoed_and_reported(server, code):
    path = path_for("ends")
    with server.connect(path) as socket:
        socket.close(code, "because")
        assert (socket.close_code, socket.close_reason) == (code, "because")
    assert code_of_disconnect(server, path) == code


def test_the_reason_of_the_client_is_reported(server):
    path = path_for("ends")
    with server.connect(path) as socket:
        socket.close(4000, "because")
    reason = server.wait_for_event("disconnected", path)["reason"]
    assert reason == expected(server, "The client's close reason", "because")


def test_a_close_without_a_code_is_1005(server):
    path = path_for("ends")
    with raw(server, path) as client:
        client.send_frame(CLOSE)
        assert frame(client) == (CLOSE, b"")
    assert code_of_disconnect(server, path) == 1005


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1012, 1014, 3000, 3008, 4999])
def test_a_consumer_closes_with_a_code_and_a_reason(server, code):
    path = path_for("ends")
    with server.connect(path) as socket:
        command(socket, "close", code=code, reason="bécause")
        assert closed_with(socket) == (code, "bécause")
    assert code_of_disconnect(server, path) == code


def test_a_client_that_does_not_answer_the_close_is_reported_with_our_code(server):
    path = path_for("ends")
    with raw(server, path) as client:
        client.send_frame(TEXT, b'{"do": "close", "code": 4001}')
        assert frame(client) == close_frame(4001)
        assert code_of_disconnect(server, path) == 4001


@pytest.mark.websocket_tracebacks
def test_an_exception_closes_with_1011(server):
    path = path_for("ends")
    with server.connect(path) as socket:
        command(socket, "raise")
        assert closed_with(socket)[0] == 1011
    assert code_of_disconnect(server, path) == 1011


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"\x81\x05hello", 1002),  # Not masked
        (b"\xc1\x85\0\0\0\0hello", 1002),  # A reserved bit
        (b"\x83\x80\0\0\0\0", 1002),  # A reserved opcode
        (b"\x80\x80\0\0\0\0", 1002),  # A continuation of nothing
        (b"\x89\xfe\0\x80\0\0\0\0" + bytes(128), 1002),  # A large ping
        (b"\x81\x82\0\0\0\0\xc3\x28", 1007),  # No UTF-8
    ],
)
def test_a_frame_that_breaks_the_protocol_is_answered_with_its_code(server, wrong, code):
    path = path_for("ends")
    with raw(server, path) as client:
        client.socket.sendall(wrong)
        answer = frame(client)
        # Without the reason, which each server words in its own way.
        answer = answer and (answer[0], answer[1][:2])
        assert answer == expected(server, "A frame that breaks the protocol", close_frame(code))
    code_of_disconnect(server, path)


def test_a_client_that_resets_its_connection_is_a_lost_one(server):
    path = path_for("ends")
    with raw(server, path) as client:
        server.wait_for_event("accepted", path)
        client.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    assert code_of_disconnect(server, path) == lost(server)


def test_a_client_that_shuts_down_its_half_is_a_lost_one(server):
    path = path_for("ends")
    with raw(server, path) as client:
        client.socket.shutdown(sockets.SHUT_WR)
        assert code_of_disconnect(server, path) == lost(server)


def test_a_client_that_vanishes_within_a_message_is_a_lost_one(server):
    path = path_for("ends")
    with raw(server, path) as client:
        client.socket.sendall(b"\x81\xfe\x10\x00\0\0\0\0the first part")
    assert code_of_disconnect(server, path) == lost(server)


def test_a_client_that_vanishes_within_the_handshake_harms_nobody(server):
    for _ in range(5):
        with server.raw() as client:
            client.socket.sendall(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: webs")
    with server.connect() as socket:
        socket.send("still there")
        assert socket.recv(BOUND) == "still there"


def test_a_silent_peer_is_found_by_the_heartbeat(server):
    path = path_for("silent")
    with raw(server, path) as client:
        assert frame(client) == close_frame(3008, "No message for 1 seconds")
        assert code_of_disconnect(server, path) == 3008


def test_a_consumer_that_closes_with_messages_unread_leaves_no_socket_open(pinging):
    def open_files() -> int:
        pids = [pinging.process.pid, *children(pinging.process.pid)]
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)

    path = path_for("ends")
    with pinging.connect() as socket:  # Some files are opened only then.
        socket.send("hello")
        assert socket.recv(BOUND) == "hello"
        before = open_files()
    for _ in range(20):
        with raw(pinging, path) as client:
            client.send_frame(TEXT, b'{"do": "close and wait"}')
            with suppress(ConnectionError):  # Some have closed the socket before the last is sent.
                for _ in range(10):
                    client.send_frame(TEXT, b'{"do": "say", "text": "unread"}')
            assert frame(client) in (close_frame(4002), None)
    for _ in until("closed sockets", lambda: f"{open_files()} instead of {before}"):
        if open_files() < before + 5:  # Those of other tests come and go.
            break


# Keep-alive


def test_pings_come_each_interval(pinging):
    with raw(pinging) as client:
        if not expected(pinging, "Ping frames", True):
            with pytest.raises(TimeoutError):
                client.frame(1.5)
            return
        for _ in range(3):
            opcode, payload = client.frame(2)
            assert opcode == PING
            client.send_frame(PONG, payload)


def test_a_client_that_answers_pings_stays(pinging):
    with pinging.connect() as socket:
        time.sleep(2)
        socket.send("still there")
        assert socket.recv(BOUND) == "still there"


def test_a_client_that_does_not_answer_pings_is_dropped(pinging):
    path = path_for("ends")
    with raw(pinging, path) as client:
        if expected(pinging, "A missing pong", "is dropped") == "is dropped":
            assert code_of_disconnect(pinging, path) == 1006
            assert frame(client) is None
            return
        time.sleep(2)
        client.send_frame(TEXT, b'{"do": "say", "text": "still here"}')
        assert frame(client) == (TEXT, b"still here")


# Many


@pytest.mark.slow
def test_a_thousand_connections_at_once_are_served(server):
    with ExitStack() as stack:
        clients = [stack.enter_context(server.raw()) for _ in range(1000)]
        for client in clients:
            client.request()
        for client in clients:
            assert client.response()[0] == 101
        for number, client in enumerate(clients):
            client.send_frame(TEXT, b"%d" % number)
        for number, client in enumerate(clients):
            assert frame(client) == (TEXT, b"%d" % number)


def test_nothing_of_this_leaves_a_traceback_but_what_was_asked_for(server):
    with server.connect() as socket:
        socket.send("the last")
        assert socket.recv(BOUND) == "the last"
    assert unasked_tracebacks(server) == 0
