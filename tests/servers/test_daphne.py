"""Daphne as `manage.py runserver` starts it: what goes over the wire."""

from __future__ import annotations

import json
import signal
import socket
import struct
import time
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.harness import BOUND, memory, serving

pytestmark = pytest.mark.long

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def close_frame(code: int, reason: str = "") -> tuple[int, bytes]:
    return CLOSE, struct.pack("!H", code) + reason.encode()


@pytest.fixture
def server(demo):
    return demo.from_now_on()


# Handshake


@pytest.mark.parametrize(
    ("without", "headers", "status"),
    [
        ((b"Sec-WebSocket-Key",), [], 400),
        ((b"Sec-WebSocket-Key",), [(b"Sec-WebSocket-Key", b"short")], 400),
        ((b"Sec-WebSocket-Key",), [(b"Sec-WebSocket-Key", b"!" * 22 + b"==")], 400),
        ((), [(b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")], 400),
        ((b"Connection",), [], 400),
        ((b"Connection",), [(b"Connection", b"keep-alive")], 400),
        ((b"Host",), [(b"Host", b"localhost:port")], 400),
        ((b"Sec-WebSocket-Version",), [], 400),
        ((b"Sec-WebSocket-Version",), [(b"Sec-WebSocket-Version", b"x")], 400),
        ((b"Sec-WebSocket-Version",), [(b"Sec-WebSocket-Version", b"+13")], 400),
        ((b"Sec-WebSocket-Version",), [(b"Sec-WebSocket-Version", b"1_3")], 400),
        ((b"Sec-WebSocket-Version",), [(b"Sec-WebSocket-Version", b"8")], 426),
        ((), [(b"Host", b"evil.example")], 400),
        ((), [(b"Sec-WebSocket-Protocol", b"caf\xe9")], 400),
        ((), [(b"Sec-WebSocket-Protocol", b"a, a")], 400),
        ((), [(b"Sec-WebSocket-Protocol", b"a b")], 400),
        ((), [(b"Sec-WebSocket-Protocol", b"a, ,b")], 400),
        ((), [(b"Sec-WebSocket-Protocol", b"")], 400),
    ],
)
def test_a_malformed_handshake_is_refused_in_one_line(demo, without, headers, status):
    headers.append((b"Origin", demo.origin.encode()))
    with demo.raw() as client:
        answer, response = client.handshake(headers=headers, without=without)
    head, _, body = response.partition(b"\r\n\r\n")
    assert answer == status
    assert body.count(b"\n") == 1
    assert b"text/plain" in head


def test_a_refused_handshake_is_one_line_of_the_log(server):
    with server.raw() as client:
        client.handshake(without=(b"Sec-WebSocket-Key",))
    server.wait_for_log("Refused with 400: 'HTTP Sec-WebSocket-Key header missing'")


def test_no_query_string_gets_into_the_log(server):
    with server.raw() as client:
        client.handshake("http://[x/ws?token=SECRET")
    server.wait_for_log("Refused with 400")
    assert "SECRET" not in server.log()


def test_a_sub_protocol_is_taken_as_it_was_sent(demo):
    with demo.connect(subprotocols=["%41"]) as socket:
        assert socket.subprotocol == "%41"


def test_offers_of_extensions_are_passed_over_however_odd(demo):
    offer = b"permessage-deflate; client_no_context_takeover; client_no_context_takeover"
    headers = [(b"Sec-WebSocket-Extensions", offer), (b"Origin", demo.origin.encode())]
    with demo.raw() as client:
        status, head = client.handshake(headers=headers)
    assert status == 101
    assert b"Sec-WebSocket-Extensions" not in head


@pytest.mark.parametrize("early", [b"\x81\x84\0\0\0\0\r\n\r\n", b"\x81\x85\0\0\0\0early"])
def test_a_frame_that_comes_before_the_accept_is_read_after_it(server, early):
    with server.raw() as client:
        client.request("/slow-accept")
        server.wait_for_event("connecting", "/slow-accept")
        client.socket.sendall(early)
        assert client.response()[0] == 101
        assert client.frame() == (TEXT, early[6:])


def test_a_flood_before_the_accept_is_cut_off(serve):
    server = serve(WS_SUPPORT={"MAX_MESSAGE_SIZE": 1000})
    with server.raw() as client:
        client.request("/slow-accept")
        server.wait_for_event("connecting", "/slow-accept")
        client.socket.sendall(bytes(2000))
        assert client.response() == (0, b"")


def test_an_unknown_version_is_answered_with_426_and_the_versions_there_are(demo):
    headers = [(b"Sec-WebSocket-Version", b"99"), (b"Origin", demo.origin.encode())]
    with demo.raw() as client:
        status, response = client.handshake(headers=headers, without=(b"Sec-WebSocket-Version",))
    assert status == 426
    assert b"Sec-WebSocket-Version: 13" in response


def test_another_method_is_refused(demo):
    with demo.raw() as client:
        assert client.handshake(method="POST")[0] == 405


@pytest.mark.parametrize(
    ("line", "more", "why"),
    [
        (b"GET /ws HTTP/1.0", b"", b"A WebSocket is opened with HTTP/1.1"),
        (b"GET /ws HTTP/1.1", b"Content-Length: 5\r\n", b"A handshake has no body"),
        (b"GET /ws HTTP/1.1 x", b"", b"The request is malformed"),
        (b"GET http://user@localhost/ws HTTP/1.1", b"", b"The target is malformed"),
        (b"GET http://[x/ws HTTP/1.1", b"", b"The target is malformed"),
    ],
)
def test_a_request_that_is_no_handshake_is_a_400(demo, line, more, why):
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    head = line + b"\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key
    with demo.raw() as client:
        client.socket.sendall(head + more + b"\r\nhello")
        status, response = client.response()
        assert (status, response.rpartition(b"\r\n")[2]) == (400, why + b"\n")
        assert client.frame() is None


def test_the_sub_protocol_is_agreed_on(demo):
    with demo.connect(subprotocols=["first", "second"]) as socket:
        assert socket.subprotocol == "first"


def test_the_headers_of_the_accept_are_sent(demo):
    with demo.connect("/headers?value") as socket:
        assert socket.response.headers.get_all("x-first") == ["value", "again"]


@pytest.mark.websocket_tracebacks
def test_a_line_break_in_a_header_of_the_accept_is_refused(server):
    with pytest.raises(InvalidStatus) as error:
        server.connect("/headers?a+b")
    assert error.value.response.status_code == 500
    server.wait_for_log("ValueError: The header b'x-first' holds a line break.")


@pytest.mark.websocket_tracebacks
def test_a_second_accept_is_an_error_of_the_application(server):
    with server.connect("/commands") as socket:
        socket.send('{"do": "accept"}')
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd.code == 1011
    server.wait_for_log("ValueError: This connection was accepted or refused before.")


def test_a_consumer_that_refuses_is_a_403_and_a_signal(server):
    with pytest.raises(InvalidStatus) as error:
        server.connect("/refusing")
    assert error.value.response.status_code == 403
    event = server.wait_for_event("rejected", "/refusing")
    assert (event["status"], event["rule"]) == (403, "application")


def test_an_application_may_refuse_with_a_response_of_its_own(server):
    with pytest.raises(InvalidStatus) as error:
        server.connect("/denying")
    response = error.value.response
    assert (response.status_code, response.body) == (418, b"teapot")
    assert response.headers["x-why"] == "because"
    assert server.wait_for_event("rejected", "/denying")["status"] == 418


@pytest.mark.websocket_tracebacks
def test_a_response_without_a_start_is_an_error_of_the_application(server):
    with pytest.raises(InvalidStatus) as error:
        server.connect("/denying-wrongly")
    assert error.value.response.status_code == 500
    server.wait_for_log("ValueError: websocket.http.response.body came before its start.")


def test_an_application_that_returns_without_an_answer_refuses(demo):
    with pytest.raises(InvalidStatus) as error:
        demo.connect("/returning-at-once")
    assert error.value.response.status_code == 403


@pytest.mark.websocket_tracebacks
def test_an_application_that_cannot_be_called_is_a_500(serve):
    server = serve(arguments=("--nostatic",), ASGI_APPLICATION="tests.project.broken.application")
    with server.raw() as client:
        assert client.handshake()[0] == 500
    server.wait_for_log("no coroutine")
    with server.raw() as client:
        assert client.handshake()[0] == 500


def test_the_scope_is_complete(server):
    keys = ["type", "scheme", "http_version", "path", "client", "subprotocols", "extensions"]
    with server.connect("/commands", subprotocols=["a", "b"]) as socket:
        socket.send(json.dumps({"do": "scope", "keys": keys}))
        scope = json.loads(socket.recv())
        client = list(socket.local_address)
    assert scope == {
        "type": "websocket",
        "scheme": "ws",
        "http_version": "1.1",
        "path": "/commands",
        "client": client,
        "subprotocols": ["a", "b"],
        "extensions": {"websocket.http.response": {}, "ws_support.direct": "DirectSend"},
    }


# Messages


@pytest.mark.parametrize("message", ["", b"", "text", b"binary", "é" * 1000, bytes(70_000)])
def test_every_message_comes_back_as_it_was(demo, message):
    with demo.connect() as socket:
        socket.send(message)
        assert socket.recv() == message


def test_fragments_with_a_ping_between_are_one_message(demo):
    with demo.raw() as client:
        client.handshake()
        client.send_frame(TEXT, b"one ", fin=False)
        client.send_frame(PING, b"still there?")
        client.send_frame(0, b"", fin=False)
        client.send_frame(0, b"two")
        assert client.frame() == (PONG, b"still there?")
        assert client.frame() == (TEXT, b"one two")


def test_a_message_of_the_maximum_size_comes_back(demo):
    with demo.connect() as socket:
        socket.send("x" * 2**20)
        assert socket.recv() == "x" * 2**20


@pytest.mark.parametrize("fragments", [1, 3])
def test_a_byte_more_closes_with_1009_and_names_the_setting(serve, fragments):
    server = serve(WS_SUPPORT={"MAX_MESSAGE_SIZE": 999})
    with server.connect("/logged") as socket:
        message = "x" * 1000
        socket.send(message if fragments == 1 else [message[:400], message[400:800], message[800:]])
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd.code == 1009
    assert closed.value.rcvd.reason == "A message may have at most 999 bytes"
    assert server.wait_for_event("disconnect()", "/logged")["code"] == 1009
    server.wait_for_log('To allow more, raise WS_SUPPORT["MAX_MESSAGE_SIZE"].')


def test_the_limit_is_for_the_client_and_not_for_our_own_messages(serve):
    server = serve(WS_SUPPORT={"MAX_MESSAGE_SIZE": 999})
    with server.connect("/commands") as socket:
        socket.send('{"do": "send large", "size": 5000}')
        assert socket.recv() == "x" * 5000


@pytest.mark.websocket_tracebacks
@pytest.mark.parametrize(
    "command",
    [{"do": "send"}, {"do": "send", "text": "both", "bytes": "both"}],
)
def test_a_message_needs_either_text_or_bytes(server, command):
    with server.connect("/commands") as socket:
        socket.send(json.dumps(command))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd.code == 1011
    server.wait_for_log("ValueError: websocket.send needs either text or bytes.")


@pytest.mark.websocket_tracebacks
def test_a_message_before_the_accept_is_an_error_of_the_application(server):
    with pytest.raises(InvalidStatus) as error:
        server.connect("/sending-first")
    assert error.value.response.status_code == 500
    server.wait_for_log("ValueError: Accept the connection before you send over it.")


def test_a_message_after_the_close_is_dropped(server):
    with server.connect("/commands") as socket:
        socket.send('{"do": "close and send"}')
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd.code == 1000
    server.wait_for_event("disconnect()", "/commands")


# Frames that break the protocol


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x05hello", 1002),  # Not masked
        (b"\xc1\x85\0\0\0\0hello", 1002),  # A reserved bit
        (b"\x83\x80\0\0\0\0", 1002),  # A reserved opcode
        (b"\x80\x80\0\0\0\0", 1002),  # A continuation of nothing
        (b"\x09\x80\0\0\0\0", 1002),  # A fragmented ping
        (b"\x89\xfe\0\x80\0\0\0\0" + bytes(128), 1002),  # A large ping
        (b"\x88\x81\0\0\0\0x", 1002),  # Half a close code
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),  # 1005 on the wire
        (b"\x81\x82\0\0\0\0\xc3\x28", 1007),  # No UTF-8
        (b"\x01\x81\0\0\0\0\xc3\x80\x80\0\0\0\0", 1007),  # Half a character at the end
    ],
)
def test_a_frame_that_breaks_the_protocol_is_answered_with_its_code(demo, frame, code):
    with demo.raw() as client:
        client.handshake()
        client.socket.sendall(frame)
        opcode, payload = client.frame()
        assert (opcode, struct.unpack("!H", payload[:2])) == (CLOSE, (code,))


