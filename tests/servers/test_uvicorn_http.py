"""HTTP on Uvicorn, up to the upgrade: what one client can ask for, and for how long."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tests.fuzz.requests import HTTPConnection
from tests.harness import BOUND, RawClient, until
from ws_support.servers._run.limits import MAX_HEAD, MAX_HEADERS
from ws_support.servers.picows import PicowsProtocol
from ws_support.servers.uvicorn import http
from ws_support.servers.uvicorn.websocket import Protocol

PROTOCOLS = {"picows": PicowsProtocol, "sansio": Protocol}
TIMEOUT = 0.5
"""Seconds for a head, for those tests that wait until they are over."""


class Application:
    """Says what it was asked, at once unless the path says otherwise."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ended: list[str] = []
        self.is_open = threading.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "websocket":
            await self.websocket(scope, receive, send)
            return
        path = scope["path"]
        self.asked.append(path)
        if path == "/early":
            await self.answer(send, b"early")
            return
        if path.startswith("/started"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if path.startswith("/wait"):
            await asyncio.to_thread(self.is_open.wait, BOUND)
        body, message = b"", {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        self.ended.append(message["type"])
        names = [name.decode() for name, _ in scope["headers"]]
        said = {"path": path, "body": len(body), "headers": names}
        await self.answer(send, json.dumps(said).encode())

    @staticmethod
    async def answer(send, body):
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    @staticmethod
    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        said = {key: scope[key] for key in ("path", "raw_path", "query_string", "headers")}
        await send({"type": "websocket.send", "text": json.dumps(said, default=bytes.decode)})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})


class Running(uvicorn.Server):
    def __init__(self, name, **options):
        self.application = Application()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self.listener.getsockname()
        super().__init__(
            uvicorn.Config(
                self.application,
                interface="asgi3",
                lifespan="off",
                http=http.HTTPProtocol,
                ws=PROTOCOLS[name],
                ws_per_message_deflate=name == "sansio",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
                **options,
            )
        )

    @contextmanager
    def capture_signals(self):
        yield

    def raw(self):
        return RawClient(self.host, self.port)

    def plain(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection((self.host, self.port), BOUND)
        client.sendall(data)
        return client


@contextmanager
def running(name="picows", **options):
    server = Running(name, **options)
    thread = threading.Thread(target=server.run, args=([server.listener],))
    thread.start()
    try:
        for _ in until("started server"):
            if server.started:
                break
        yield server
    finally:
        server.should_exit = True
        thread.join(BOUND)
        server.listener.close()


@pytest.fixture(scope="module", params=list(PROTOCOLS))
def both(request):
    with running(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def shared():
    with running() as server:
        yield server


@pytest.fixture
def server():
    """One of the test's own."""
    with running() as server:
        yield server
        server.application.is_open.set()


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(http, "HEAD_TIMEOUT", TIMEOUT)


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    data = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            data += piece
    return data


def receive_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = client.recv(65536)
        assert piece, data
        data += piece
    return data


def statuses(data: bytes) -> list[int]:
    return [int(each[:3]) for each in data.split(b"HTTP/1.1 ")[1:]]


def get(path: str, *lines: bytes) -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % path.encode(), b"Host: h", *lines, b"", b""])


def post(path: str, *lines: bytes) -> bytes:
    return get(path, *lines).replace(b"GET", b"POST", 1)


def chunked(path: str) -> bytes:
    return post(path, b"Transfer-Encoding: chunked")


def head_of(kind: str, size: int) -> bytes:
    """A head of so many bytes."""
    if kind == "a URL":
        return get("/" + (size - len(get("/"))) * "a")
    if kind == "a header":
        return get("/x", b"A: " + (size - len(get("/x", b"A: "))) * b"a")
    lines = [b"A%d: %b" % (number, 600 * b"a") for number in range(100)]
    lines.append(b"B: " + (size - len(get("/x", *lines, b"B: "))) * b"b")
    return get("/x", *lines)


def send(client: socket.socket, data: bytes, piece: int) -> None:
    with suppress(ConnectionError):
        for start in range(0, len(data), piece):
            client.sendall(data[start : start + piece])


