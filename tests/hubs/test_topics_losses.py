"""Histories through cut networks, and with a Redis and servers that end and come back."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import browser, expected_errors, new_page, page  # noqa: F401
from tests.browser.test_hub_js import FAILED
from tests.harness import ASGI_SERVERS, BOUND, Server, free_port, running
from tests.hubs.node import Follower
from tests.hubs.test_topics_servers import COUNT, WS_SUPPORT, proxy
from tests.redis import Redis
from tests.test_broadcast import tell

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.websocket_tracebacks]

DEFAULTS = ["daphne", "uvicorn-picows"]
"""The servers of `runserver` and of `runasgi`: every server is in test_topics_servers.py."""

DURABLE = ("--appendonly", "yes", "--appendfsync", "everysec")
"""What a Redis is told that keeps its data on the disk. It writes before it
answers, and syncs later: only a machine that fails loses something."""

RULES: dict[str, Any] = WS_SUPPORT["TOPICS"]["room/<str:name>"]  # type: ignore[index]


@pytest.fixture
def follow_two(follow: Callable[[str], Follower]) -> Callable[[str], list[Follower]]:
    """Start two clients that follow the topic room/x, and wait until they do."""

    def start(origin: str) -> list[Follower]:
        followers = [follow(origin) for _ in range(2)]
        for each in followers:
            each.wait_for("subscribed", 1)
        return followers

    return start


class Publisher:
    """Publishes numbers, 100 in a second."""

    def __init__(self, stack: ExitStack, server: Server, count: int = COUNT) -> None:
        self._socket = stack.enter_context(server.connect("/topics/publisher"))
        self._socket.recv(BOUND)
        self._count = count

    def start(self) -> None:
        tell(self._socket, "broadcast what is taken", topic="room/x", count=self._count, pause=0.01)

    def end(self) -> list[int]:
        """Return the numbers that were refused, once the last one was published."""
        refused: list[int] = json.loads(self._socket.recv(10 * BOUND))
        tell(self._socket, "broadcast", topic="room/x", text="the end")
        return refused


def numbers(follower: Follower) -> list[int]:
    """The numbers that a follower has got, which has heard the end."""
    assert follower.process.wait(BOUND) == 0, follower.text()
    *messages, last = follower.messages
    assert last == "the end"
    return [int(each) for each in messages]


def check_all(followers: list[Follower], count: int = COUNT) -> None:
    """Check that each follower got all numbers, once and in order, and was told of no gap."""
    for each in followers:
        assert numbers(each) == list(range(count))
        counts = each.counts()
        assert (counts["subscribed"], counts["gap"], counts["error"]) == (1, 0, 0)


@pytest.fixture(params=product(ASGI_SERVERS, ["memory", "redis"]), ids="-".join)
def server(request: pytest.FixtureRequest, serve: Callable[..., Server]) -> Server:
    """A server, and where it keeps histories."""
    name, kept = request.param
    options = {**WS_SUPPORT, "TOPICS": {"room/<str:name>": {**RULES, "history": 3000}}}
    settings: dict[str, Any] = {"WS_SUPPORT": options}
    if kept == "redis":
        redis: Redis = request.getfixturevalue("redis")
        settings = redis.settings("redis", options=options)
    return serve(measured=False, asgi_server=name, ROOT_URLCONF="tests.project.urls", **settings)


@pytest.mark.browser
def test_cuts_of_a_tenth_of_a_second_of_two_and_of_twenty_seconds_lose_nothing(
    server: Server,
    follow: Callable[[str], Follower],
    page: Page,  # noqa: F811
    expected_errors: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    """In Node.js, and in a page."""
    expected_errors += FAILED
    with ExitStack() as stack:
        publisher = Publisher(stack, server, 2600)
        cut = stack.enter_context(proxy(tmp_path, free_port(), server))
        follower = follow(cut.origin)
        follower.wait_for("subscribed", 1)
        page.goto(f"{cut.origin}/topics-page")
        page.wait_for_function("events.some(([type]) => type === 'subscribed')")
        publisher.start()
        for seconds in (0.1, 2, 20):
            follower.wait_for("message", follower.counts()["message"] + 20)
            page.wait_for_function(MORE, arg=page.evaluate(MESSAGES))
            cut_for(seconds, cut)
        assert publisher.end() == []
        check_all([follower], 2600)
        page.wait_for_function("events.some(([, data]) => data === 'the end')")
    *received, last = page.evaluate("events.filter(([type]) => type === 'message')")
    assert [int(data) for _, data in received] == list(range(2600))
    assert last == ["message", "the end"]
    others = page.evaluate("events.map(([type]) => type)")
    assert (others.count("subscribed"), others.count("gap"), others.count("error")) == (1, 0, 0)


MESSAGES = "events.filter(([type]) => type === 'message').length"
MORE = f"count => {MESSAGES} >= count + 20"


def cut_for(seconds: float, network: Server) -> None:
    """Have a network swallow everything for a while."""
    network.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    network.process.send_signal(signal.SIGCONT)


def test_a_redis_that_is_killed_and_comes_back_with_its_data_loses_nothing_that_it_took(
    serve: Callable[..., Server],
    follow_two: Callable[[str], list[Follower]],
    redis: Redis,
) -> None:
    redis.stop()
    redis.start(*DURABLE)
    server = serve(
        measured=False, asgi_server="uvicorn-picows", **redis.settings("redis", options=WS_SUPPORT)
    )
    with ExitStack() as stack:
        publisher = Publisher(stack, server)
        followers = follow_two(server.origin)
        publisher.start()
        followers[0].wait_for("message", 50)
        redis.stop(signal.SIGKILL)
        redis.start(*DURABLE)
        refused = set(publisher.end())
        for each in followers:
            received = numbers(each)
            # One that was refused may have been taken before Redis ended.
            assert received == sorted({*received}), "doubles, or no order"
            assert {*range(COUNT)} - refused <= {*received} <= {*range(COUNT)}
            assert each.counts()["gap"] == 0


def test_a_redis_that_comes_back_without_its_data_is_a_gap_and_no_message_is_invented(
    serve: Callable[..., Server], follow_two: Callable[[str], list[Follower]], redis: Redis
) -> None:
    server = serve(
        measured=False, asgi_server="uvicorn-picows", **redis.settings("redis", options=WS_SUPPORT)
    )
    with ExitStack() as stack:
        publisher = Publisher(stack, server)
        followers = follow_two(server.origin)
        publisher.start()
        followers[0].wait_for("message", 50)
        redis.stop(signal.SIGKILL)
        redis.start()
        publisher.end()
        for each in followers:
            received = numbers(each)
            assert received == sorted({*received}), "doubles, or no order"
            assert {*range(50)} <= {*received} <= {*range(COUNT)}
            assert COUNT - 1 in received
            assert each.counts()["gap"] == 1


def test_a_rolling_restart_of_two_servers_loses_nothing(
    serve: Callable[..., Server],
    follow_two: Callable[[str], list[Follower]],
    redis: Redis,
    tmp_path: Path,
) -> None:
    options = redis.settings("redis", options=WS_SUPPORT)
    servers = [serve(measured=False, asgi_server=name, **options) for name in DEFAULTS]
    elsewhere = serve(measured=False, asgi_server="uvicorn-picows", **options)
    port = free_port()
    arguments = ["-m", "tests.proxy", str(port), *(str(each.port) for each in servers)]
    with ExitStack() as stack:
        publisher = Publisher(stack, elsewhere)
        log = tmp_path / "proxy.log"
        both = stack.enter_context(running(arguments, log, port=port, environment={}))
        followers = follow_two(both.origin)
        publisher.start()
        followers[0].wait_for("message", 20)
        for name, server in zip(DEFAULTS, servers, strict=True):
            server.process.terminate()
            server.process.wait(BOUND)
            serve(measured=False, asgi_server=name, port=server.port, **options)
        assert publisher.end() == []
        check_all(followers)
        assert sum(each.counts()["recovered"] for each in followers) >= 2