@pytest.mark.parametrize("opcode", [PING, CLOSE])
def test_a_control_frame_that_is_too_large_costs_no_memory(serve, opcode):
    server = serve()
    with server.raw() as client:
        client.handshake()
        before = memory(server.process.pid)
        client.socket.sendall(bytes([0x80 | opcode, 0xFF]) + struct.pack("!Q", 2**40) + bytes(4))
        assert client.frame()[1][:2] == struct.pack("!H", 1002)
        with suppress(OSError):  # The server may close meanwhile.
            for _ in range(100):
                client.socket.sendall(bytes(2**20))
        assert memory(server.process.pid) - before < 20 * 2**20


# Flow control; what a flood costs is in `test_floods.py`


def test_a_client_that_stops_reading_for_a_while_loses_nothing(demo):
    with demo.raw() as client:
        client.handshake("/counting/x?1000")
        demo.wait_for_event("accepted", "/counting/x")
        time.sleep(0.5)  # Until the buffers between are full.
        for number in range(1000):
            assert client.frame()[1][:4] == number.to_bytes(4, "big")


def test_ten_thousand_messages_in_one_read_are_all_answered_and_hold_up_nobody(demo):
    with demo.raw() as client, demo.connect() as other:
        client.handshake()
        client.socket.sendall(b"".join(client.frame_of(TEXT, b"%d" % n) for n in range(10_000)))
        other.send("hello")
        assert other.recv(timeout=5) == "hello"
        for number in range(10_000):
            assert client.frame() == (TEXT, b"%d" % number)