UPGRADE = get(
    "/ws",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


# Heads and trailers without end


@pytest.mark.parametrize("piece", [1000, 2**20])
@pytest.mark.parametrize("before", [b"", get("/first")])
@pytest.mark.parametrize("kind", ["a URL", "a header", "headers"])
def test_a_head_of_64_kib_is_taken_and_one_byte_more_is_431(shared, kind, before, piece):
    first = [200] if before else []
    with shared.plain(before) as client:
        send(client, head_of(kind, MAX_HEAD) + get("/last", b"Connection: close"), piece)
        assert statuses(everything(client)) == [*first, 200, 200]
    with shared.plain(before) as client:
        send(client, head_of(kind, MAX_HEAD + 1), piece)
        answer = everything(client)
    assert statuses(answer) == [*first, 431]
    assert answer.endswith(b"\r\n\r\nThe head of a request may have at most 65536 bytes.\n")


def test_more_header_lines_than_anybody_has_are_431(shared):
    lines = [b"A%d: a" % number for number in range(MAX_HEADERS)]
    with shared.plain(get("/x", *lines[1:]) + get("/x", *lines)) as client:
        assert statuses(everything(client)) == [200, 431]


@pytest.mark.parametrize(
    "trailers",
    [(MAX_HEADERS + 9) * b"a: b\r\n", b"a: " + (MAX_HEAD + 2**14) * b"a"],
    ids=["lines", "bytes"],
)
@pytest.mark.parametrize("path", ["/read", "/started", "/early"])
def test_trailers_without_end_are_431_as_long_as_there_is_no_answer(server, path, trailers):
    with server.plain(chunked(path)) as client:
        begun = receive_until(client, b"\r\n\r\n") if path != "/read" else b""
        client.sendall(b"3\r\nabc\r\n0\r\n" + trailers)
        answer = begun + everything(client)
    assert statuses(answer) == [200 if begun else 431]
    if path != "/early":
        for _ in until("end of the request"):
            if server.application.ended:
                break
        assert server.application.ended == ["http.disconnect"]


def test_limits_are_those_of_each_request(shared):
    trailers = b"".join(b"A%d: b\r\n" % number for number in range(200))
    with_trailers = chunked("/x") + b"1\r\na\r\n0\r\n" + trailers + b"\r\n"
    large = head_of("a header", MAX_HEAD)
    line = b"Transfer-Encoding: chunked\r\n"
    # As large, with a body behind it.
    before_body = large.replace(b"A: " + len(line) * b"a", line + b"A: ")
    with shared.plain(2 * with_trailers + large + before_body + b"1\r\na\r\n0\r\n\r\n") as client:
        client.sendall(get("/last", b"Connection: close"))
        assert statuses(everything(client)) == [200] * 5


def test_a_trailer_is_no_header(shared):
    body = b"3\r\nabc\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
    with shared.plain(chunked("/read") + body + get("/last", b"Connection: close")) as client:
        answer = everything(client)
    assert statuses(answer) == [200, 200]
    assert b'"body": 3, "headers": ["host", "transfer-encoding"]' in answer


def test_a_client_that_goes_on_sending_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(http, "LINGER", 0.5)
    start = time.monotonic()
    with server.plain() as client, suppress(ConnectionError):
        while time.monotonic() < start + BOUND:
            client.sendall(bytes(1000))
    assert time.monotonic() < start + BOUND / 2


@pytest.mark.parametrize(
    ("beginning", "drop"),
    [
        (b"", b""),
        (b"GET /", b"a"),
        (b"", b"\r\n"),
        (get("/first") + b"GET /", b"a"),
        (get("/first"), b"\r\n"),
        (chunked("/read") + b"0\r\nTrailer: ", b"a"),
        (chunked("/read") + b"3;", b"a"),
        (post("/early", b"Content-Length: 1000"), b"a"),
    ],
)
def test_what_does_not_come_to_its_end_is_given_up(short, server, beginning, drop, caplog):
    caplog.set_level("INFO")
    with server.plain(beginning) as client:
        start = time.monotonic()
        end = threading.Event()

        def drip():
            with suppress(OSError):
                while not end.wait(TIMEOUT / 5):
                    client.sendall(drop)

        dripping = threading.Thread(target=drip)
        dripping.start()
        answer = everything(client)
        end.set()
        dripping.join()
    assert statuses(answer) in ([], [200])
    assert TIMEOUT / 2 < time.monotonic() - start < BOUND / 2
    assert "Closed: no request within 0.5 s from ('127.0.0.1', " in caplog.text


def test_a_handshake_that_is_refused_was_a_request(short, both, caplog):
    caplog.set_level("INFO")
    assert handshake(both, headers=[(b"Sec-WebSocket-Version", b"8")])[0] in (400, 426)
    with both.plain() as silent:  # It is given up later than whoever came before.
        port = silent.getsockname()[1]
        assert everything(silent) == b""
    said = [line for line in caplog.messages if line.startswith("Closed: no request")]
    assert said == [f"Closed: no request within 0.5 s from ('127.0.0.1', {port})."]


def test_chunks_may_be_far_apart(short, server):
    with server.plain(chunked("/read") + b"1\r\na") as client:
        for _ in until("first read"):
            if server.application.asked:
                break
        client.sendall(b"\r\n")
        with server.plain() as silent:
            everything(silent)  # It is given up later than the other would be.
        client.sendall(b"0\r\n\r\n")
        assert statuses(receive_until(client, b"}")) == [200]


def test_a_request_takes_longer_than_its_connection_may_be_idle():
    with running(timeout_keep_alive=1) as server, server.plain(get("/first")) as client:
        receive_until(client, b"}")
        client.sendall(get("/wait"))
        with server.plain(get("/idle")) as idle:
            everything(idle)
        server.application.is_open.set()
        assert statuses(receive_until(client, b"}")) == [200]


def test_a_client_that_has_left_is_not_given_up(short, server, caplog):
    caplog.set_level("INFO")
    for data in (b"", b"GET /gone"):
        server.plain(data).close()
    with server.plain() as client:
        everything(client)
    assert caplog.text.count("Closed: no request") == 1


def test_a_client_that_waits_for_the_application_is_not_given_up(short, server):
    size = 2**18
    body = b"%x\r\n%b\r\n5\r\n" % (size, bytes(size))
    with server.plain(chunked("/wait") + body) as client:
        client.settimeout(4 * TIMEOUT)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(BOUND)
        server.application.is_open.set()
        client.sendall(b"hello\r\n0\r\n\r\n")
        assert b'"body": 262149' in receive_until(client, b"}")


def test_a_tls_client_that_sends_no_whole_record_is_given_up(short, certificates):
    tls = {"ssl_certfile": certificates.chain, "ssl_keyfile": certificates.key}
    with running(**tls) as server, server.plain() as client:
        context = certificates.context()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")

        def is_open():
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return True

        while not is_open():
            client.sendall(outgoing.read())
            incoming.write(client.recv(65536))
        client.sendall(outgoing.read())
        start = time.monotonic()
        client.sendall(b"\x17\x03\x03\x40\x00")
        everything(client)
        assert time.monotonic() - start < 15


def test_a_client_whose_trailers_wait_for_the_application_is_not_given_up(short):
    loop = asyncio.new_event_loop()
    connection = HTTPConnection(loop)
    size = 2**17
    body = b"%x\r\n%b\r\n0\r\nTrailer: %b" % (size, bytes(size), 2**14 * b"a")
    connection.feed(chunked("/late") + body)
    loop.run_until_complete(asyncio.sleep(3 * TIMEOUT))
    assert not connection.transport.is_closing()
    connection.is_open.set()
    loop.run_until_complete(asyncio.sleep(3 * TIMEOUT))
    assert connection.transport.is_lost, "they never came"
    connection.close()
    loop.close()


def test_a_refusal_reaches_a_client_with_tls(certificates):
    tls = {"ssl_certfile": certificates.chain, "ssl_keyfile": certificates.key}
    with running(**tls) as server, server.plain() as plain:
        context = certificates.context()
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(head_of("a header", MAX_HEAD + 1))
            assert statuses(everything(client)) == [431]


# Requests behind each other


@pytest.mark.parametrize("piece", [1, 7, 2**20])
@pytest.mark.parametrize("kind", ["get", "length", "chunks"])
def test_requests_are_answered_one_after_the_other(shared, kind, piece):
    requests = {
        "get": get("/%d"),
        "length": post("/%d", b"Content-Length: 5") + b"a\r\n\r\n",
        "chunks": chunked("/%d") + b"5\r\na\r\n\r\n\r\n0\r\nA: b\r\n\r\n",
    }
    count = 20 if piece == 1 else 200
    data = b"".join(requests[kind].replace(b"%d", b"%d" % n) for n in range(count))
    with shared.plain() as client:
        sending = threading.Thread(target=send, args=(client, data, piece))
        sending.start()
        last = b'"path": "/%d"' % (count - 1)
        answer = receive_until(client, last)
        sending.join()
    assert answer.count(b'"body": %d' % (0 if kind == "get" else 5)) >= count - 1
    assert [b'"path": "/%d"' % n in answer for n in range(count)] == [True] * count
    assert answer.index(b'"/0"') < answer.index(b'"/1"') < answer.index(last)


def test_requests_wait_unread_for_the_one_that_is_under_way(server):
    with server.plain(get("/wait")) as client:
        for _ in until("first request"):
            if server.application.asked:
                break
        client.settimeout(0.5)
        with suppress(TimeoutError):
            while True:
                client.sendall(1000 * get("/next"))
        assert server.application.asked == ["/wait"]
        [protocol] = server.server_state.connections
        assert len(protocol._unparsed) < 2**20
        gc.collect()  # What earlier tests have left.
        assert sum(isinstance(each, RequestResponseCycle) for each in gc.get_objects()) < 20


def test_a_body_in_the_smallest_pieces_lets_others_have_their_turn(shared, monkeypatch):
    monkeypatch.setattr(http, "_TURN", 0)
    turns = []
    go_on = http.HTTPProtocol._go_on

    def counted(protocol):
        turns.append(protocol.flow.is_held)
        go_on(protocol)

    monkeypatch.setattr(http.HTTPProtocol, "_go_on", counted)
    body = 10_000 * b"4\r\n\r\n\r\n\r\n" + b"0\r\n\r\n"
    with shared.plain(chunked("/read") + body) as client:
        assert b'"body": 40000' in receive_until(client, b"}")
    # Nothing more is read meanwhile.
    assert turns.count(True) > 10


def test_a_client_that_leaves_within_its_requests_harms_nobody(shared, monkeypatch, caplog):
    monkeypatch.setattr(http, "_TURN", 0)
    with shared.plain(1000 * get("/x")) as client:
        client.recv(10)
    with shared.plain(get("/last", b"Connection: close")) as client:
        assert statuses(everything(client)) == [200]
    assert "Traceback" not in caplog.text


def test_what_is_behind_a_request_that_closes_is_not_answered(shared):
    with shared.plain(get("/x", b"Connection: close") + get("/behind")) as client:
        assert statuses(everything(client)) == [200]
    with shared.plain(get("/later", b"Connection: close")) as client:
        everything(client)
    assert "/behind" not in shared.application.asked


def test_what_is_no_request_is_400_and_nothing_where_an_answer_has_begun(shared):
    with shared.plain(b"nonsense\r\n\r\n") as client:
        answer = everything(client)
    assert statuses(answer) == [400]
    assert answer.endswith(b"Invalid HTTP request received.\n")
    with shared.plain(chunked("/early")) as client:
        assert statuses(receive_until(client, b"early")) == [200]
        client.sendall(b"nonsense")
        assert everything(client) == b""


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ([], b""),
        ([b"Content-Length: 0"], b""),
        ([b"Content-Length: 26"], get("/smuggled")[:26]),
        ([b"Transfer-Encoding: chunked"], b"1a\r\n%b\r\n0\r\nA: b\r\n\r\n" % get("/smuggled")[:26]),
    ],
)
def test_the_body_behind_an_upgrade_that_is_not_made_is_a_body(shared, lines, body):
    request = post("/h2c", b"Connection: Upgrade", b"Upgrade: h2c", *lines)
    for _ in range(2):
        with shared.plain(request + body + get("/last", b"Connection: close")) as client:
            answer = everything(client)
        assert statuses(answer) == [200, 200]
        assert b'"path": "/h2c", "body": %d' % (26 if body else 0) in answer
        assert b'"path": "/last"' in answer


