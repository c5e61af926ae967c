"""WebSockets over HTTP/2 (RFC 8441), which of the servers Hypercorn has."""

from __future__ import annotations

import fcntl
import json
import signal
import socket as sockets
import ssl
import struct
import sys
import termios
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h2.events
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes

from tests.browser.conftest import browser  # noqa: F401
from tests.harness import BOUND, RawClient, memory, serving, until
from tests.servers.test_compression import deflated, peak, send_compressed

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


@pytest.fixture(scope="module")
def arguments(certificates):
    return ("--ssl-certfile", certificates.chain, "--ssl-keyfile", certificates.key)


@pytest.fixture(scope="module")
def server(arguments, tmp_path_factory):
    log_file = tmp_path_factory.mktemp("http2") / "server.log"
    urls = "tests.project.urls"
    with serving(
        log_file, asgi_server="hypercorn", arguments=arguments, ROOT_URLCONF=urls
    ) as server:
        yield server


@pytest.fixture
def path():
    return f"/ends/{uuid.uuid4().hex}"


def codes_of_disconnect(server, path: str) -> list[int]:
    """The codes with which `disconnect()` was called, when it is through."""
    server.wait_for_event("disconnect() done", path)
    return [event["code"] for event in server.events("disconnect()", path)]


def do(command: str, **arguments: object) -> str:
    return json.dumps({"do": command, **arguments})


# In a page. Chromium takes the HTTP/2 connection that brought the page.

OPEN = """url => {
    const socket = new WebSocket(url);
    const seen = [];
    const waiting = [];
    const see = (event) => waiting.length ? waiting.shift()(event) : seen.push(event);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => see("open");
    socket.onerror = () => see("error");
    socket.onclose = ({code, reason, wasClean}) => see([code, reason, wasClean]);
    socket.onmessage = ({data}) => see(
        typeof data == "string" ? data : [...new Uint8Array(data)]
    );
    socket.next = (bound) => new Promise((resolve, reject) => {
        setTimeout(() => reject(new Error("nothing came")), bound);
        seen.length ? resolve(seen.shift()) : waiting.push(resolve);
    });
    return socket;
}"""


@pytest.fixture
def page(browser):  # noqa: F811
    with browser.new_context(ignore_https_errors=True) as context:
        yield context.new_page()


class PageSocket:
    """A WebSocket that a page of the server opens."""

    def __init__(self, page, server, path: str) -> None:
        if page.url == "about:blank":
            page.goto(f"https://localhost:{server.port}/scope")
        url = f"wss://localhost:{server.port}{path}"
        self._socket = page.evaluate_handle(OPEN, url)

    def next(self) -> Any:
        """`"open"`, `"error"`, a message, or what a close event has: code, reason, wasClean."""
        return self._socket.evaluate("(socket, bound) => socket.next(bound)", BOUND * 1000)

    def send(self, text: str) -> None:
        self._socket.evaluate("(socket, text) => socket.send(text)", text)

    def send_bytes(self, data: bytes) -> None:
        self._socket.evaluate("(socket, data) => socket.send(new Uint8Array(data))", [*data])

    def close(self, code: int, reason: str) -> None:
        self._socket.evaluate("(socket, end) => socket.close(...end)", [code, reason])

    def extensions(self) -> str:
        return self._socket.evaluate("(socket) => socket.extensions")

    def scope(self, *keys: str) -> dict[str, Any]:
        self.send(do("scope", keys=keys))
        return json.loads(self.next())


@pytest.mark.browser
def test_a_page_that_came_over_http_2_gets_its_socket_over_it(server, page):
    socket = PageSocket(page, server, "/commands")
    assert socket.next() == "open"
    assert socket.scope("http_version", "scheme", "type") == {
        "http_version": "2",
        "scheme": "wss",
        "type": "websocket",
    }


@pytest.mark.browser
def test_a_page_gets_its_messages_back(server, page):
    socket = PageSocket(page, server, "/ws")
    assert socket.next() == "open"
    for text in ("hé", "", "x" * 300_000):
        socket.send(text)
        assert socket.next() == text
    socket.send_bytes(b"\x00\x01\xff")
    assert socket.next() == [0, 1, 255]