@pytest.mark.websocket_tracebacks
def test_a_close_behind_unread_messages_is_seen_when_the_consumer_closes(server):
    """While the application is behind, nothing is read. When it closes, the answer is."""
    with server.raw() as client:
        client.handshake("/busy-of-channels")
        client.send_frame(TEXT, b"0.5")
        for _ in range(100):
            client.send_frame(TEXT, b"not a number")  # It raises: 1011.
        opcode, payload = client.frame()
        assert (opcode, payload) == (TEXT, b"0.5")
        assert client.frame() == close_frame(1011)
        client.send_frame(CLOSE, struct.pack("!H", 1011))
        start = time.monotonic()
        assert client.frame() is None
        assert time.monotonic() - start < 2  # Without the answer it would be 3 seconds.


def test_a_pong_that_cannot_be_read_yet_is_none_that_is_missing(serve):
    server = serve(WS_SUPPORT={"KEEP_ALIVE_INTERVAL": 0.4, "KEEP_ALIVE_TIMEOUT": 0.4})
    with server.raw() as client:
        client.handshake("/busy-of-channels")
        client.send_frame(TEXT, b"2")
        for _ in range(100):
            client.send_frame(TEXT, b"0")
        answers = []
        while len(answers) < 101:
            opcode, payload = client.frame()
            if opcode == PING:
                client.send_frame(PONG, payload)
            else:
                answers.append(payload)
        assert answers == [b"2", *([b"0"] * 100)]


