"""The fast lane: what `PicowsProtocol` does besides what is asked of every server."""

from __future__ import annotations

import json
import signal
import struct
import time
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from tests.fuzz.model import expect
from tests.harness import BOUND, examples, free_port, memory, running, serving, until

pytestmark = pytest.mark.long

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAX_SIZE = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    log_file = tmp_path_factory.mktemp("picows") / "server.log"
    with serving(log_file, asgi_server="uvicorn-picows") as server:
        yield server


@pytest.fixture
def client(server):
    with server.raw() as client:
        status, head = client.handshake()
        assert status == 101, head
        yield client


def close_frame(code: int, reason: str = "") -> tuple[int, bytes]:
    return CLOSE, struct.pack("!H", code) + reason.encode()


def code_of(frame: tuple[int, bytes] | None) -> int:
    assert frame is not None
    assert frame[0] == CLOSE
    return int.from_bytes(frame[1][:2], "big")


# The handshake


@pytest.mark.parametrize(
    ("without", "headers", "status"),
    [
        ((b"Sec-WebSocket-Key",), [], 400),
        ((b"Sec-WebSocket-Key",), [(b"Sec-WebSocket-Key", b"short")], 400),
        ((b"Sec-WebSocket-Key",), [(b"Sec-WebSocket-Key", b"!" * 22 + b"==")], 400),
        ((b"Sec-WebSocket-Key",), [(b"Sec-WebSocket-Key", b"\xe9" * 24)], 400),
        ((), [(b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")], 400),
        ((b"Host",), [], 400),
        ((), [(b"Host", b"second")], 400),
        ((b"Sec-WebSocket-Version",), [], 426),
        ((b"Sec-WebSocket-Version",), [(b"Sec-WebSocket-Version", b"8")], 426),
        ((), [(b"Sec-WebSocket-Version", b"8")], 426),
        ((), [(b"Sec-WebSocket-Protocol", b"caf\xe9")], 400),
        ((), [(b"Sec-WebSocket-Protocol", b"a b")], 400),
        ((), [(b"Content-Length", b"5")], 400),
    ],
)
def test_a_malformed_handshake_is_refused_in_one_line(server, without, headers, status):
    headers.append((b"Origin", server.origin.encode()))
    with server.raw() as client:
        answer, response = client.handshake("/refused", headers=headers, without=without)
    head, _, body = response.partition(b"\r\n\r\n")
    assert answer == status
    assert body.count(b"\n") == 1
    assert b"text/plain" in head
    assert (b"sec-websocket-version: 13" in head) == (status == 426)
    server.wait_for_log(f"Refused with {status}: {body.decode().strip()}: path '/refused'.")


def test_another_method_is_refused_with_405(server):
    with server.raw() as client:
        status, response = client.handshake(method="PUT")
    assert status == 405
    assert b"allow: GET" in response


def test_sub_protocols_of_several_headers_are_one_list(server):
    headers = [
        (b"Origin", server.origin.encode()),
        (b"Sec-WebSocket-Protocol", b"first, second"),
        (b"sec-websocket-protocol", b",third ,"),
    ]
    with server.raw() as client:
        status, head = client.handshake("/commands", headers=headers)
        assert status == 101
        assert b"sec-websocket-protocol" not in head.lower()
        client.send_frame(TEXT, b'{"do": "scope", "keys": ["subprotocols"]}')
        assert client.frame() == (TEXT, b'{"subprotocols": ["first", "second", "third"]}')


def test_frames_right_behind_the_request_are_not_lost(server):
    with server.raw() as client:
        client.request(then=client.burst_of(300))
        assert client.response()[0] == 101
        assert [client.frame() for _ in range(300)] == [(TEXT, b"%d" % n) for n in range(300)]


def test_frames_before_the_accept_are_not_lost(server):
    with server.raw() as client:
        client.request("/slow-accept")
        server.wait_for_event("connecting", "/slow-accept")
        for number in range(3):
            client.send_frame(TEXT, b"%d" % number)
        assert client.response()[0] == 101
        assert [client.frame() for _ in range(3)] == [(TEXT, b"%d" % n) for n in range(3)]


@pytest.mark.parametrize("has_spoken", [False, True])
def test_a_client_that_goes_before_the_answer_is_a_lost_one(server, has_spoken):
    before = len(server.events("accepted late", "/accepting-late"))
    with server.raw() as client:
        client.request("/accepting-late")
        if has_spoken:
            client.send_frame(TEXT, b"early")
            client.send_frame(CLOSE)
        client.socket.shutdown(1)
        event = server.wait_for_event("accepted late", "/accepting-late", before + 1)
    assert [message["type"] for message in event["messages"][:2]] == [
        "websocket.connect",
        "websocket.disconnect",
    ]
    assert event["messages"][1]["code"] == 1006
    assert len(event["messages"]) == 3  # And accept() raised an OSError.


@pytest.mark.slow
def test_a_request_that_never_ends_is_given_up(server):
    start = time.monotonic()
    with server.raw() as silent, server.raw() as slow:
        slow.socket.sendall(b"GET /ws HTTP/1.1\r\nHost: ")
        for client in (silent, slow):
            assert client.socket.recv(1) == b""
    assert 15 < time.monotonic() - start < BOUND
    assert server.log().count("Closed: no request within 20 s from ('127.0.0.1', ") == 2


def test_a_response_of_the_application_waits_for_a_slow_client(server):
    with server.raw() as client:
        client.request("/denying-slowly")
        before = memory(server.process.pid)
        status, response = client.response()
    assert status == 418
    assert len(response.partition(b"\r\n\r\n")[2]) == 16 * 2**20
    assert memory(server.process.pid) - before < 10e6
    event = server.wait_for_event("denied", "/denying-slowly")
    assert event["message"] == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


# Messages


def test_a_large_frame_is_refused_by_its_head(client):
    client.socket.sendall(b"\x82\xff" + (2**40).to_bytes(8, "big") + bytes(4))
    assert client.frame() == close_frame(1009, f"A message may have at most {MAX_SIZE} bytes")
    assert client.frame() is None


def test_fragments_are_counted_together(client):
    for _ in range(3):
        client.send_frame(BINARY if _ == 0 else CONTINUATION, bytes(400_000), fin=False)
    assert code_of(client.frame()) == 1009


def test_reading_goes_on_after_a_large_message_in_fragments(client):
    client.send_frame(BINARY, bytes(100_000), fin=False)
    client.send_frame(CONTINUATION, bytes(100_000))
    assert client.frame() == (BINARY, bytes(200_000))
    client.send_frame(TEXT, b"the next")
    assert client.frame() == (TEXT, b"the next")


def test_text_that_is_no_utf_8_is_refused_at_the_first_fragment_that_shows_it(client):
    client.send_frame(TEXT, "ä".encode()[:1], fin=False)
    client.send_frame(PING, b"still fine")
    assert client.frame() == (PONG, b"still fine")
    client.send_frame(CONTINUATION, b"x", fin=False)
    assert code_of(client.frame()) == 1007


def test_a_character_may_be_cut_by_fragments(client):
    whole = "ä𝄞".encode()
    for index in range(len(whole)):
        client.send_frame(
            TEXT if index == 0 else CONTINUATION,
            whole[index : index + 1],
            fin=index == len(whole) - 1,
        )
    assert client.frame() == (TEXT, whole)


@pytest.mark.parametrize("bits", [0x40, 0x20, 0x10])
@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, PING, CLOSE])
def test_reserved_bits_are_refused(client, bits, opcode):
    if opcode == CONTINUATION:
        client.send_frame(TEXT, fin=False)
    client.socket.sendall(bytes((0x80 | bits | opcode, 0x80)) + bytes(4))
    assert code_of(client.frame()) == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_within_a_fragmented_one_is_refused(client, opcode):
    client.send_frame(TEXT, b"a", fin=False)
    client.send_frame(opcode, b"b")
    assert code_of(client.frame()) == 1002


def test_empty_fragments_cost_nothing(server):
    with server.raw() as client:
        assert client.handshake()[0] == 101
        client.send_frame(BINARY, fin=False)
        before = memory(server.process.pid)
        for _ in range(20):
            client.socket.sendall(client.frame_of(CONTINUATION, fin=False) * 10_000)
        client.send_frame(PING, b"there")
        assert client.frame() == (PONG, b"there")
        assert memory(server.process.pid) - before < 1e6
        client.send_frame(CONTINUATION, b"end")
        assert client.frame() == (BINARY, b"end")


frames = st.builds(
    lambda first, mask, payload: (first, mask, payload),
    st.sampled_from([0x81, 0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x88, 0xC1, 0x83, 0x09]),
    st.binary(min_size=4, max_size=4),
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=50).map(str.encode),
        st.sampled_from([b"\x03\xe8", b"\x0f\xa0bye", b"\xc3", b"\xa4"]),
    ),
)