# Upgrades


@pytest.mark.parametrize("piece", [1, 50, 2**20])
@pytest.mark.parametrize("before", [get("/wait"), chunked("/wait") + b"0\r\n\r\n"])
def test_an_upgrade_behind_a_request_under_way_is_400(server, before, piece):
    with server.plain() as client:
        send(client, before + UPGRADE, piece)
        for _ in until("first request"):
            if server.application.asked:
                break
        server.application.is_open.set()
        answer = everything(client)
    assert statuses(answer) == [200, 400]


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize(
    "first", [get("/wait"), post("/wait", b"Content-Length: 999") + 999 * b"a"]
)
def test_a_request_whose_end_is_in_two_reads_ends_there(server, first, cut):
    with server.plain(post("/before", b"Content-Length: 3") + b"abc") as client:
        receive_until(client, b"]}")
        client.sendall(first[:-cut])
        [protocol] = server.server_state.connections
        for _ in until("first read"):
            if protocol._rest == cut or protocol._overhead == len(first) - cut:
                break
        client.sendall(first[-cut:] + UPGRADE)
        for _ in until("second request"):
            # The first one is known to the application before the end of its body has come.
            if protocol._is_pipelined:
                break
        server.application.is_open.set()
        assert statuses(everything(client)) == [200, 400]


