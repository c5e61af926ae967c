"""hub.js in a real browser, on a page that Django serves, with its static files."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.harness import BOUND, Server

pytestmark = pytest.mark.browser

USED = {"sum": 3, "items": [0, 1, 2], "joined": "abc", "answer": 42}
"""What the page `/hub-page` gets from its hub: a result, a stream, what became of an upload, and
the answer that the page has given itself."""

FAILED = ["WebSocket connection to", "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET"]
"""How Chromium's console says that a connection failed. No page can prevent that."""


@pytest.fixture
def start(serve: Callable[..., Server]) -> Callable[..., Server]:
    """Asked for before a page, so that the servers outlive it."""
    return lambda **options: serve(
        asgi_server="uvicorn-picows",
        ROOT_URLCONF="tests.project.urls",
        WS_SUPPORT={"HUBS": {"ALLOW_STATEFUL_RECONNECTS": True}},
        **options,
    )


@pytest.mark.parametrize("is_stateful", [False, True], ids=["plain", "stateful"])
def test_a_page_uses_a_hub_in_each_way_and_comes_back_when_the_server_is_there_again(
    start: Callable[..., Server], page: Page, expected_errors: list[str], is_stateful: bool
) -> None:
    expected_errors += FAILED
    server = start()
    page.goto(f"{server.origin}/hub-page")
    page.evaluate("(stateful) => start({ stateful })", is_stateful)
    assert page.evaluate("use()") == USED
    server.process.kill()
    server.process.wait(BOUND)
    page.wait_for_function("hub.state === 'Reconnecting'")
    start(port=server.port)
    page.evaluate("back.then(() => true)")
    assert page.evaluate("use()") == USED