def wire(first: int, mask: bytes, payload: bytes) -> bytes:
    size = len(payload)
    head = bytes((first, 0x80 | size)) if size < 126 else bytes((first, 0xFE, 0, size))
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


@settings(max_examples=examples(100))
@given(st.lists(frames, max_size=12), st.binary(max_size=6), st.integers(1, 200))
def test_whatever_a_client_sends_it_gets_what_the_protocol_says(server, sent, rest, piece):
    data = b"".join(wire(*frame) for frame in sent) + rest
    expected = expect(data, MAX_SIZE)
    with server.raw() as client:
        assert client.handshake()[0] == 101
        with suppress(ConnectionError):  # Whoever was told is cut off in the end.
            for start in range(0, len(data), piece):
                client.socket.sendall(data[start : start + piece])
        if not expected.is_over:
            # Else an incomplete frame at the end would wait for more.
            client.socket.shutdown(1)
        received = []
        while (frame := client.frame()) is not None:
            received.append(frame)
            if frame[0] == CLOSE:
                with suppress(OSError):  # Else it waits for what may still be on its way.
                    client.socket.shutdown(1)
    echoes = [
        payload.decode() if opcode == TEXT else payload
        for opcode, payload in received
        if opcode < CLOSE
    ]
    closes = [payload for opcode, payload in received if opcode == CLOSE]
    assert [payload for opcode, payload in received if opcode == PONG] == expected.pings
    assert echoes == expected.messages[: len(echoes)]
    assert len(closes) == expected.is_over
    if closes:
        assert received[-1][0] == CLOSE
        code = int.from_bytes(closes[0][:2], "big") if closes[0] else 1005
        if expected.closed_with is not None:
            assert (code, closes[0][2:].decode()) == expected.closed_with
        else:
            assert code in expected.broken_with