# Closing


@pytest.mark.slow
def test_a_client_that_closes_and_does_not_read_is_given_up(server):
    with server.raw() as client:
        client.handshake("/counting/x?400")  # 13 MB
        server.wait_for_event("accepted", "/counting/x")
        client.send_frame(CLOSE, struct.pack("!H", 4000))
        assert server.wait_for_event("disconnect()", "/counting/x")["code"] == 4000


def test_a_client_that_floods_and_never_reads_is_dropped_for_its_missing_pong(serve):
    server = serve(WS_SUPPORT={"KEEP_ALIVE_INTERVAL": 0.5, "KEEP_ALIVE_TIMEOUT": 0.5})
    with server.raw() as client:
        client.handshake("/logged")
        client.socket.settimeout(BOUND)
        with suppress(OSError):
            while True:
                client.send_frame(BINARY, bytes(10**6))
        assert server.wait_for_event("disconnect()", "/logged")["code"] == 1006
    server.wait_for_log('To wait longer, raise WS_SUPPORT["KEEP_ALIVE_TIMEOUT"].')


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1008, 1011, 1013, 1014, 3000, 3008, 4999])
def test_the_code_of_the_client_is_echoed_and_reported_with_its_reason(demo, code):
    path = f"/logged?{code}"
    count = len(demo.events("disconnected", "/logged"))
    with demo.connect(path) as socket:
        socket.close(code, "because")
        assert (socket.close_code, socket.close_reason) == (code, "because")
    event = demo.wait_for_event("disconnected", "/logged", count + 1)
    assert (event["code"], event["reason"]) == (code, "because")


def test_a_close_without_a_code_is_1005(server):
    with server.raw() as client:
        client.handshake("/logged")
        client.send_frame(CLOSE)
        assert client.frame() == (CLOSE, b"")
    assert server.wait_for_event("disconnect()", "/logged")["code"] == 1005
    assert server.wait_for_event("disconnected", "/logged")["code"] == 1005


