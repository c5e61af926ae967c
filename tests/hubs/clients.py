"""Clients of hubs for tests in one process: requests, WebSockets, and what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest

from tests.hubs.test_protocols import decoded
from ws_support._connection.registry import open_connections
from ws_support._hubs import tokens
from ws_support._hubs.messages import Completion, Invocation, Message
from ws_support._hubs.protocols import PROTOCOLS
from ws_support.exceptions import ConnectionClosed
from ws_support.hubs import HubRouter
from ws_support.testing import BOUND, HandshakeRefused, Peer, RunningApplication, websocket_scope

ORIGIN = "http://testserver"
CLOSED = "Connection closed with an error."
FAILED = "Failed to invoke '{}' due to an error on the server."
RAISED = "An unexpected error occurred invoking '{}' on the server."
TEXT = "text/plain"
BINARY = "application/octet-stream"


# What hubs run in


class User:
    """A user who is whoever the client says."""

    is_authenticated = True

    def __init__(self, name: str) -> None:
        self.pk = name

    async def ahas_perms(self, permissions: Any) -> bool:
        return self.pk == "admin"


class Nobody:
    is_authenticated = False
    pk = None


class Named:
    """A middleware that finds the user in the query: `?user=ann`."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("user")
        await self._application({**scope, "user": User(name) if name else Nobody()}, receive, send)


