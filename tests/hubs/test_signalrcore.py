"""signalrcore, a client in Python by others, with a hub on a real server.

It negotiates in version 0, and speaks HTTP and WebSockets by itself, on raw sockets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import pytest
from signalrcore.hub.base_hub_connection import BaseHubConnection
from signalrcore.hub_connection_builder import HubConnectionBuilder
from signalrcore.subject import Subject
from signalrcore.types import HttpTransportType, HubProtocolEncoding

from tests.harness import BOUND, Server

PINGING = "/pinging-hub"
REFUSED = "An unexpected error occurred invoking 'Refuse' on the server. HubException: Not now"


@contextmanager
def signalrcore(server: Server, transport: str, encoding: str) -> Iterator[BaseHubConnection]:
    """A connected client. When it stops, it waits for a message of the server."""
    options = {"transport": HttpTransportType(transport), "headers": {"X-Tenant": "blue"}}
    builder = HubConnectionBuilder().with_url(f"{server.origin}{PINGING}", options)
    builder.with_hub_protocol(HubProtocolEncoding(encoding))
    connection = builder.build()
    opened: Queue[None] = Queue()
    connection.on_open(lambda: opened.put(None))
    connection.start()
    opened.get(timeout=BOUND)
    try:
        yield connection
    finally:
        connection.stop()


def invoke(connection: BaseHubConnection, method: str, *arguments: Any) -> Any:
    """Return the result of a method."""
    results: Queue[Any] = Queue()
    connection.invoke(method, list(arguments), results.put)
    return results.get(timeout=BOUND).result


@pytest.mark.parametrize(
    ("transport", "encoding"),
    [("WebSockets", "Text"), ("WebSockets", "Binary"), ("ServerSentEvents", "Text")],
)
def test_signalrcore_invokes_and_streams_and_is_told(
    hub_server: Server, transport: str, encoding: str
) -> None:
    with signalrcore(hub_server, transport, encoding) as connection:
        heard: Queue[Any] = Queue()
        errors: Queue[Any] = Queue()
        connection.on("Told", heard.put)
        connection.on_error(errors.put)

        assert invoke(connection, "Add", 1, 2) == 3
        assert invoke(connection, "Header", "X-Tenant") == "blue"
        assert invoke(connection, "Who")["transport"] == transport

        connection.invoke("Refuse", [])
        assert errors.get(timeout=BOUND).error == REFUSED

        items: Queue[Any] = Queue()
        callbacks = {"next": items.put, "complete": items.put, "error": items.put}
        connection.stream("CounterOnDemand", [3]).subscribe(callbacks)
        connection.invoke("Go", [])
        assert [items.get(timeout=BOUND) for _ in range(3)] == [0, 1, 2]
        assert items.get(timeout=BOUND).error is None

        connection.invoke("Tell", ["caller", [], "hello"])
        assert heard.get(timeout=BOUND) == ["hello"]

        if encoding == "Text":  # With MessagePack, it cannot write uploads.
            parts = Subject()
            connection.invoke("JoinAndTell", parts)
            for part in ("a", "b", "c"):
                parts.next(part)
            parts.complete()
            assert heard.get(timeout=BOUND) == ["abc"]
    assert hub_server.wait_for_event("on_disconnected()", PINGING)["error"] is None


def test_signalrcore_invokes_over_long_polling(hub_server: Server) -> None:
    # It takes one message from each answer. It has no polls with MessagePack.
    with signalrcore(hub_server, "LongPolling", "Text") as connection:
        assert invoke(connection, "Add", 1, 2) == 3
        # As its first request, the POST of its handshake, has it: its polls have no headers.
        assert invoke(connection, "Header", "X-Tenant") == "blue"
        assert invoke(connection, "Who")["transport"] == "LongPolling"
    assert hub_server.wait_for_event("on_disconnected()", PINGING)["error"] is None