def test_a_lost_connection_is_1006(server):
    with server.raw() as client:
        client.handshake("/logged")
    assert server.wait_for_event("disconnect()", "/logged")["code"] == 1006
    event = server.wait_for_event("disconnected", "/logged")
    assert (event["code"], event["reason"]) == (1006, "")


@pytest.mark.parametrize("code", [None, 1000, 1001, 1002, 1008, 1011, 1012, 1013, 3008, 4999])
def test_a_consumer_may_close_with_every_code_that_the_rfc_allows(demo, code):
    with demo.connect("/commands") as socket:
        socket.send(json.dumps({"do": "close", "code": code, "reason": "because"}))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd.code == (code or 1000)
    assert closed.value.rcvd.reason == "because"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An application without `WebSocketSupport`, which would not let through what it sends."""
    log_file = tmp_path_factory.mktemp("bare") / "server.log"
    with serving(log_file, ASGI_APPLICATION="tests.project.bare_senders.application") as server:
        yield server


@pytest.mark.websocket_tracebacks
@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_code_that_may_not_be_sent_is_an_error_of_the_application(bare, code):
    with bare.connect("/closing/x") as socket:
        socket.send(json.dumps({"code": code}))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
    assert closed.value.rcvd.code == 1011
    bare.wait_for_log(f"ValueError: The close code {code} may not be sent (RFC 6455")


@pytest.mark.websocket_tracebacks
def test_a_sub_protocol_that_was_not_offered_is_an_error_of_the_application(bare):
    with pytest.raises(InvalidStatus) as error:
        bare.connect("/misnaming/x", subprotocols=["this"])
    assert error.value.response.status_code == 500
    bare.wait_for_log(
        "ValueError: The client did not offer the sub-protocol 'nobody-offered-this', but ['this']."
    )


def test_a_long_reason_is_cut_at_a_whole_character(bare):
    with bare.connect("/closing/x") as socket:
        socket.send(json.dumps({"code": 1000, "reason": "é" * 100}))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
    assert closed.value.rcvd.reason == "é" * 61


def test_a_client_that_does_not_answer_the_close_is_reported_with_our_code(server):
    with server.raw() as client:
        client.handshake("/commands")
        client.send_frame(TEXT, b'{"do": "close", "code": 4001, "reason": "over"}')
        assert client.frame() == close_frame(4001, "over")
        event = server.wait_for_event("disconnected", "/commands")
    assert (event["code"], event["reason"]) == (4001, "over")
    assert server.wait_for_event("disconnect()", "/commands")["code"] == 4001


def test_what_a_client_sends_after_our_close_is_not_delivered(server):
    with server.raw() as client:
        client.handshake("/commands")
        client.send_frame(TEXT, b'{"do": "close", "code": 4001}')
        assert client.frame() == close_frame(4001)
        client.send_frame(TEXT, b'{"do": "raise"}')
        client.socket.sendall(b"\x88\x82\0\0\0\0\x0f\xa1")
        # An exception would keep the consumer from this.
        assert server.wait_for_event("disconnect()", "/commands")["code"] == 4001


def test_a_client_has_some_time_to_answer_the_close(server):
    with server.raw() as client:
        client.handshake("/commands")
        client.send_frame(TEXT, b'{"do": "close", "code": 4001}')
        assert client.frame() == close_frame(4001)
        with pytest.raises(TimeoutError):
            client.frame(timeout=1.5)


def test_an_application_hears_of_the_end_once(server):
    with server.raw() as client:
        client.handshake("/twice")
        client.send_frame(CLOSE, b"\x0f\xa0")
        assert client.frame() == close_frame(4000)
    event = server.wait_for_event("heard", "/twice")
    assert event["messages"] == [{"type": "websocket.disconnect", "code": 4000, "reason": ""}]


def test_a_refused_handshake_leaves_no_traceback_in_the_log_of_twisted_either(serve):
    server = serve(command="verbose")
    with server.raw() as client:
        assert client.handshake(without=(b"Sec-WebSocket-Key",))[0] == 400
    server.wait_for_log("Sec-WebSocket-Key header missing")
    with server.connect() as socket:
        socket.send("still there")
        assert socket.recv() == "still there"


def test_a_client_that_leaves_while_a_message_is_on_its_way_leaves_no_traceback(server):
    with server.raw() as client:
        client.handshake("/busy")
        client.send_frame(TEXT, b"0.3")
        client.send_frame(CLOSE)
        assert client.frame() == (CLOSE, b"")
    server.wait_for_event("disconnected", "/busy")


def test_an_application_that_returns_closes_with_1000(server):
    with server.connect("/returning") as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=5)
    assert closed.value.rcvd.code == 1000
    assert server.wait_for_event("disconnected", "/returning")["code"] == 1000


@pytest.mark.websocket_tracebacks
def test_an_exception_in_a_handler_closes_with_1011(server):
    with server.connect("/commands") as socket:
        socket.send('{"do": "raise"}')
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
    assert closed.value.rcvd.code == 1011
    assert server.wait_for_event("disconnected", "/commands")["code"] == 1011
    server.wait_for_log("RuntimeError: asked for")


# Keep-alive


def pings(client, seconds: float) -> list[float]:
    """When pings came within this time, in seconds from now; not answered."""
    start = time.monotonic()
    times = []
    try:
        while (frame := client.frame(start + seconds - time.monotonic())) is not None:
            assert frame[0] == PING
            times.append(time.monotonic() - start)
    except TimeoutError:
        pass
    return times


def test_pings_come_each_interval_while_they_are_answered(serve):
    server = serve(WS_SUPPORT={"KEEP_ALIVE_INTERVAL": 1, "KEEP_ALIVE_TIMEOUT": 0.5})
    with server.raw() as client:
        start = time.monotonic()
        client.handshake("/logged")
        for number in range(1, 4):
            opcode, payload = client.frame()
            assert opcode == PING
            assert number - 0.1 <= time.monotonic() - start <= number + 2.5
            client.send_frame(PONG, payload)
    assert server.wait_for_event("disconnected", "/logged")["duration"] >= 2.9


def test_a_client_that_does_not_answer_the_ping_is_dropped_after_the_timeout(serve):
    server = serve(WS_SUPPORT={"KEEP_ALIVE_INTERVAL": 1, "KEEP_ALIVE_TIMEOUT": 1})
    with server.raw() as client:
        start = time.monotonic()
        client.handshake("/logged")
        assert client.frame()[0] == PING
        assert client.frame() is None
        assert 2 <= time.monotonic() - start <= 7
    assert server.wait_for_event("disconnect()", "/logged")["code"] == 1006
    server.wait_for_log('To wait longer, raise WS_SUPPORT["KEEP_ALIVE_TIMEOUT"].')


@pytest.mark.slow
def test_a_slow_pong_does_not_end_a_connection_when_the_next_ping_is_due(serve):
    settings = {"KEEP_ALIVE_INTERVAL": 1, "KEEP_ALIVE_TIMEOUT": 2}
    server = serve(measured=True, WS_SUPPORT=settings)
    with server.raw() as client:
        client.handshake()
        for _ in range(4):
            opcode, payload = client.frame()
            assert opcode == PING
            time.sleep(1.5)
            client.send_frame(PONG, payload)
        client.send_frame(TEXT, b"still here")
        while (frame := client.frame()) is not None and frame[0] == PING:
            pass
        assert frame == (TEXT, b"still here")


def test_a_missing_pong_is_no_news_when_the_close_has_begun(serve):
    server = serve(
        WS_SUPPORT={
            "HEARTBEAT_INTERVAL": 0.5,
            "KEEP_ALIVE_INTERVAL": 0.9,
            "KEEP_ALIVE_TIMEOUT": 0.7,
        }
    )
    with server.raw() as client:
        client.handshake("/logged")
        assert client.frame()[0] == PING
        assert client.frame() == close_frame(3008, "No message for 1 seconds")
        assert client.frame() is None
    assert "Dropped" not in server.log()


def test_without_a_timeout_pings_go_on_unanswered(serve):
    server = serve(WS_SUPPORT={"KEEP_ALIVE_INTERVAL": 0.5, "KEEP_ALIVE_TIMEOUT": None})
    with server.raw() as client:
        client.handshake()
        assert len(pings(client, 2.3)) == 4


@pytest.mark.parametrize("interval", [None, 0])
def test_without_an_interval_no_pings_come(serve, interval):
    server = serve(WS_SUPPORT={"KEEP_ALIVE_INTERVAL": interval})
    with server.raw() as client:
        client.handshake()
        assert pings(client, 2.5) == []


# Heads


def sent_in_full(client, data: bytes) -> None:
    with suppress(OSError):  # The server may have closed meanwhile.
        client.socket.sendall(data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /ws HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(300)),
        b"GET /ws HTTP/1.1\r\nX-A: " + b"a" * 2**18,
        b"GET /" + b"a" * 2**18,
        b"GET /ws HTTP/1.1\r\n" + (b"X-A: " + b"a" * 1000 + b"\r\n") * 100,
        b"GET /client HTTP/1.1\r\nHost: localhost\r\n\r\nGET /" + b"a" * 2**18,
        b"POST /client HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"".join(b"a%d: b\r\n" % n for n in range(300)),
        b"POST /client HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"".join(b"a%d: %b\r\n" % (n, b"b" * 1000) for n in range(100)),
        b"POST /client HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        + (b"X-A: " + b"a" * 4000 + b"\r\n\r\n0\r\n")
        + b"".join(b"a%d: %b\r\n" % (n, b"b" * (n < 100) * 605) for n in range(400))
        + (b"X-A: " + b"a" * 5000 + b"\r\n"),
    ],
    ids=[
        "many lines",
        "one line",
        "a target",
        "many bytes",
        "a later one",
        "trailers",
        "many bytes of trailers",
        "many lines and bytes of trailers",
    ],
)
def test_a_head_that_is_too_large_is_a_431(demo, data):
    with demo.raw() as client:
        sent_in_full(client, data)
        response = b"".join(iter(lambda: client.socket.recv(2**16), b""))
    assert response.count(b"HTTP/1.1 431 ") == 1
    assert response.endswith(b"A request's head may have 65536 bytes and 256 lines\n")


@pytest.mark.slow
def test_a_client_that_goes_on_with_a_head_that_was_refused_is_cut_off(demo):
    with demo.raw() as client:
        start = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - start < BOUND:
                client.socket.sendall(b"a" * 2**16)
        assert time.monotonic() - start < BOUND


@pytest.mark.parametrize("upgrade", [True, False])
def test_a_cookie_of_50_000_bytes_is_taken(demo, upgrade):
    cookie = (b"Cookie", b"a=" + b"b" * 50_000)
    headers = [cookie, (b"Origin", demo.origin.encode())]
    with demo.raw() as client:
        without = () if upgrade else (b"Upgrade",)
        assert client.handshake(headers=headers, without=without)[0] == (101 if upgrade else 426)


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        b"GET /ws HTTP/1.1\r\nX-A: ",
        b"",
        b"GET /scope HTTP/1.1\r\nHost: localhost\r\n\r\nGET",
        b"POST /ws HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
    ids=["the first head", "nothing", "a later head", "trailers"],
)
def test_a_head_that_drips_for_ever_is_given_up_after_20_seconds(demo, data):
    with demo.raw() as client:
        start = time.monotonic()
        client.socket.sendall(data)
        client.drip(b"a" if data else b"")
        assert 19 < time.monotonic() - start < 25
    demo.wait_for_log("Closed: no request within 20 s from 127.0.0.1:")


@pytest.mark.parametrize(
    ("without", "headers"),
    [
        ((b"Upgrade",), [(b"Upgrade", b"h2c"), (b"Upgrade", b"WebSocket")]),
        ((b"Upgrade",), [(b"Upgrade", b"h2c,\twebsocket\t")]),
        ((b"Connection",), [(b"Connection", b"keep-alive"), (b"Connection", b"Upgrade")]),
        ((b"Connection",), [(b"Connection", b"keep-alive,\tUpgrade\t")]),
        ((b"Upgrade",), [(b"Upgrade", b"\twebsocket\t")]),
    ],
)
def test_a_list_may_have_several_lines_and_tabs(demo, without, headers):
    headers.append((b"Origin", demo.origin.encode()))
    with demo.raw() as client:
        assert client.handshake(headers=headers, without=without)[0] == 101


@pytest.mark.parametrize("path", ["/scope", "?x", ""])
def test_a_target_in_absolute_form_is_a_path_and_names_the_host(demo, path):
    with demo.raw() as client:
        assert client.handshake(f"{demo.origin}/ws?x")[0] == 101
    without = (b"Host", b"Upgrade")
    with demo.raw() as client:
        headers = [(b"Host", b"evil.example")]
        answer, _ = client.handshake(demo.origin + path, headers=headers, without=without)
        assert answer == 200


@pytest.mark.websocket_tracebacks
def test_a_host_that_a_target_names_is_the_one_that_django_checks(server):
    with server.raw() as client:
        answer, _ = client.handshake("http://evil.example/", without=(b"Upgrade",))
        assert answer == 400
    server.wait_for_log("Invalid HTTP_HOST header: 'evil.example'")


def test_what_comes_together_with_the_handshake_is_read(demo):
    with demo.raw() as client:
        client.request(then=client.frame_of(TEXT, b"early"))
        assert client.response()[0] == 101
        assert client.frame() == (TEXT, b"early")


# Daphne's own limits


SHORT_LIMITS = """
from inspect import signature