def test_an_upgrade_of_which_half_came_too_early_is_400(server):
    with server.plain(get("/wait") + UPGRADE[:30]) as client:
        for _ in until("first request"):
            if server.application.asked:
                break
        server.application.is_open.set()
        receive_until(client, b"}")
        client.sendall(UPGRADE[30:])
        assert statuses(everything(client)) == [400]


@pytest.mark.parametrize("before", [["/first"], ["/first", "/second"]])
def test_an_upgrade_after_an_answer_is_made(both, before):
    with both.raw() as client:
        client.socket.sendall(b"".join(map(get, before)))
        last = b'"path": "%b", "body": 0, "headers": ["host"]}' % before[-1].encode()
        receive_until(client.socket, last)
        client.socket.sendall(UPGRADE + client.frame_of(1, b"behind"))
        assert client.response()[0] == 101
        assert json.loads(client.frame()[1])["path"] == "/ws"
        assert client.frame() == (1, b"behind")


def handshake(server, *arguments, **options):
    """The status, and what the application was told."""
    with server.raw() as client:
        status, _ = client.handshake(*arguments, **{"headers": [], **options})
        return status, json.loads(client.frame()[1]) if status == 101 else None


@pytest.mark.parametrize(
    "lines",
    [
        [(b"Connection", b"keep-alive"), (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")],
        [(b"Connection", b"Upgrade"), (b"Connection", b"keep-alive"), (b"Upgrade", b"websocket")],
        [(b"Connection", b"keep-alive,\tUpgrade\t"), (b"Upgrade", b"\tWebSocket\t")],
        [(b"Connection", b"upgrade"), (b"Upgrade", b"h2c"), (b"Upgrade", b"websocket")],
        [(b"Connection", b"upgrade"), (b"Upgrade", b"h2c , websocket")],
    ],
)
def test_an_upgrade_may_be_one_of_a_list_in_several_lines(both, lines):
    status, _ = handshake(both, headers=lines, without=(b"Connection", b"Upgrade"))
    assert status == 101


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://other:8000/ws?a=b", "/ws", "a=b"),
        ("WSS://other:8000/w%20s", "/w s", ""),
        ("https://other:8000?a", "/", "a"),
    ],
)
def test_the_target_may_be_a_url_whose_host_counts(both, target, path, query):
    status, said = handshake(both, target)
    assert status == 101
    assert (said["path"], said["query_string"]) == (path, query)
    assert ["host", "other:8000"] in said["headers"]