async def rest(scope: Any, receive: Any, send: Any) -> None:
    """The application behind the router: it says that a request has come to it."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b"the rest"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4418, "reason": ""})
    else:
        await send({"type": f"{scope['type']}.answer"})


def router(hub: Any, path: str = "hub") -> HubRouter:
    return HubRouter(rest, {path: hub}, middleware=Named)


# Requests


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def what(self) -> tuple[int, str, bytes]:
        """The status, the type of the content, and the content."""
        return self.status, self.headers.get("content-type", ""), self.body


def http_scope(
    method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    origin = {} if headers and "origin" in headers else {"origin": ORIGIN}
    scope = websocket_scope(path, headers={**origin, **(headers or {})})
    del scope["subprotocols"]
    del scope["extensions"]
    return {**scope, "type": "http", "method": method, "scheme": "http", **more}


class Request(RunningApplication):
    """A request that is under way. At the end of the block its client has gone."""

    def __init__(
        self,
        application: Any,
        method: str,
        path: str,
        body: bytes | None = b"",
        *,
        headers: Mapping[str, str] | None = None,
        scope: Mapping[str, Any] | None = None,
    ) -> None:
        scope = http_scope(method, path, headers, **(scope or {}))
        # Tests move the clock.
        super().__init__(application, scope, timeout=100 * BOUND)
        self.body = body

    async def __aenter__(self) -> Request:
        await super().__aenter__()
        if self.body is not None:
            await self.upload(self.body, more_body=False)
        return self

    async def upload(self, body: bytes, *, more_body: bool = True) -> None:
        await self.send_input({"type": "http.request", "body": body, "more_body": more_body})

    async def leave(self) -> None:
        with suppress(Exception):
            await self.send_input({"type": "http.disconnect"})
        with suppress(OSError):
            await self.wait()

    async def __aexit__(self, *details: Any) -> None:
        if details[0] is None:
            await self.leave()
        await super().__aexit__(*details)

    async def start(self) -> Response:
        """Return the beginning of the response, without its body."""
        message = await self.receive_output()
        assert message["type"] == "http.response.start"
        headers: dict[str, str] = {}
        for name, value in message["headers"]:
            assert name == name.lower()
            assert name.decode() not in headers
            headers[name.decode()] = value.decode()
        return Response(message["status"], headers, b"")

    async def chunk(self) -> bytes | None:
        """Return the next piece of the body, and None at the end."""
        try:
            message = await self.receive_output()
        except EOFError:
            return None
        assert message["type"] == "http.response.body"
        return message.get("body", b"") or (b"" if message.get("more_body") else None)

    async def response(self) -> Response:
        """Return the whole response."""
        response = await self.start()
        while (chunk := await self.chunk()) is not None:
            response.body += chunk
        length = response.headers.get("content-length")
        assert length is None or int(length) == len(response.body)
        await self.wait()
        return response


class Web:
    """Sends requests to an application."""

    def __init__(self, application: Any, path: str = "/hub") -> None:
        self.application = application
        self.path = path

    def begin(self, method: str, query: str = "", body: bytes | None = b"", **more: Any) -> Request:
        """Return a request to the hub, for a block."""
        return Request(self.application, method, f"{self.path}{query}", body, **more)

    async def request(
        self, method: str, query: str = "", body: bytes = b"", **more: Any
    ) -> Response:
        async with self.begin(method, query, body, **more) as request:
            return await request.response()

    async def negotiate(self, query: str = "negotiateVersion=1", **more: Any) -> Any:
        response = await self.request("POST", f"/negotiate?{query}", **more)
        assert (response.status, response.headers["content-type"]) == (200, "application/json")
        return response.json()

    async def token(self) -> str:
        token: str = (await self.negotiate())["connectionToken"]
        return token


# Connections


class Parser:
    """Puts what comes together to messages."""

    def __init__(self, protocol: str) -> None:
        self.protocol = PROTOCOLS[protocol]
        self._splitter = self.protocol.splitter(2**30)
        self._is_new = True
        self.messages: list[Any] = []

    def feed(self, data: bytes) -> None:
        if self._is_new:
            answer, separator, data = data.partition(b"\x1e")
            assert separator
            self._is_new = False
            self.messages.append(json.loads(answer))
        for frame in self._splitter.feed(data):
            message = self.protocol.parse(frame)
            assert message is not None
            self.messages.append(decoded(self.protocol, message))
        assert self._splitter.is_empty()  # Each frame ends with a message.


def shake(protocol: str = "json", version: int = 1) -> bytes:
    return msgspec.json.encode({"protocol": protocol, "version": version}) + b"\x1e"


class Caller:
    """What the clients of all transports have in common."""

    parser: Parser
    _count = 0

    async def put(self, data: bytes) -> None:
        raise NotImplementedError

    async def get(self) -> bytes:
        """Return the next bytes of the server. Raise `ConnectionClosed` at the end."""
        raise NotImplementedError

    async def shake_hands(self, protocol: str = "json", **more: Any) -> Any:
        """Send the handshake request, and return the answer."""
        self.parser = Parser(protocol)
        await self.put(shake(protocol, **more))
        return await self.next()

    async def put_message(self, *messages: Message) -> None:
        await self.put(b"".join(map(self.parser.protocol.write, messages)))

    async def next(self) -> Any:
        """Return the next message of the server."""
        while not self.parser.messages:
            self.parser.feed(await self.get())
        return self.parser.messages.pop(0)

    async def until_end(self) -> list[Any]:
        """Return all messages to the end of the connection."""
        messages = []
        with suppress(ConnectionClosed):
            while True:
                messages.append(await self.next())
        return messages

    async def call(self, target: str, *arguments: Any) -> Completion:
        """Invoke a method, and return its Completion. What comes before is dropped."""
        self._count += 1
        await self.put_message(Invocation(target, list(arguments), str(self._count)))
        while True:
            message = await self.next()
            if isinstance(message, Completion) and message.id == str(self._count):
                return message

    async def result(self, target: str, *arguments: Any) -> Any:
        completion = await self.call(target, *arguments)
        assert completion.error is None
        return completion.result

    async def send(self, target: str, *arguments: Any) -> None:
        await self.put_message(Invocation(target, list(arguments)))


class Socket(Caller):
    """A client over a WebSocket."""

    _is_open = False

    def __init__(self, application: Any, query: str = "", **more: Any) -> None:
        more.setdefault("timeout", 100 * BOUND)  # Tests move the clock.
        self.parser = Parser("json")
        self.peer = Peer(application, f"/hub{query}", origin=ORIGIN, **more)

    async def __aenter__(self) -> Socket:
        if not self._is_open:
            self._is_open = True
            await self.peer.__aenter__()
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self.peer.__aexit__(*details)

    @classmethod
    @asynccontextmanager
    async def refused(
        cls, application: Any, query: str = "", **more: Any
    ) -> AsyncIterator[HandshakeRefused]:
        """Check that a handshake is refused, and say how."""
        with pytest.raises(HandshakeRefused) as raised:
            async with cls(application, query, **more):
                pass
        yield raised.value

    async def put(self, data: bytes) -> None:
        is_binary = self.parser.protocol.is_binary
        await self.peer.send(data if is_binary else data.decode())

    async def get(self) -> bytes:
        message = await self.peer.receive()
        # Microsoft's clients want binary frames for MessagePack, and text for JSON.
        assert isinstance(message, bytes) == self.parser.protocol.is_binary
        return message if isinstance(message, bytes) else message.encode()


class Poller(Caller):
    """A client over long polling."""

    def __init__(self, web: Web, token: str) -> None:
        self.parser = Parser("json")
        self.web = web
        self.query = f"?id={token}"

    @classmethod
    async def connected(cls, web: Web, query: str = "", token: str | None = None) -> Poller:
        poller = cls(web, token or await web.token())
        poller.query += query
        first = await poller.poll()
        assert first.what == (200, BINARY, b"")
        return poller

    async def poll(self) -> Response:
        return await self.web.request("GET", self.query)

    async def post(self, data: bytes) -> Response:
        return await self.web.request("POST", self.query, data)

    async def put(self, data: bytes) -> None:
        assert (await self.post(data)).what == (200, TEXT, b"")

    async def get(self) -> bytes:
        response = await self.poll()
        if response.status == 204:
            raise ConnectionClosed(1000, "")
        assert response.status == 200
        return response.body


class Stream(Caller):
    """A client over server-sent events."""

    def __init__(self, web: Web, token: str, query: str = "") -> None:
        self.parser = Parser("json")
        self.web = web
        self.query = f"?id={token}{query}"
        self.request = web.begin("GET", self.query, headers={"accept": "text/event-stream"})

    async def __aenter__(self) -> Stream:
        await self.request.__aenter__()
        self.start = await self.request.start()
        assert await self.request.chunk() == b":\r\n"
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self.request.__aexit__(*details)

    async def put(self, data: bytes) -> None:
        response = await self.web.request("POST", self.query, data)
        assert response.what == (200, TEXT, b"")

    async def get(self) -> bytes:
        chunk = await self.request.chunk()
        if chunk is None:
            raise ConnectionClosed(1000, "")
        assert chunk.endswith(b"\r\n\r\n")
        lines = chunk[:-4].split(b"\r\n")
        assert all(line.startswith(b"data: ") for line in lines)
        return b"\n".join([line[6:] for line in lines])


# Time


class Clock:
    """Moves the clocks of the event loop and of the tokens forward."""

    def __init__(self, monkeypatch: Any) -> None:
        self._ahead = 0.0
        loop = asyncio.get_running_loop()
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + self._ahead)
        monkeypatch.setattr(tokens, "time", lambda: time.time() + self._ahead)

    async def forward(self, seconds: float) -> None:
        """Let `seconds` pass at once, and what is due then happen."""
        await turns()
        self._ahead += seconds
        await turns()


async def turns(count: int = 20) -> None:
    """Let all other tasks do what they can do without waiting."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(is_so: Callable[[], Any], details: Callable[[], Any] = str) -> None:
    """Wait until `is_so()`."""
    deadline = time.monotonic() + BOUND
    while not is_so():
        assert time.monotonic() < deadline, f"It has not happened. {details()}"
        await asyncio.sleep(0.001)


# What is left


class Problems(logging.Handler):
    """Collects the log records with a traceback, and what the event loop complains of."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            self.found.append(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())

    def expect(self, *texts: str) -> None:
        """Forget the problems that begin with these texts; there have to be just those."""
        found, self.found = self.found, []
        assert len(found) == len(texts), found
        for each, text in zip(found, texts, strict=True):
            assert each.startswith(text)


async def check_nothing_is_left(before: set[asyncio.Task[Any]]) -> None:
    """Check that no task and no connection is left, and that no exception was not retrieved."""

    def left() -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - before - {asyncio.current_task()}  # type: ignore[arg-type]

    await until(lambda: not left(), left)
    # Some tests have a second event loop, in another thread.
    await until(lambda: not len(open_connections), lambda: open_connections._connections)
    gc.collect()
    await asyncio.sleep(0)