from daphne.server import Server

short = {
    "websocket_timeout": 1,
    "websocket_connect_timeout": 1,
    "websocket_handshake_timeout": 1,
    "application_close_timeout": 1,
}
Server.__init__.__defaults__ = tuple(
    short.get(name, parameter.default)
    for name, parameter in signature(Server.__init__).parameters.items()
    if parameter.default is not parameter.empty
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"asgi_server": "daphne"}], ids=["runserver", "runasgi"])
def test_nothing_ends_for_its_age_alone(serve, tmp_path, options):
    """Daphne ends a connection after a day, a connect() after 5 s, and an application 10 s after
    its client has left."""
    (tmp_path / "sitecustomize.py").write_text(SHORT_LIMITS)
    server = serve(environment={"PYTHONPATH": str(tmp_path)}, **options)
    with server.connect("/finishes/late") as leaves:
        leaves.send('{"do": "wait", "seconds": 4}')
        server.wait_for_event("waiting", "/finishes/late")
    with server.connect() as old, server.raw() as slow:
        slow.request("/slow-accept?6.5")
        assert slow.response()[0] == 101
        old.send("still open")
        assert old.recv() == "still open"
    assert server.wait_for_event("waited", "/finishes/late")
    assert server.wait_for_event("disconnect() done", "/finishes/late")["code"] == 1000
    assert "took too long" not in server.log()


