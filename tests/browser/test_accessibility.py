"""What axe-core finds on the demo's pages, in each of their states and in both colour schemes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_demo import DemoPage
from tests.browser.test_hub import HubPage
from tests.browser.test_live import LivePage, serving_live
from tests.browser.test_room import RoomPage
from tests.conftest import need_npm_package
from tests.harness import Server, free_port

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def axe() -> str:
    return (need_npm_package("axe-core") / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_live(tmp_path_factory.mktemp("live")) as server:
        yield server


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, new_page: Callable[..., Page]) -> Page:
    return new_page(color_scheme=request.param, reduced_motion="reduce", bypass_csp=True)


def violations(page: Page, axe: str) -> list[str]:
    page.evaluate(axe)
    results: dict[str, Any] = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    assert len(results["passes"]) > 20
    return [
        f"{found['id']}: {node['html']}"
        for found in results["violations"]
        for node in found["nodes"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_the_demo_page_is_accessible_from_the_start_to_the_end(
    page: Page, demo: Server, axe: str, width: int, expected_errors: list[str]
) -> None:
    expected_errors += ["WebSocket connection to"]
    page.set_viewport_size({"width": width, "height": 800})
    demo_page = DemoPage(page, demo.origin)
    assert violations(page, axe) == []
    demo_page.connect()
    demo_page.send("Hello")
    expect(demo_page.lines).to_have_count(3)
    expect(page.locator("#plotWords")).to_contain_text("Median")
    assert violations(page, axe) == []
    page.get_by_role("button", name="Cut Connection").click()
    expect(demo_page.lines.last).to_contain_text("Connection opened again")
    assert violations(page, axe) == []
    demo_page.close()
    demo_page.url.fill(f"ws://127.0.0.1:{free_port()}/ws")
    demo_page.connect_button.click()
    expect(demo_page.state).to_have_text("Reconnecting...")
    assert violations(page, axe) == []
    # By itself, since axe may take so long that the page has given up.
    page.evaluate("document.querySelector('#closeButton').click()")
    expect(demo_page.state).to_have_text(re.compile("Closed"))
    demo_page.url.fill("nonsense")
    demo_page.connect_button.click()
    assert violations(page, axe) == []


def test_the_live_page_is_accessible(page: Page, live: Server, axe: str) -> None:
    live_page = LivePage(page, live)
    live_page.expect_open(live)
    live_page.send("Hello")
    live_page.expect_message("Hello", live)
    assert violations(page, axe) == []


def test_the_hub_page_is_accessible(page: Page, live: Server, axe: str) -> None:
    hub_page = HubPage(page, live)
    hub_page.expect_open(live)
    assert violations(page, axe) == []
    hub_page.join("Ada")
    hub_page.expect_line("Ada has come")
    hub_page.say("Hello")
    hub_page.expect_line("Ada", "Hello")
    hub_page.say(" ")
    expect(hub_page.chat_error).to_be_visible()
    hub_page.start_button.click()
    hub_page.expect_more_samples()
    hub_page.add_up("1")
    expect(hub_page.sums).to_have_text(["1", "1", "1", "1"])
    assert violations(page, axe) == []


@pytest.mark.parametrize("width", [320, 1280])
def test_the_room_is_accessible(
    page: Page, new_page: Callable[..., Page], live: Server, axe: str, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    room = f"axe-{width}-{page.evaluate('matchMedia(`(prefers-color-scheme: dark)`).matches')}"
    ada, grace = (RoomPage(each, live, room) for each in (page, new_page()))
    ada.expect_open()
    assert violations(page, axe) == []
    ada.join(" ")
    expect(ada.error).to_be_visible()
    assert violations(page, axe) == []
    ada.join("Ada")
    grace.join("Grace")
    ada.say("one", "two")
    grace.say("three")
    expect(ada.people).to_have_count(2)
    ada.cut_button.click()
    grace.say("four")
    ada.text.fill("five")
    ada.send_button.click()
    expect(ada.error).to_be_visible()
    assert violations(page, axe) == []
    # axe may take so long that the connection is back by itself.
    page.evaluate("document.querySelector('[data-state=reconnecting]') && connectionButton.click()")
    expect(ada.texts).to_have_count(5)
    assert violations(page, axe) == []


def test_axe_finds_what_is_wrong(page: Page, demo: Server, axe: str) -> None:
    page.goto(demo.origin)
    page.evaluate("document.querySelector('label').remove()")
    found = violations(page, axe)
    assert any(each.startswith("label: ") for each in found), json.dumps(found)
