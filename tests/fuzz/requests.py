"""Requests behind each other, in pieces of every size, and what has to come of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uvicorn import Config
from uvicorn.server import ServerState

from tests.fuzz.connection import Transport
from tests.fuzz.model import TEXT, frames_of
from ws_support.servers.picows import PicowsProtocol
from ws_support.servers.uvicorn import http
from ws_support.servers.uvicorn.websocket import Protocol

if TYPE_CHECKING:
    from tests.fuzz.chaos import Choices

MAX_HEAD = 300
MAX_HEADERS = 8
_SLACK = 64
"""Bytes of trailers that may not be counted, since they were parsed with a part of the body."""


@contextmanager
def small_limits(turn: float) -> Iterator[None]:
    """So that little data is enough to get there."""
    small = {
        "MAX_HEAD": MAX_HEAD,
        "MAX_HEADERS": MAX_HEADERS,
        "_PIECE": _SLACK,
        "_TURN": turn,
    }
    before = {name: getattr(http, name) for name in small}
    try:
        vars(http).update(small)
        yield
    finally:
        vars(http).update(before)


class HTTPTransport(Transport):
    is_ended = False
    """Whether the client was told that nothing more comes."""

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_ended = True

    def get_write_buffer_size(self) -> int:
        return 0


class HTTPConnection:
    """A connection to Uvicorn, whose application answers as the paths say."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ws: Any = PicowsProtocol) -> None:
        self.loop = loop
        self.is_open = asyncio.Event()
        self.errors: list[Any] = []
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        config = Config(
            self._asgi,
            interface="asgi3",
            http=http.HTTPProtocol,
            ws=ws,
            ws_ping_interval=None,
            log_config=None,
            access_log=False,
            proxy_headers=False,
        )
        config.load()
        self.state = ServerState()
        self.transport = HTTPTransport(loop)
        self.protocol = http.HTTPProtocol(config, self.state, {}, loop)
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)
        self.waiting = b""
        self.delivered = 0
        self.answered_at: list[tuple[int, int]] = []
        """How many bytes were read when so many answers had been given."""

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
            return
        path = scope["path"]
        assert not any(name.startswith(b"trailer") for name, _ in scope["headers"])
        body, is_read = b"", path.endswith("early")
        if path.endswith("late"):
            await self.is_open.wait()
        while not is_read:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            is_read = not message["more_body"]
        said = f"{path} {len(body)}".encode()
        headers = [(b"content-length", b"%d" % len(said))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said})

    def feed(self, data: bytes) -> None:
        """From the client, as far as it is read."""
        self.waiting += data
        self.deliver()

    def deliver(self) -> bool:
        """Whether there was anything that is read."""
        before = self.delivered
        # In the loop, which is the one that the next protocol takes.
        self.loop.call_soon(self._hand_over)
        self.turn(1)
        return self.delivered > before

    def _hand_over(self) -> None:
        transport = self.transport
        if not self.waiting or not transport.is_reading or transport.is_closing():
            return
        data, self.waiting = self.waiting, b""
        if isinstance(transport.protocol, asyncio.Protocol):
            self._count(len(data))
            transport.protocol.data_received(data)
        else:
            room = transport.protocol.get_buffer(-1)
            size = min(len(room), len(data))
            room[:size], self.waiting = data[:size], data[size:]
            self._count(size)
            transport.protocol.buffer_updated(size)

    def _count(self, size: int) -> None:
        self.delivered += size
        self.answered_at.append((self.delivered, len(self.answers()[0])))

    def turn(self, count: int = 4) -> None:
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def settle(self) -> None:
        """Until nothing more happens."""
        self.turn(20)
        while self.deliver() or self._is_parsing:
            self.turn(20)
        self.turn(20)

    @property
    def _is_parsing(self) -> bool:
        protocol = self.protocol
        is_left = protocol._position < len(protocol._unparsed)
        return is_left and not self.transport.is_closing()

    def answers(self) -> tuple[list[tuple[int, bytes]], bytes]:
        """Statuses and contents, and what comes behind a 101. Raises `AssertionError` for what is
        no answer."""
        data, answers = self.transport.sent, []
        while data:
            head, end, data = data.partition(b"\r\n\r\n")
            assert end, "half a head"
            assert head.startswith(b"HTTP/1.1 "), head
            status = int(head[9:12])
            if status == 101:
                return [*answers, (status, b"")], data
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert len(data) >= length, "half a content"
            answers.append((status, data[:length]))
            data = data[length:]
        return answers, b""

    def close(self) -> None:
        self.transport.lose()
        self.is_open.set()
        self.turn(20)
        for task in self.state.tasks:
            task.cancel()
        self.turn(4)
        for timer in (self.protocol._limit, self.protocol.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()


@dataclass
class Request:
    data: bytes
    head: int
    """Bytes after which the application is asked."""

    answer: bytes
    status: int = 200
    """Of 431, 400 and 101, nothing comes behind it."""

    is_last: bool = False
    """Whether the connection ends with the answer."""

    may_be_unsaid: bool = False
    """Whether an answer of the application may have come before the error."""


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def a_request(choices: Choices, number: int) -> Request:
    """A request, mostly a lawful one."""
    kind = ("plain", "early", "late")[choices.number(0, 2)]
    path = b"/%d/%b" % (number, kind.encode())
    lines = [b"Host: h"]
    closes = choices.number(0, 15) == 0
    if closes:
        lines.append(b"Connection: close")
    elif choices.number(0, 5) == 0:
        lines += [b"Connection: upgrade", b"Upgrade: h2c"]
    rare = choices.number(0, 20)
    if rare == 0:
        return Request(b"NO REQUEST\r\n\r\n", 0, b"", 400)
    if rare == 1:
        return Request(UPGRADE + _text(b"behind"), 0, b"", 101)
    lines += [b"A%d: a" % each for each in range(choices.number(0, 2))]
    content = choices.data(20) * choices.number(0, 9)
    body = b""
    how = choices.number(0, 2)
    method = b"POST" if how else b"GET"
    trailers = b""
    if how == 0:
        content = b""
    elif how == 1:
        lines.append(b"Content-Length: %d" % len(content))
        body = content
    else:
        lines.append(b"Transfer-Encoding: chunked")
        size = choices.number(1, 50)
        pieces = [content[start : start + size] for start in range(0, len(content), size)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n"
        trailers = choices.number(0, 2) * b"Trailer: no header\r\n"
        if rare == 2:
            trailers = (MAX_HEADERS + 2) * b"Trailer: a\r\n"
        elif rare == 3:
            trailers = b"Trailer: " + (MAX_HEAD + _SLACK) * b"a" + b"\r\n"
        body += trailers + b"\r\n"
    head = b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method, path, b"\r\n".join(lines))
    if rare in (4, 5):  # As large as it may be, and one byte larger.
        fill = MAX_HEAD - len(head) - len(b"B: \r\n") + (rare == 5)
        head = head[:-2] + b"B: %b\r\n\r\n" % (fill * b"b")
        if rare == 5:
            return Request(head, 0, b"", 431)
    elif rare == 6:
        head = head[:-2] + MAX_HEADERS * b"C: c\r\n" + b"\r\n"
        return Request(head, 0, b"", 431)
    if len(trailers) > 100:
        return Request(head + body, len(head), b"", 431, may_be_unsaid=kind == "early")
    read = 0 if kind == "early" else len(content)
    return Request(head + body, len(head), b"%b %d" % (path, read), is_last=closes)


def _text(data: bytes) -> bytes:
    return bytes((0x81, 0x80 | len(data))) + bytes(4) + data


def fuzz_requests(loop: asyncio.AbstractEventLoop, choices: Choices) -> None:
    """A client that sends requests without waiting, in pieces of any size."""
    ws = (PicowsProtocol, Protocol)[choices.number(0, 1)]
    with (
        small_limits((0.002, 0)[choices.number(0, 1)]),
        # Also when Hypothesis gives an example up in the middle.
        closing(HTTPConnection(loop, ws)) as connection,
    ):
        requests: list[Request] = []
        while not choices.is_done and len(requests) < 8:
            requests.append(a_request(choices, len(requests)))
            if requests[-1].status != 200:
                break
        stream = b"".join(request.data for request in requests)
        if choices.number(0, 4) == 0:
            stream = stream[: choices.number(0, len(stream))]
        start_of_last = sum(len(request.data) for request in requests[:-1])
        position = 0
        while position < len(stream):
            size = (1, 7, 40, 1000)[choices.number(0, 3)]
            piece = stream[position : position + size]
            connection.feed(piece)
            position += len(piece)
            assert not connection.protocol.pipeline, "two requests at once"
            connection.turn(choices.number(0, 3))
            if choices.number(0, 3) == 0:
                connection.is_open.set()
        connection.is_open.set()
        connection.settle()
        is_early = any(
            read > start_of_last and answered < len(requests) - 1
            for read, answered in connection.answered_at
        )
        _check(connection, requests, len(stream), is_early=is_early)
    assert connection.errors == [], connection.errors
    assert not connection.state.tasks
    assert not connection.state.connections


def _check(
    connection: HTTPConnection, requests: list[Request], sent: int, *, is_early: bool
) -> None:
    answers, behind = connection.answers()
    transport = connection.transport
    end = 0
    for index, request in enumerate(requests):
        start, end = end, end + len(request.data)
        is_there = sent >= end
        is_asked = request.head and sent >= start + request.head
        if not is_there and not (is_asked and b"early" in request.answer):
            # Whatever is half there has no answer, or the one of its error.
            assert len(answers) <= index + 1
            return
        if request.status == 101 and len(answers) > index and answers[index][0] == 400:
            assert is_early, "refused though all was answered"
            assert transport.is_ended
        elif request.status == 101:
            assert answers[index][0] == 101
            assert frames_of(behind) == [(TEXT, b"behind")]
            return
        elif request.status != 200:
            status, content = answers[index]
            assert status == request.status or (request.may_be_unsaid and status == 200)
            assert content
        else:
            assert answers[index] == (200, request.answer)
        if request.status != 200 or request.is_last:
            assert len(answers) == index + 1, "an answer behind the last one"
            assert transport.is_closing() or transport.is_ended
            return
    assert len(answers) == len(requests)
    assert not transport.is_closing()
