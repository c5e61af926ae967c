"""Microsoft's client and hub.js with a hub in several processes, which share a Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server, free_port, running
from tests.hubs.node import KINDS, WS_SUPPORT, Clients, Node
from tests.redis import Redis

pytestmark = [pytest.mark.slow, pytest.mark.timeout(450)]

NEW_CONNECTIONS: dict[str, Any] = {"HUB_KEEP_ALIVE": "no", "timeout": 220}
"""Each request gets a connection of its own, and so any process. That takes longer."""

WITH_WORKERS = ["uvicorn-picows"]


@pytest.fixture
def start(redis: Redis, serve: Callable[..., Server]) -> Callable[..., Server]:
    """Start a server that shares the Redis with the others.

    Its coverage is not measured: other tests run the same lines, and with less to do.
    """
    layers = redis.layers()
    return lambda name, **options: serve(
        asgi_server=name, measured=False, CHANNEL_LAYERS=layers, WS_SUPPORT=WS_SUPPORT, **options
    )


@contextmanager
def proxy(directory: Path, servers: list[Server]) -> Iterator[Server]:
    """Run a proxy whose connections go to the servers in turn: no client stays with one."""
    port = free_port()
    targets = [str(each.port) for each in servers]
    arguments = ["-m", "tests.proxy", str(port), *targets]
    with running(arguments, directory / "proxy.log", port=port, environment={}) as each:
        yield each


@pytest.mark.websocket_tracebacks
@pytest.mark.parametrize("name", WITH_WORKERS)
def test_each_behaviour_is_the_same_with_two_workers(
    start: Callable[..., Server], hub_node: Node, name: str
) -> None:
    server = start(name, arguments=("--workers", "2"))
    assert hub_node.passed("hubs.test.js", HUB_SERVER=server.origin, **NEW_CONNECTIONS) > 320


@pytest.mark.websocket_tracebacks
@pytest.mark.parametrize("other", ["daphne"])
def test_each_behaviour_is_the_same_with_two_servers_and_no_sticky_sessions(
    start: Callable[..., Server], hub_node: Node, tmp_path: Path, other: str
) -> None:
    servers = [start("uvicorn-picows"), start(other)]
    with proxy(tmp_path, servers) as each:
        assert hub_node.passed("hubs.test.js", HUB_SERVER=each.origin, **NEW_CONNECTIONS) > 320


def test_a_stateful_reconnect_to_another_server_loses_nothing_and_repeats_nothing(
    start: Callable[..., Server], hub_node: Node
) -> None:
    origins = [start(name).origin for name in ("uvicorn-picows", "granian")]
    # With 10,000 items it takes minutes where all tests run at the same time.
    passed = hub_node.passed(
        "hubs_stateful.test.js", HUB_SERVERS=",".join(origins), HUB_ITEMS=1_000
    )
    assert passed == 3


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_none_of_many_clients_of_each_kind_fails_with_two_workers(
    start: Callable[..., Server], hub_node: Node, name: str
) -> None:
    server = start(name, arguments=("--workers", "2"))
    passed = hub_node.passed(
        "hubs_many.test.js", HUB_SERVER=server.origin, HUB_CLIENTS=50, **NEW_CONNECTIONS
    )
    assert passed == len(KINDS)


@pytest.mark.parametrize("transport", ["WebSockets", "ServerSentEvents", "LongPolling"])
def test_a_rolling_restart_of_two_servers_loses_no_client(
    start: Callable[..., Server], connect: Callable[..., Clients], tmp_path: Path, transport: str
) -> None:
    kinds = [each for each in KINDS if each.startswith(transport)]
    if transport == "WebSockets":
        kinds.append("hub.js")
    servers: list[Any] = [start(name) for name in ("uvicorn-picows", "granian")]
    with proxy(tmp_path, servers) as each:
        clients = connect(each.origin, 10, kinds)
        clients.wait_for("connected")
        for server in servers:
            assert server.stop() == 0
            start(server.name, port=server.port)
        clients.wait_until_all_are_back()
        assert clients.events("closed") == {}
        clients.stop()