@pytest.mark.browser
def test_two_sockets_share_the_connection(server, page):
    one, other = PageSocket(page, server, "/commands"), PageSocket(page, server, "/commands")
    assert [one.next(), other.next()] == ["open", "open"]
    assert one.scope("client", "http_version") == other.scope("client", "http_version")
    one.close(1000, "")
    assert one.next() == [1000, "", True]
    assert other.scope("http_version") == {"http_version": "2"}


@pytest.mark.browser
def test_a_page_closes(server, page, path):
    socket = PageSocket(page, server, path)
    assert socket.next() == "open"
    socket.close(3001, "bye")
    assert socket.next() == [3001, "bye", True]
    assert codes_of_disconnect(server, path) == [3001]


@pytest.mark.browser
def test_the_consumer_closes(server, page, path):
    socket = PageSocket(page, server, path)
    assert socket.next() == "open"
    socket.send(do("close", code=4001, reason="because"))
    assert socket.next() == [4001, "because", True]
    assert codes_of_disconnect(server, path) == [4001]


@pytest.mark.browser
def test_a_foreign_page_is_refused(serve, arguments, page):
    settings = {"ALLOWED_ORIGINS": ["https://client.com"]}
    server = serve(asgi_server="hypercorn", arguments=arguments, WS_SUPPORT=settings)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    socket = PageSocket(page, server, "/ws")
    assert [socket.next(), socket.next()] == ["error", [1006, "", False]]
    assert any("Unexpected response code: 403" in text for text in said)
    event = server.wait_for_event("rejected", "/ws")
    assert (event["origin"], event["rule"]) == (f"https://localhost:{server.port}", "not allowed")


@pytest.mark.browser
def test_a_page_hears_that_the_server_stops(serve, arguments, page):
    server = serve(asgi_server="hypercorn", arguments=arguments)
    paths = ["/ends/1", "/ends/2"]
    one, other = (PageSocket(page, server, path) for path in paths)
    assert [one.next(), other.next()] == ["open", "open"]
    start = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    goodbye = [1012, "The server is stopping", True]
    assert [one.next(), other.next()] == [goodbye, goodbye]
    assert server.process.wait(BOUND) == 0
    assert time.monotonic() - start < 5
    assert [codes_of_disconnect(server, path) for path in paths] == [[1012], [1012]]


# Frame by frame: what a page does not show, or never does.


class Http2:
    """A connection of a client that says itself what it sends."""

    def __init__(self, server, certificates) -> None:
        context = certificates.context()
        context.set_alpn_protocols(["h2"])
        tcp = sockets.create_connection((server.host, server.port), BOUND)
        tcp.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(tcp, server_hostname="localhost")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.authority = f"localhost:{server.port}"
        self.protocol = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.protocol.initiate_connection()
        self.is_lost = False
        self.certificates = certificates
        self.streams: dict[int, Stream] = {}

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def connect(self, path: str, **changes: str) -> Stream:
        """A WebSocket whose handshake is answered, with these headers changed."""
        stream = self.open(path, **changes)
        deadline = time.monotonic() + BOUND
        while stream.status is None:
            assert not stream.is_over
            assert not self.is_lost
            self.read(deadline)
        return stream

    def open(self, path: str, **changes: str) -> Stream:
        """A WebSocket whose handshake is sent, with these headers changed."""
        stream = Stream(self, self.new_stream())
        headers = {
            ":method": "CONNECT",
            ":protocol": "websocket",
            ":scheme": "https",
            ":path": path,
            ":authority": self.authority,
            "sec-websocket-version": "13",
            "origin": f"https://{self.authority}",
            **changes,
        }
        self.protocol.send_headers(stream.stream_id, list(headers.items()))
        self.flush()
        return stream

    def new_stream(self) -> int:
        return self.protocol.get_next_available_stream_id()

    def get_headers(self, path: str) -> list[tuple[str, str]]:
        return [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", path),
            (":authority", self.authority),
        ]

    def get(self, path: str, times: int) -> None:
        """Ask for this path so many times at once, and wait for the answers."""
        streams = []
        for _ in range(times):
            stream = Stream(self, self.new_stream())
            streams.append(stream)
            headers = self.get_headers(path)
            self.protocol.send_headers(stream.stream_id, headers, end_stream=True)
        self.flush()
        deadline = time.monotonic() + BOUND
        while not all(stream.is_over for stream in streams):
            assert not self.is_lost
            self.read(deadline)

    def lose(self, way: str) -> None:
        if way == "reset":
            self.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.protocol.data_to_send())

    def read(self, deadline: float) -> None:
        self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self.socket.recv(65536)
        except (ConnectionError, ssl.SSLError):
            data = b""
        if not data:
            self.is_lost = True
            return
        for event in self.protocol.receive_data(data):
            if stream := self.streams.get(getattr(event, "stream_id", None)):
                stream.see(event)
        self.flush()


