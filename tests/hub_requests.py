"""A client of a hub over plain HTTP, without a library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

HANDSHAKE = b'{"protocol":"json","version":1}\x1e'


class HubRequests:
    """The requests of one connection to the hub at `path`, which negotiates at once."""

    def __init__(self, connect: Callable[[], HTTPConnection], origin: str, path: str) -> None:
        self._connect = connect
        self._origin = origin
        self.path = f"{path}/negotiate?negotiateVersion=1"
        _, body = self.request("POST")
        self.path = f"{path}?id={json.loads(body)['connectionToken']}"

    def request(self, method: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return the status and the body of an answer."""
        with self._answer(method, body, {}) as response:
            return response.status, response.read()

    def invoke(self, target: str, *arguments: Any) -> None:
        """Invoke a method. Its result comes by the event stream, or by a poll."""
        message = {"type": 1, "invocationId": "1", "target": target, "arguments": arguments}
        status, _ = self.request("POST", json.dumps(message).encode() + b"\x1e")
        assert status == 200

    def poll(self) -> bytes:
        status, body = self.request("GET")
        assert status == 200
        return body

    @contextmanager
    def events(self) -> Iterator[HTTPResponse]:
        """The event stream."""
        with self._answer("GET", b"", {"Accept": "text/event-stream"}) as response:
            assert response.status == 200
            yield response

    @contextmanager
    def _answer(self, method: str, body: bytes, headers: dict[str, str]) -> Iterator[HTTPResponse]:
        client = self._connect()
        try:
            client.request(method, self.path, body, {"Origin": self._origin, **headers})
            yield client.getresponse()
        finally:
            client.close()


def next_event(response: HTTPResponse) -> bytes:
    """Return the data of the next event."""
    data = b""
    while line := response.readline():
        if line.startswith(b"data: "):
            data += line.removeprefix(b"data: ").rstrip(b"\r\n")
        elif line == b"\r\n" and data:
            return data
    raise AssertionError(f"the stream has ended after {data!r}")
