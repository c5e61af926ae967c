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


# Tabs that share a connection


@pytest.fixture(
    params=["worker", "locks", pytest.param("no worker allowed", marks=pytest.mark.slow)]
)
def way(request: pytest.FixtureRequest) -> str:
    """What has the connection: a shared worker, or the tab that holds a lock."""
    return request.param


@pytest.fixture
def new_tab(
    way: str, page: Page, server: Server, expected_errors: list[str]
) -> Callable[..., Page]:
    """Open a tab of one browser, which shares the connection of the others."""
    if way == "locks":
        page.context.add_init_script("delete window.SharedWorker")
    elif way == "no worker allowed":
        expected_errors.append("Content Security Policy")

    query = "shared&no-worker" if way == "no worker allowed" else "shared"

    def open_tab() -> Page:
        tab = page.context.new_page()
        tab.set_default_timeout(BOUND * 1000)
        tab.goto(f"{server.origin}/topics-page?{query}")
        tab.wait_for_function("events.some(([type]) => type === 'subscribed')")
        return tab

    return open_tab


def connections(server: Server) -> int:
    return len(server.events("connected", "/topics-hub"))


def test_ten_tabs_have_one_connection_and_each_gets_everything_once(
    server: Server, publisher: Any, new_tab: Callable[..., Page]
) -> None:
    tabs = [new_tab() for _ in range(10)]
    assert connections(server) == 1
    for number in range(20):
        publish(publisher, str(number))
    for tab in tabs:
        wait_for(tab, "message", "19")
        assert messages(tab) == [str(number) for number in range(20)]
    assert tabs[3].evaluate("room.publish('hi').then(() => true)")
    for tab in tabs:
        wait_for(tab, "message", "hi")
    assert [tab.evaluate("room.people.length") for tab in tabs] == [1] * 10
    assert connections(server) == 1


def test_the_tab_that_leads_is_closed_without_a_lost_message(
    server: Server, publisher: Any, new_tab: Callable[..., Page], way: str
) -> None:
    first, *others = [new_tab() for _ in range(3)]
    tell(publisher, "broadcast many", topic="room/x", count=200, pause=0.005)
    for tab in others:
        wait_for(tab, "message", "20 ")
    first.close()
    assert publisher.recv(BOUND) == "done"
    others[0].close()
    publish(publisher, "the end")
    wait_for(others[1], "message", "the end")
    assert messages(others[1]) == [*(f"{number} " for number in range(200)), "the end"]
    assert others[1].evaluate("events.filter(([type]) => type === 'gap').length") == 0
    # A worker stays; else the next tab has connected, and the one after it.
    assert connections(server) == (1 if way == "worker" else 3)


def test_a_tab_that_comes_later_goes_on_where_it_was_and_disturbs_nobody(
    server: Server, publisher: Any, new_tab: Callable[..., Page]
) -> None:
    one, other = new_tab(), new_tab()
    publish(publisher, "before")
    wait_for(other, "message", "before")
    address = other.url
    other.goto("about:blank")
    for text in ("missed", "missed too"):
        publish(publisher, text)
    other.goto(address)
    wait_for(other, "message", "missed too")
    assert other.evaluate("events.filter(([type]) => type !== 'presence')") == [
        ["recovered", 2],
        ["message", "missed"],
        ["message", "missed too"],
    ]
    publish(publisher, "after")
    for tab in (one, other):
        wait_for(tab, "message", "after")
    assert messages(one) == ["before", "missed", "missed too", "after"]
    assert connections(server) == 1


def test_the_only_tab_is_loaded_again(publisher: Any, new_tab: Callable[..., Page]) -> None:
    tab = new_tab()
    for number in range(3):
        publish(publisher, str(number))
        wait_for(tab, "message", str(number))
        tab.reload()
        tab.wait_for_function("events.some(([type]) => type === 'recovered')")
    publish(publisher, "after")
    wait_for(tab, "message", "after")


def test_tabs_come_back_together_when_the_server_does(
    start: Callable[..., Server],
    server: Server,
    new_tab: Callable[..., Page],
    expected_errors: list[str],
) -> None:
    expected_errors += FAILED
    tabs = [new_tab() for _ in range(2)]
    server.process.kill()
    server.process.wait(BOUND)
    again = start(port=server.port)
    for tab in tabs:
        tab.wait_for_function("events.some(([type]) => type === 'gap')")
    tabs[0].evaluate("topics.publish('room/x', 'hello')")
    for tab in tabs:
        wait_for(tab, "message", "hello")
    assert connections(again) == 1


def test_the_connection_ends_with_the_last_tab(
    server: Server, new_tab: Callable[..., Page]
) -> None:
    tabs = [new_tab() for _ in range(2)]
    tabs[0].evaluate("topics.stop()")
    tabs[0].wait_for_function("topics.state === 'Disconnected'")
    tabs[0].evaluate("topics.reconnect()")
    tabs[0].wait_for_function("events.some(([type]) => type === 'recovered')")
    for tab in tabs:
        tab.close()
    for _ in range(connections(server)):
        server.wait_for_event("disconnected", "/topics-hub")