class Stream(RawClient):
    """One WebSocket of such a connection."""

    def __init__(self, connection: Http2, stream_id: int) -> None:
        self.connection = connection
        connection.streams[stream_id] = self
        self.socket = self  # `send_frame()` writes to it.
        self.stream_id = stream_id
        self.status: int | None = None
        self.is_over = False
        self._buffer = b""

    def see(self, event: object) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.status = int(dict(event.headers)[":status"])
            case h2.events.DataReceived():
                self._buffer += event.data
                self.connection.protocol.acknowledge_received_data(
                    event.flow_controlled_length, self.stream_id
                )
            case h2.events.StreamEnded() | h2.events.StreamReset():
                self.is_over = True

    def sendall(self, data: bytes) -> None:
        self.connection.protocol.send_data(self.stream_id, data)
        self.connection.flush()

    def say(self, text: str) -> None:
        self.send_frame(TEXT, text.encode())

    def heard(self) -> tuple[int, bytes] | None:
        """The next frame that is no ping: Hypercorn sends one at once."""
        while (frame := self.frame()) is not None and frame[0] == PING:
            pass
        return frame

    def echoes(self, text: str) -> bool:
        self.say(text)
        return self.heard() == (TEXT, text.encode())

    def count_frames(self) -> int:
        """How many have come that were not asked for yet."""
        count = 0
        while (frame := self._parse()) is not None:
            count += frame[0] != PING
        return count

    def reset(self) -> None:
        self.connection.protocol.reset_stream(self.stream_id, ErrorCodes.CANCEL)
        self.connection.flush()

    def end(self) -> None:
        self.connection.protocol.end_stream(self.stream_id)
        self.connection.flush()

    def _fill(self, deadline: float | None = None) -> bool:
        deadline = deadline or time.monotonic() + BOUND
        length = len(self._buffer)
        while len(self._buffer) == length and not (self.is_over or self.connection.is_lost):
            self.connection.read(deadline)
        return len(self._buffer) > length


@pytest.fixture
def client(server, certificates):
    with Http2(server, certificates) as client:
        yield client


def test_an_extended_connect_gets_a_socket(client):
    assert client.connect("/ws").echoes("hé")
    assert client.protocol.remote_settings.enable_connect_protocol == 1


def test_a_foreign_origin_is_refused_on_its_stream_alone(server, client):
    other = client.connect("/ws")
    assert client.connect("/ws", origin="https://foreign.example").status == 403
    assert other.echoes("still here")
    server.wait_for_log("Origin 'https://foreign.example', path '/ws'")


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [(struct.pack("!H", 3001) + b"bye", 3001, "bye"), (b"", 1005, "")],
)
def test_the_client_closes(server, client, path, payload, code, reason):
    stream = client.connect(path)
    stream.send_frame(CLOSE, payload)
    assert stream.heard() == (CLOSE, payload)
    assert codes_of_disconnect(server, path) == [code]
    assert server.wait_for_event("disconnected", path)["reason"] == reason


@pytest.mark.parametrize("query", ["", "?background", "?wait"])
def test_the_client_ends_the_stream_without_a_close_frame(server, client, path, query):
    other = client.connect("/ws")
    stream = client.open(f"{path}{query}")
    server.wait_for_event("waiting" if "wait" in query else "accepted", path)
    stream.end()
    assert codes_of_disconnect(server, path) == [1006]
    while not stream.is_over:
        assert stream._fill() or stream.is_over
    assert other.echoes("still here")