@pytest.mark.parametrize("target", ["ftp://h/ws", "*", "http://user@h/ws"])
def test_another_target_is_400(both, target):
    assert handshake(both, target)[0] == 400


def test_an_upgrade_by_http_1_0_is_400(both):
    with both.plain(UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0")) as client:
        assert everything(client).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("without", "headers", "options", "status"),
    [
        ((b"Sec-WebSocket-Key",), [], {}, 400),
        ((b"Sec-WebSocket-Key",), [(b"Sec-WebSocket-Key", b"abc")], {}, 400),
        ((), [(b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")], {}, 400),
        ((b"Sec-WebSocket-Version",), [], {}, 426),
        ((), [(b"Sec-WebSocket-Version", b"8")], {}, 426),
        ((b"Host",), [], {}, 400),
        ((), [(b"Host", b"second")], {}, 400),
        ((), [(b"Sec-WebSocket-Protocol", b"a b")], {}, 400),
        ((), [(b"Sec-WebSocket-Extensions", b"a; b=c d")], {}, 400),
        ((), [(b"Content-Length", b"5")], {"then": b"hello"}, 400),
        ((), [(b"Transfer-Encoding", b"chunked")], {}, 400),
        ((), [], {"method": "POST"}, 405),
        ((), [], {"method": "get"}, 400),
    ],
)
def test_a_malformed_handshake_has_the_same_answer(both, without, headers, options, status):
    assert handshake(both, without=without, headers=headers, **options)[0] == status


def test_extensions_are_a_list_with_quotes_and_empty_elements(both):
    offer = b', unknown; a="b" , ,permessage-deflate;client_max_window_bits'
    with both.raw() as client:
        status, head = client.handshake(headers=[(b"Sec-WebSocket-Extensions", offer)])
    assert status == 101
    is_sansio = both.config.ws is Protocol
    assert (b"sec-websocket-extensions: permessage-deflate" in head.lower()) == is_sansio


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/ws", [(b"Cookie", 60_000 * b"c")]),
        ("/ws", [(b"A%d" % number, b"a") for number in range(240)]),
        ("/ws?" + 60_000 * "a", []),
    ],
    ids=["cookie", "lines", "query"],
)
def test_a_handshake_may_have_as_large_a_head_as_a_request(both, target, headers):
    status, said = handshake(both, target, headers=headers)
    assert status == 101
    assert len(said["headers"]) == 5 + len(headers)
    assert len(said["query_string"]) == len(target.partition("?")[2])


@pytest.mark.parametrize("line", [b"A: " + MAX_HEAD * b"a", MAX_HEADERS * b"A: a\r\n" + b"A: a"])
def test_a_handshake_with_a_larger_head_is_431(both, line):
    with both.plain(UPGRADE[:-2] + line + b"\r\n\r\n") as client:
        assert statuses(everything(client)) == [431]


# What is logged


@pytest.mark.websocket_tracebacks
@pytest.mark.parametrize("name", ["uvicorn-picows", "uvicorn"])
@pytest.mark.parametrize("level", ["INFO", "DEBUG", 1])
def test_no_query_cookie_or_message_is_logged_at_any_level(serve, name, level):
    logging = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "root": {"handlers": ["console"], "level": level},
    }
    server = serve(asgi_server=name, LOGGING=logging)
    origin, cookie = (b"Origin", server.origin.encode()), (b"Cookie", b"SECRET")
    with server.connect("/pid/" + 300 * "x" + "?SECRET", additional_headers={"Cookie": "SECRET"}):
        pass
    with server.connect("/ws?SECRET") as websocket:
        websocket.send("SECRET")
        websocket.recv(BOUND)
    for path, headers in (
        ("/nowhere?SECRET", [origin, cookie]),
        ("/ws?SECRET", [(b"Origin", b"http://foreign"), cookie]),
        ("/ws?SECRET", [origin, cookie, (b"Sec-WebSocket-Key", b"SECRET")]),
        ("/ws?SECRET", [origin, cookie, (b"Content-Length", b"6")]),
    ):
        with server.raw() as client:
            assert client.handshake(path, headers)[0] in (400, 403, 404)
    with server.raw() as client:
        client.socket.sendall(get("/?SECRET", b"Connection: close", b"Cookie: SECRET"))
        everything(client.socket)
    assert server.stop() == 0
    log = server.log()
    assert '"WebSocket /ws" [accepted]' in log
    assert "SECRET" not in log
    # And no line is as long as a client likes.
    assert re.findall(r'"WebSocket (/pid/x+)" \[accepted\]', log) == ["/pid/" + 195 * "x"]