# How it ends


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_a_code_that_no_close_frame_may_have_is_refused(client, code):
    client.send_frame(CLOSE, code.to_bytes(2, "big"))
    assert code_of(client.frame()) == 1002
    assert client.frame() is None


@pytest.mark.parametrize(("payload", "code"), [(b"\x03", 1002), (b"\x03\xe8\xc3", 1007)])
def test_a_close_frame_with_a_broken_payload_is_refused(client, payload, code):
    client.send_frame(CLOSE, payload)
    assert code_of(client.frame()) == code


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa0bye", b"\x03\xf6"])
def test_a_close_frame_is_answered_with_its_like_whatever_comes_behind_it(client, payload):
    client.socket.sendall(client.frame_of(CLOSE, payload) + b"\xff\xff" + client.burst_of(3))
    assert client.frame() == (CLOSE, payload[:2] and payload)
    assert client.frame() is None


def test_what_comes_after_our_close_is_dropped(server):
    path = "/ends/after-close"
    with server.raw() as client:
        assert client.handshake(path)[0] == 101
        client.send_frame(TEXT, b'{"do": "close", "code": 4001}')
        assert client.frame() == close_frame(4001)
        client.socket.sendall(client.burst_of(1000))
        client.send_frame(CLOSE, b"\x0f\xa1")
        assert client.frame() is None
    server.wait_for_event("disconnect() done", path)
    assert [event["code"] for event in server.events("disconnect()", path)] == [4001]


@pytest.mark.slow
def test_a_client_that_never_answers_our_close_is_cut_off(server):
    with server.raw() as client:
        assert client.handshake("/ends/no-answer")[0] == 101
        client.send_frame(TEXT, b'{"do": "close", "code": 4001}')
        assert client.frame() == close_frame(4001)
        start = time.monotonic()
        assert client.frame() is None
    assert 8 < time.monotonic() - start < BOUND


@pytest.mark.slow
def test_a_client_that_goes_on_after_its_error_is_cut_off(server):
    with server.raw() as client:
        assert client.handshake()[0] == 101
        client.socket.sendall(b"\xff\xff")
        assert code_of(client.frame()) == 1002
        start = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() < start + BOUND:
                client.socket.sendall(bytes(1000))
                time.sleep(0.01)
    assert 4 < time.monotonic() - start < BOUND