def test_a_connection_takes_sockets_for_as_long_as_it_is_there(client):
    other = client.connect("/ws")
    for number in range(120):  # It may have 100 at a time.
        stream = client.connect("/ws")
        stream.send_frame(CLOSE, struct.pack("!H", 1000))
        if number % 2:
            stream.end()
        while not stream.is_over:
            assert stream._fill() or stream.is_over
        if not number % 2:
            stream.end()
    assert other.echoes("still here")


def test_the_client_resets_the_stream(server, client, path):
    other = client.connect("/ws")
    client.connect(path).reset()
    assert codes_of_disconnect(server, path) == [1006]
    assert other.echoes("still here")


def test_the_client_resets_the_stream_while_its_handler_is_busy(server, client, path):
    stream = client.connect(path)
    stream.say(do("wait", seconds=60))
    server.wait_for_event("waiting", path)
    stream.reset()
    server.wait_for_event("cancelled", path)
    assert codes_of_disconnect(server, path) == [1006]


def test_the_client_resets_the_stream_while_the_consumer_sends(server, client, path):
    stream = client.connect(f"{path}?background")
    assert stream.heard() == (TEXT, b"tick")
    stream.reset()
    server.wait_for_event("background ended", path)
    assert codes_of_disconnect(server, path) == [1006]


@pytest.mark.parametrize("way", ["orderly", "reset"])
def test_the_connection_is_lost_with_all_its_sockets(server, client, path, way):
    paths = [f"{path}-{number}" for number in range(3)]
    _, busy, _ = (client.connect(each) for each in paths)
    busy.say(do("wait", seconds=60))
    server.wait_for_event("waiting", paths[1])
    client.lose(way)
    assert [codes_of_disconnect(server, each) for each in paths] == [[1006], [1006], [1006]]
    assert len(server.events("cancelled", paths[1])) == 1


def test_a_client_that_never_answers_holds_up_no_stop(serve, arguments, certificates):
    server = serve(asgi_server="hypercorn", arguments=arguments)
    with Http2(server, certificates) as client:
        stream = client.connect("/ends/1")
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert stream.heard() == (CLOSE, struct.pack("!H", 1012) + b"The server is stopping")
        assert server.process.wait(BOUND) == 0, server.log()
        assert time.monotonic() - start < 5
    assert codes_of_disconnect(server, "/ends/1") == [1012]


def test_a_client_that_reads_nothing_costs_less_than_10_mb(serve, arguments, certificates):
    server = serve(asgi_server="hypercorn", arguments=arguments)
    with Http2(server, certificates) as client:
        assert client.connect("/ws").echoes("x" * 10_000)
        before = memory(server.process.pid)
        client.connect("/spring")
        time.sleep(2)  # It cost 1 GB a second.
        assert memory(server.process.pid) - before < 10 * 10**6


def test_requests_beside_it_do_not_end_a_websocket(client):
    stream = client.connect("/ws")
    for _ in range(21):
        client.get("/scope", times=50)  # Hypercorn ends a connection after 1,000.
    assert stream.echoes("still here")


# Floods


def frame_of(kind: int, payload: bytes = b"", *, flags: int = 0, stream_id: int = 0) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream_id.to_bytes(4, "big") + payload


FLOODS = {
    "SETTINGS": frame_of(4, b"\x00\x04\x00\x01\x00\x00"),
    "PING": frame_of(6, bytes(8)),
    "empty DATA": frame_of(0, stream_id=1),
    "WINDOW_UPDATE": frame_of(8, b"\0\0\0\1"),
    "PRIORITY": frame_of(2, b"\0\0\0\1\0", stream_id=3),
    "unknown": frame_of(99, b"x"),
}


