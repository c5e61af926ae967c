"""The hub of topics on real servers: `topics.js` in Node.js, and Microsoft's client."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ASGI_SERVERS, BOUND, Server, free_port, running
from tests.hubs.node import Follower, Node
from tests.test_broadcast import tell

COUNT = 400
"""Messages, of which 100 are published in a second."""

WS_SUPPORT = {
    "ALLOW_MISSING_ORIGIN": True,  # Node.js sends no origin.
    "HUBS": {"KEEP_ALIVE_INTERVAL": 0.2},
    "TOPICS": {
        "room/<str:name>": {
            "history": 1000,
            "presence": True,
            "may_subscribe": True,
            "may_publish": True,
        }
    },
}


@contextmanager
def proxy(directory: Path, port: int, server: Server) -> Iterator[Server]:
    arguments = ["-m", "tests.proxy", str(port), str(server.port)]
    with running(arguments, directory / "proxy.log", port=port, environment={}) as each:
        yield each


def check_that_all_came_once_and_in_order(follower: Follower) -> None:
    assert follower.process.wait(BOUND) == 0, follower.text()
    assert follower.messages == [*(f"{number} " for number in range(COUNT)), "the end"]
    counts = follower.counts()
    assert (counts["subscribed"], counts["gap"], counts["error"]) == (1, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_a_network_that_is_cut_loses_no_message_and_repeats_none(
    serve: Callable[..., Server], follow: Callable[[str], Follower], tmp_path: Path, name: str
) -> None:
    server = serve(asgi_server=name, WS_SUPPORT=WS_SUPPORT)
    port = free_port()
    with server.connect("/topics/publisher") as publisher:
        publisher.recv(BOUND)
        with proxy(tmp_path, port, server) as cut:
            follower = follow(cut.origin)
            follower.wait_for("subscribed", 1)
            tell(publisher, "broadcast many", topic="room/x", count=COUNT, pause=0.01)
            follower.wait_for("message", 20)
            # A network that swallows everything: the client notices, and cannot reach anybody.
            cut.process.send_signal(signal.SIGSTOP)
            assert publisher.recv(BOUND) == "done"
            cut.process.send_signal(signal.SIGCONT)
            follower.wait_for("message", COUNT)
        # One that says so.
        tell(publisher, "broadcast", topic="room/x", text="the end")
        with proxy(tmp_path, port, server):
            check_that_all_came_once_and_in_order(follower)
    assert follower.counts()["recovered"] >= 2


@pytest.mark.slow
def test_a_server_that_is_killed_loses_no_message_that_redis_has(
    serve: Callable[..., Server], redis: Any, follow: Callable[[str], Follower]
) -> None:
    settings = redis.settings("redis", options=WS_SUPPORT)
    one, other = (serve(asgi_server="uvicorn-picows", **settings) for _ in range(2))
    follower = follow(one.origin)
    follower.wait_for("subscribed", 1)
    with other.connect("/topics/publisher") as publisher:
        publisher.recv(BOUND)
        tell(publisher, "broadcast many", topic="room/x", count=COUNT, pause=0.01)
        follower.wait_for("message", 20)
        one.process.kill()
        one.process.wait(BOUND)
        assert publisher.recv(BOUND) == "done"
        tell(publisher, "broadcast", topic="room/x", text="the end")
        serve(asgi_server="uvicorn-picows", port=one.port, **settings)
        check_that_all_came_once_and_in_order(follower)
    assert follower.counts()["recovered"] == 1


def test_a_client_of_microsofts_uses_the_hub_in_both_protocols(
    serve: Callable[..., Server], hub_node: Node
) -> None:
    server = serve(asgi_server="uvicorn-picows", WS_SUPPORT=WS_SUPPORT)
    hub = f"{server.origin}/topics-hub"
    assert hub_node.passed("topics_microsoft.test.js", TOPICS_HUB=hub) == 2