def test_a_handshake_timeout_that_is_asked_for_holds(serve):
    server = serve(arguments=("--websocket_handshake_timeout", "1"))
    with server.raw() as client:
        assert client.handshake("/slow-accept?20") == (0, b"")


# Loops that only send


@pytest.mark.parametrize("way", ["close", "end", "reset"])
@pytest.mark.parametrize("name", ["bare", "of-channels"])
def test_a_loop_that_only_sends_ends_with_its_client(demo, name, way):
    path = f"/endless/{name}"
    count = len(demo.events("ended", path))
    with demo.raw() as client:
        assert client.handshake(path)[0] == 101
        assert client.frame()[0] == BINARY
        leave(client, way)
    demo.wait_for_event("ended", path, count + 1)
    with demo.connect() as socket:
        socket.send("still there")
        assert socket.recv(BOUND) == "still there"


def leave(client, way):
    if way == "close":
        client.send_frame(CLOSE, b"\x03\xe8")
        while client.frame():
            pass
    elif way == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_everybody_hears_of_the_stop_beside_loops_that_only_send(serve):
    server = serve(asgi_server="daphne", WS_SUPPORT={"SHUTDOWN_TIMEOUT": 3})
    with server.raw() as first, server.raw() as second, server.connect() as other:
        for client, name in ((first, "bare"), (second, "of-channels")):
            client.handshake(f"/endless/{name}")
            assert client.frame()[0] == BINARY
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            other.recv(BOUND)
        assert closed.value.rcvd.code == 1012
        assert server.process.wait(BOUND) == 0