def goodbye(client) -> ErrorCodes | None:
    """The code of the GOAWAY, when the server has closed."""
    code = None
    client.socket.settimeout(BOUND)
    deadline = time.monotonic() + BOUND
    with suppress(OSError):
        while data := client.socket.recv(65536):
            assert time.monotonic() < deadline, "the server does not close"
            # A frame at a time: h2 wants nothing behind a GOAWAY.
            if (at := data.find(b"\x07\0\0\0\0\0")) >= 0:
                code = ErrorCodes(int.from_bytes(data[at + 10 : at + 14], "big"))
    return code


def wait_until_nothing_comes(socket: sockets.socket) -> None:
    """All that is between the server and a client that does not read is full."""
    before = now = 0
    while not now or now != before:
        time.sleep(0.2)
        before, now = now, unread(socket)


def unread(socket: sockets.socket) -> int:
    return int.from_bytes(fcntl.ioctl(socket, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("kind", FLOODS)
def test_a_client_that_floods_is_cut_off_and_keeps_nobody_waiting(server, client, kind):
    assert client.connect("/ws").echoes("before")
    with Http2(server, client.certificates) as other:
        socket = other.connect("/ws")
        assert socket.echoes("before")
        with suppress(OSError):
            for _ in range(10):
                client.socket.sendall(FLOODS[kind] * 1000)
                assert socket.echoes("meanwhile")
        assert goodbye(client) in (ErrorCodes.ENHANCE_YOUR_CALM, None)
        assert socket.echoes("after")
    server.wait_for_log("cut off: its client sent too many frames that carry nothing")


def heads_with_many_lines(client) -> Iterator[bytes]:
    headers = client.get_headers("/scope") + [("a", "b")] * 1500
    first, again = (client.protocol.encoder.encode(headers) for _ in range(2))
    yield frame_of(1, first, flags=5, stream_id=3)
    for stream_id in range(5, 600, 2):
        yield frame_of(1, again, flags=5, stream_id=stream_id)


def head_without_end(client) -> Iterator[bytes]:
    yield frame_of(1, b"\x20" * 2**14, stream_id=3)
    for _ in range(20):
        yield frame_of(9, b"\x20" * 2**14, stream_id=3)


@pytest.mark.parametrize(
    ("frames", "excess"),
    [
        (heads_with_many_lines, "frames that carry nothing"),
        (head_without_end, "bytes of a head"),
    ],
)
def test_a_client_that_sends_large_heads_is_cut_off_and_keeps_nobody_waiting(
    server, client, frames, excess
):
    with Http2(server, client.certificates) as other:
        socket = other.connect("/ws")
        assert client.connect("/ws").echoes("before")
        before = server.log().count(excess)
        with suppress(OSError):
            client.socket.sendall(b"".join(frames(client)))
        start = time.monotonic()
        assert socket.echoes("meanwhile")
        assert time.monotonic() - start < 5  # It was as long as all of it took.
        assert goodbye(client) in (ErrorCodes.ENHANCE_YOUR_CALM, None)
        for _ in until("the line in the log", server.log):
            if server.log().count(excess) > before:
                break
        assert socket.echoes("after")


def test_a_client_that_resets_without_end_is_cut_off(server, client):
    with suppress(OSError):
        for _ in range(500):
            client.protocol.send_headers(client.new_stream(), client.get_headers("/scope"))
            client.protocol.reset_stream(client.protocol.highest_outbound_stream_id)
        client.flush()
    goodbye(client)
    server.wait_for_log("cut off: its client sent too many resets")


def test_a_stream_that_is_reset_again_counts_once(client):
    stream = client.connect("/ws")
    stream.reset()
    client.socket.sendall(frame_of(3, bytes(4), stream_id=stream.stream_id) * 300)
    assert client.connect("/ws").echoes("still here")


@pytest.mark.slow
def test_a_client_that_reads_what_it_gets_may_answer_all_of_it(client):
    stream = client.connect("/ws")
    for _ in range(1500):  # Each is answered with two WINDOW_UPDATEs.
        assert stream.echoes("hello")
        client.protocol.increment_flow_control_window(5)
        client.protocol.increment_flow_control_window(5, stream.stream_id)
        client.flush()
    assert stream.echoes("still here")


@pytest.mark.slow
@pytest.mark.alone
def test_applications_of_streams_that_were_reset_count(serve, arguments, certificates):
    settings = {"SHUTDOWN_TIMEOUT": 20}  # A server that is killed has measured nothing.
    server = serve(asgi_server="hypercorn", arguments=arguments, WS_SUPPORT=settings)
    with Http2(server, certificates) as client:
        for _ in range(150):
            stream = client.connect("/busy-of-channels")
            stream.say("60")
            stream.reset()
        refused = client.open("/ws")
        deadline = time.monotonic() + BOUND
        while not refused.is_over:
            client.read(deadline)
        assert refused.status is None
        with Http2(server, certificates) as other:
            for _ in range(20):
                other.connect("/busy-of-channels").say("60")
            assert other.connect("/ws").echoes("another connection")
            assert server.stop() == 0
    assert "is killed" not in server.log()


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({":protocol": "other"}, 501),
        ({":path": "/hé"}, 400),
        ({"sec-websocket-version": "8"}, 426),
        ({f"x-{number}": "1" for number in range(300)}, 431),
    ],
)
def test_a_wrong_connect_is_refused_on_its_stream(client, changes, status):
    stream = client.open("/ws", **changes)
    deadline = time.monotonic() + BOUND
    while not stream.is_over:
        client.read(deadline)
    assert stream.status == status
    assert client.connect("/ws").echoes("still here")


