"""topics.js in a real browser, on a page that Django serves, with its tags and its static files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.test_hub_js import FAILED
from tests.harness import BOUND, Server
from tests.test_broadcast import tell

pytestmark = pytest.mark.browser

TOPICS = {"room/<str:name>": {"history": 100, "presence": True, "may_publish": True}}
"""Nobody may subscribe: the page has a token."""


@pytest.fixture
def start(serve: Callable[..., Server]) -> Callable[..., Server]:
    """Asked for before a page, so that the servers outlive it."""
    return lambda **options: serve(
        asgi_server="uvicorn-picows",
        ROOT_URLCONF="tests.project.urls",
        WS_SUPPORT={"TOPICS": TOPICS},
        **options,
    )


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start()


@pytest.fixture
def publisher(server: Server) -> Iterator[Any]:
    with server.connect("/topics/publisher") as socket:
        socket.recv(BOUND)
        yield socket


def publish(socket: Any, text: str) -> None:
    tell(socket, "broadcast", topic="room/x", text=text)
    assert socket.recv(BOUND) == "broadcast"


def wait_for(page: Page, kind: str, value: Any) -> None:
    page.wait_for_function(
        "([kind, value]) => events.some(([each, its]) => each === kind && its === value)",
        arg=[kind, value],
    )


def messages(page: Page) -> list[Any]:
    return page.evaluate("events.filter(([type]) => type === 'message').map(([, data]) => data)")


def test_a_page_follows_a_topic_also_over_a_reload(
    server: Server, publisher: Any, page: Page
) -> None:
    page.goto(f"{server.origin}/topics-page")
    wait_for(page, "subscribed", None)
    publish(publisher, "one")
    wait_for(page, "message", "one")
    page.evaluate("room.publish({ two: 2 })")
    page.wait_for_function("events.some(([, data]) => data?.two === 2)")
    page.goto("about:blank")
    for text in ("three", "four"):
        publish(publisher, text)
    page.goto(f"{server.origin}/topics-page")
    wait_for(page, "message", "four")
    assert page.evaluate("events.filter(([type]) => type !== 'presence')") == [
        ["recovered", 2],
        ["message", "three"],
        ["message", "four"],
    ]
    assert page.evaluate("room.history().then(({ messages }) => messages.length)") == 4


def test_pages_see_each_other(server: Server, page: Page, new_page: Callable[..., Page]) -> None:
    page.goto(f"{server.origin}/topics-page")
    wait_for(page, "presence", 1)
    other = new_page()
    other.goto(f"{server.origin}/topics-page?page=two")
    wait_for(page, "presence", 2)
    pages = page.evaluate("room.people.flatMap(({ entries }) => entries.map((each) => each.page))")
    assert sorted(pages) == ["one", "two"]
    assert other.evaluate("room.members().then(({ count }) => count)") == 2
    other.close()
    page.wait_for_function("events.at(-1)[1] === 1")


def test_a_page_hears_of_a_gap_after_a_server_without_its_history(
    start: Callable[..., Server], page: Page, expected_errors: list[str]
) -> None:
    expected_errors += FAILED
    server = start()
    page.goto(f"{server.origin}/topics-page")
    wait_for(page, "subscribed", None)
    server.process.kill()
    server.process.wait(BOUND)
    start(port=server.port)
    page.wait_for_function("events.some(([type]) => type === 'gap')")
    page.evaluate("room.publish('after')")
    wait_for(page, "message", "after")