@pytest.mark.parametrize("path", ["/endless", "/endless-events"])
def test_a_response_without_an_end_waits_for_its_client_and_ends_with_it(serve, path):
    server = serve(ROOT_URLCONF="tests.project.urls")
    with server.raw() as client:
        before = memory(server.process.pid)
        client.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.socket.recv(2**16)
        with server.connect() as other:
            for _ in range(100):
                other.send("still there")
                assert other.recv(BOUND) == "still there"
        assert memory(server.process.pid) - before < 20 * 2**20
    server.wait_for_event("ended", path)


# Requests when the server stops


@pytest.mark.parametrize("path", ["/events", "/events?0.5", "/endless-events"])
def test_an_event_stream_holds_up_no_stop_and_its_view_is_told(serve, path):
    server = serve(asgi_server="daphne", ROOT_URLCONF="tests.project.urls")
    event, name = ("ended", path) if "endless" in path else ("told", "/events")
    with server.raw() as client:
        client.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        if "?" in path:
            server.wait_for_event("waiting", name)
        else:
            assert client.socket.recv(1000)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_event(event, name)
        assert server.process.wait(BOUND) == 0
    assert time.monotonic() - start < 5


def test_a_request_that_takes_all_of_the_time_is_told_before_it_is_over(serve):
    server = serve(
        asgi_server="daphne",
        ROOT_URLCONF="tests.project.urls",
        WS_SUPPORT={"SHUTDOWN_TIMEOUT": 2},
    )
    with server.raw() as client:
        client.socket.sendall(b"GET /poll?60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.wait_for_event("waiting", "/poll")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(BOUND) == 0
    assert len(server.events("told", "/poll")) == 1