def test_priorities_of_streams_without_end_are_one_line_in_the_log(server, client):
    frames = (frame_of(2, bytes(5), stream_id=number) for number in range(3, 3000, 2))
    client.flush()
    client.socket.sendall(b"".join(frames))
    assert goodbye(client) is None
    client.socket.close()  # It waits for the end of TLS.
    server.wait_for_log("A connection was cut off: TooManyStreamsError(")


def test_a_client_that_reads_nothing_is_cut_off(server, client, path):
    client.connect(path)
    client.protocol.increment_flow_control_window(2**30)
    spring = client.connect("/spring")
    client.protocol.increment_flow_control_window(2**30, spring.stream_id)
    client.flush()
    wait_until_nothing_comes(client.socket)
    client.socket.sendall(FLOODS["unknown"] * 3000)
    assert codes_of_disconnect(server, path) == [1006]


def test_a_request_with_too_many_headers_is_refused(client):
    stream = Stream(client, client.new_stream())
    headers = client.get_headers("/scope") + [(f"x-{number}", "1") for number in range(300)]
    client.protocol.send_headers(stream.stream_id, headers, end_stream=True)
    client.flush()
    deadline = time.monotonic() + BOUND
    while not stream.is_over:
        client.read(deadline)
    assert stream.status == 431


@pytest.mark.parametrize("way", ["reset", "close"])
@pytest.mark.parametrize("path", ["/endless-events", "/endless"])
def test_a_response_without_end_ends_with_its_client(server, client, path, way):
    before = len(server.events("ended", path))
    stream = Stream(client, client.new_stream())
    client.protocol.send_headers(stream.stream_id, client.get_headers(path), end_stream=True)
    client.flush()
    assert stream._fill()
    if way == "reset":
        stream.reset()
    else:
        client.lose("reset")
    with Http2(server, client.certificates) as other:
        assert other.connect("/ws").echoes("still there")
    server.wait_for_event("ended", path, before + 1)


def test_a_body_that_nobody_reads_holds_up_nothing(client):
    other = client.connect("/ws")
    for _ in range(3):
        stream = Stream(client, client.new_stream())
        headers = [(":method", "POST"), *client.get_headers("/slow?0.1")[1:]]
        client.protocol.send_headers(stream.stream_id, headers)
        for _ in range(20):
            client.protocol.send_data(stream.stream_id, b"x" * 100)
        client.flush()
        while not stream.is_over:
            assert stream._fill() or stream.is_over
        assert other.echoes("still here")


# What Hypercorn 0.18 does otherwise than over HTTP/1.1, or than one would wish.