@pytest.mark.parametrize("is_ours", [True, False])
def test_what_is_sent_too_late_raises_an_oserror(server, is_ours):
    with server.raw() as client:
        path = f"/sending-late/{is_ours}"
        assert client.handshake(path)[0] == 101
        client.send_frame(*((TEXT, b"close") if is_ours else (CLOSE, b"\x0f\xa0")))
        assert code_of(client.frame()) == 4000
        event = server.wait_for_event("late", path)
    assert event["message"] == {"type": "websocket.disconnect", "code": 4000, "reason": ""}
    assert event["errors"] == [
        "OSError: websocket.send was sent after the connection had ended.",
        "OSError: websocket.close was sent after the connection had ended.",
    ]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"type": "websocket.send"}, "ValueError: websocket.send has neither text nor bytes."),
        (
            {"type": "websocket.close", "code": 1006},
            "ValueError: A connection cannot be closed with 1006: use 1000 or a code from 3000 to"
            " 4999.",
        ),
        (
            {"type": "websocket.accept"},
            "RuntimeError: websocket.accept was sent where websocket.send or websocket.close was"
            " expected.",
        ),
    ],
)
def test_a_message_that_makes_no_sense_is_an_error_that_says_so(server, message, error):
    with server.connect("/wrong-send") as socket:
        socket.send(json.dumps(message))
        assert socket.recv(BOUND) == error
        socket.send('{"type": "websocket.send", "text": "it goes on"}')
        assert [socket.recv(BOUND), socket.recv(BOUND)] == ["it goes on", "None"]


# Keep-alive, and who is slow


def test_pings_are_answered_while_the_application_is_busy(server):
    with server.raw() as client:
        assert client.handshake("/busy")[0] == 101
        client.send_frame(TEXT, b"1")
        client.send_frame(PING, b"now")
        assert client.frame() == (PONG, b"now")
        assert client.frame() == (TEXT, b"1")


def test_without_a_timeout_pings_go_on_and_no_pong_is_missed(serve):
    keep_alive = {"KEEP_ALIVE_INTERVAL": 0.2, "KEEP_ALIVE_TIMEOUT": None}
    server = serve(asgi_server="uvicorn-picows", WS_SUPPORT=keep_alive)
    with server.raw() as client:
        assert client.handshake()[0] == 101
        pings = [client.frame() for _ in range(3)]
        for _, payload in pings[::2]:
            client.send_frame(PONG, payload)  # An old one, and the last one.
        pings += [client.frame() for _ in range(2)]
    assert [opcode for opcode, _ in pings] == [PING] * 5
    assert len({payload for _, payload in pings}) == 5


def test_without_an_interval_there_are_no_pings(serve):
    keep_alive = {"KEEP_ALIVE_INTERVAL": None}
    server = serve(asgi_server="uvicorn-picows", WS_SUPPORT=keep_alive)
    with server.raw() as client:
        assert client.handshake()[0] == 101
        client.send_frame(PONG, b"unasked")
        client.send_frame(TEXT, b"hello")
        assert client.frame() == (TEXT, b"hello")


def test_a_busy_application_misses_no_pong(serve):
    keep_alive = {"KEEP_ALIVE_INTERVAL": 0.2, "KEEP_ALIVE_TIMEOUT": 0.2}
    server = serve(asgi_server="uvicorn-picows", WS_SUPPORT=keep_alive)
    with server.connect("/busy-of-channels", compression=None) as socket:
        socket.send("2")
        for _ in range(2000):
            socket.send("0" + " " * 200)  # Reading is paused.
        assert {socket.recv(BOUND).strip() for _ in range(2001)} == {"2", "0"}


@pytest.mark.slow
def test_a_large_buffer_is_given_back(serve):
    server = serve(asgi_server="uvicorn-picows")  # A fresh one, which has no memory in reserve.
    before = memory(server.process.pid)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect(compression=None)) for _ in range(30)]
        for client in clients:
            client.send(bytes(MAX_SIZE))
            assert len(client.recv(BOUND)) == MAX_SIZE
        # Each had made room for 2 MiB.
        for _ in until("less memory", lambda: f"{memory(server.process.pid) - before} bytes more"):
            if memory(server.process.pid) - before < 20e6:
                break
        for client in clients:
            client.send("still there")
            assert client.recv(BOUND) == "still there"


