"""Long polling as requests: the order of them that clients choose, and clients that vanish."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import pytest

from tests.harness import BOUND, Server

HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
CALL = b'{"type":1,"invocationId":"1","target":"Add","arguments":[1,2]}\x1e'
CLOSE = b'{"type":7}\x1e'


class Client:
    """A client of a hub by hand."""

    def __init__(self, server: Server, path: str) -> None:
        self._path = path
        self._connection = HTTPConnection(server.host, server.port, timeout=BOUND)
        self._connection.request("POST", f"{path}/negotiate?negotiateVersion=1")
        self._token = json.loads(self._connection.getresponse().read())["connectionToken"]

    def request(self, method: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return the status and the body of the answer."""
        self._connection.request(method, f"{self._path}?id={self._token}", body)
        response = self._connection.getresponse()
        return response.status, response.read()

    def add_one_and_two(self) -> bytes:
        """Invoke a method, and return what polls bring up to its answer."""
        assert self.request("POST", CALL) == (200, b"")
        answers = b""
        while b'"invocationId":"1"' not in answers:
            status, body = self.request("GET")
            assert status == 200
            answers += body
        return answers

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def connect(hub_server: Server) -> Iterator[Callable[[str], Client]]:
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(closing(Client(hub_server, path)))


def test_the_end_that_a_client_has_announced_is_over_with_its_delete(
    hub_server: Server, connect: Callable[[str], Client]
) -> None:
    path = "/slow-to-close-hub"
    client = connect(path)
    assert client.request("GET") == (200, b"")
    assert client.request("POST", HANDSHAKE) == (200, b"")
    client.add_one_and_two()
    assert client.request("POST", CLOSE) == (200, b"")
    for _ in range(3):  # The end has begun when others have been answered.
        connect(path)
    assert client.request("DELETE")[0] == 202
    hub_server.wait_for_event("on_disconnected()", path)


def test_a_client_that_polls_no_more_after_its_handshake_is_given_up(
    hub_server: Server, connect: Callable[[str], Client]
) -> None:
    path = "/soon-given-up-hub"
    client = connect(path)
    assert client.request("GET") == (200, b"")
    assert client.request("POST", HANDSHAKE) == (200, b"")
    hub_server.wait_for_event("on_connected()", path)
    assert hub_server.wait_for_event("on_disconnected()", path)["error"] is None


def test_what_a_client_sends_before_its_first_poll_waits_for_the_answer(
    connect: Callable[[str], Client],
) -> None:
    client = connect("/hub")
    assert client.request("POST", HANDSHAKE) == (200, b"")
    answers = client.add_one_and_two()
    assert answers.startswith(b"{}\x1e")
    assert b'"result":3' in answers
    assert client.request("DELETE")[0] == 202


def test_what_a_client_sends_first_is_refused_where_nobody_may_poll(
    connect: Callable[[str], Client],
) -> None:
    reason = b"LongPolling transport not supported by this end point type"
    assert connect("/websockets-hub").request("POST", HANDSHAKE) == (404, reason)