def test_frames_for_a_stream_that_has_ended_cost_no_other(server, client, path):
    stream, other = client.connect(path), client.connect("/ws")
    stream.say(do("close", code=4001))
    assert stream.heard() == (CLOSE, struct.pack("!H", 4001))
    assert codes_of_disconnect(server, path) == [4001]
    server.wait_for_event("disconnected", path)
    # As the client answers, whose answer takes a while: KeyError in H2Protocol._handle_events().
    stream.send_frame(CLOSE, struct.pack("!H", 4001))
    assert other.echoes("still here")


def test_a_busy_consumer_holds_up_the_other_sockets_of_its_connection(client):
    busy, other = client.connect("/busy"), client.connect("/ws")
    for _ in range(16):
        busy.say("0.2")
    assert other.echoes("late")
    # One is being handled and ten wait for the consumer; with more unread, nothing else is read.
    assert busy.count_frames() >= 3


def test_socket_io_takes_no_websocket(serve, arguments, certificates):
    """python-engineio 4.15 looks for the header `Upgrade`, which there is none of in HTTP/2."""
    application = "tests.project.socketio.application"
    server = serve(asgi_server="hypercorn", arguments=arguments, ASGI_APPLICATION=application)
    with Http2(server, certificates) as client:
        assert client.connect("/socket.io/?EIO=4&transport=websocket").status == 403
        assert client.connect("/ws").echoes("takes one")
    server.wait_for_log("Invalid websocket upgrade")


# Compressed, each socket with a context of its own.


@pytest.fixture(scope="module")
def compressing(arguments, tmp_path_factory):
    log_file = tmp_path_factory.mktemp("compressing") / "server.log"
    settings = {"PER_MESSAGE_DEFLATE": True, "KEEP_ALIVE_INTERVAL": None}
    with serving(
        log_file, asgi_server="hypercorn", arguments=arguments, WS_SUPPORT=settings
    ) as server:
        yield server


@pytest.fixture
def streams(compressing, certificates):
    """Two sockets of one connection that compress."""
    with Http2(compressing, certificates) as client:
        yield [client.connect("/ws", **{OFFERED: "permessage-deflate"}) for _ in range(2)]


OFFERED = "sec-websocket-extensions"


class Deflated:
    """The two ends of a client's compression, with one context for all messages."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(wbits=-12)
        self._decompressor = zlib.decompressobj(wbits=-15)

    def compress(self, data: bytes) -> bytes:
        return (self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def decompress(self, data: bytes) -> bytes:
        return self._decompressor.decompress(data + b"\0\0\xff\xff")


@pytest.mark.browser
def test_a_page_gets_its_messages_back_compressed(compressing, page):
    socket = PageSocket(page, compressing, "/commands")
    assert socket.next() == "open"
    assert socket.extensions().startswith("permessage-deflate")
    assert socket.scope("http_version") == {"http_version": "2"}
    echo = PageSocket(page, compressing, "/ws")
    assert echo.next() == "open"
    for text in ("hé", "", "x" * 300_000):
        echo.send(text)
        assert echo.next() == text


def test_sockets_of_one_connection_do_not_share_what_they_compress_with(streams):
    ends = [Deflated() for _ in streams]
    for round_ in range(3):
        for number, (stream, end) in enumerate(zip(streams, ends, strict=True)):
            message = f"of the socket {number} in the round {round_}".encode() * 20
            send_compressed(stream, TEXT, end.compress(message))
            opcode, payload = stream.heard()
            assert len(payload) < len(message) / 5
            assert (opcode, end.decompress(payload)) == (TEXT, message)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"\xff" * 20, 1007), (deflated(bytes(15 * 2**20)), 1009)],
    ids=["damaged", "too large"],
)
def test_what_cannot_be_inflated_ends_its_socket_alone(compressing, streams, data, code):
    bad, good = streams
    process = Path("/proc") / str(compressing.process.pid)
    (process / "clear_refs").write_text("5")
    before = peak(process)
    send_compressed(bad, BINARY, data)
    opcode, payload = bad.heard()
    assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", code))
    assert peak(process) - before < 10 * 10**6
    end = Deflated()
    send_compressed(good, TEXT, end.compress(b"still here"))
    assert end.decompress(good.heard()[1]) == b"still here"