# By Uvicorn's own command

PROTOCOL = "ws_support.servers.picows:PicowsProtocol"


@pytest.fixture
def by_itself(tmp_path):
    """Start Uvicorn with these arguments, and an application that knows nothing of us."""
    with ExitStack() as stack:

        def start(*arguments: str, application: str = "benchmarks.applications.bare:application"):
            port = free_port()
            command = ["-m", "uvicorn", application]
            return stack.enter_context(
                running(
                    [*command, "--port", str(port), "--ws", PROTOCOL, *arguments],
                    tmp_path / "server.log",
                    port=port,
                    environment={},
                )
            )

        yield start


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_any_application_is_served_on_any_loop(by_itself, loop, http):
    server = by_itself("--loop", loop, "--http", http)
    with server.connect() as socket:
        for message in ("text", b"binary", "", "ä" * 100_000, bytes(2**20)):
            socket.send(message)
            assert socket.recv(BOUND) == message
        socket.close(4000, "bye")


def test_the_scope_is_complete(by_itself, tmp_path):
    tmp_path.joinpath("scopes.py").write_text(SCOPES)
    server = by_itself("--app-dir", str(tmp_path), "--root-path", "/r", application="scopes:app")
    with server.connect("/p%C3%A4th/%2F?a=%20b", subprotocols=["one", "two"]) as socket:
        scope = json.loads(socket.recv(BOUND))
        port = socket.local_address[1]
    headers = dict(scope.pop("headers"))
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "server": ["127.0.0.1", server.port],
        "client": ["127.0.0.1", port],
        "root_path": "/r",
        "path": "/r/p\u00e4th//",
        "raw_path": "/r/p%C3%A4th/%2F",
        "query_string": "a=%20b",
        "subprotocols": ["one", "two"],
        "state": {"greeting": "hello"},
        "extensions": {"websocket.http.response": {}, "ws_support.direct": "PicowsProtocol"},
    }


SCOPES = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        scope["state"]["greeting"] = "hello"
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await receive()
        await send({"type": "websocket.accept"})
        text = json.dumps(scope, default=lambda value: (
            value.decode("latin-1") if isinstance(value, bytes) else type(value).__name__
        ))
        await send({"type": "websocket.send", "text": text})
        await receive()
"""


@pytest.mark.websocket_tracebacks
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_application_that_stops_without_a_word_is_answered_for(by_itself, tmp_path, loop):
    tmp_path.joinpath("ends.py").write_text(ENDS)
    server = by_itself("--app-dir", str(tmp_path), "--loop", loop, application="ends:app")
    for path, status, code in [
        ("/return", 500, None),
        ("/raise", 500, None),
        ("/deny", 500, None),
        ("/accept/return", 101, 1000),
        ("/accept/raise", 101, 1011),
        ("/accept/result", 101, 1000),
    ]:
        with server.raw() as client:
            assert client.handshake(path)[0] == status, path
            if code is not None:
                assert code_of(client.frame()) == code, path
    with server.raw() as client:  # One that ends in the midst of its refusal.
        status, response = client.handshake("/deny/half")
    assert (status, response.partition(b"\r\n\r\n")[2]) == (418, b"half")
    log = server.log()
    assert log.count("RuntimeError: asked for") == log.count("Exception in ASGI application") == 2
    assert log.count("ASGI callable returned without completing handshake.") == 1
    assert log.count("ASGI callable should return None, but returned 'something'.") == 1


ENDS = """
async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    await receive()
    path = scope["path"]
    if path.startswith("/accept"):
        await send({"type": "websocket.accept"})
    if path.startswith("/deny"):
        await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    if path.endswith("/half"):
        body = {"type": "websocket.http.response.body", "body": b"half", "more_body": True}
        await send(body)
    if path.endswith("/raise"):
        raise RuntimeError("asked for")
    if path.endswith("/result"):
        return "something"
"""


def test_it_closes_with_1012_when_uvicorn_stops(by_itself):
    server = by_itself()
    with server.connect() as socket:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
    assert closed.value.rcvd.code == 1012
    assert server.process.wait(BOUND) in (0, -signal.SIGTERM)
