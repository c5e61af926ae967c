from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import need_program
from tests.harness import BOUND

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=BOUND * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for one module: playwright's loop must not run while tests of asyncio do."""
    # The shell first: without a window, a page takes a third of the processor.
    program = need_program(
        "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def expected_errors() -> list[str]:
    """What the browser's console may say in this test: parts of its messages."""
    return []


@pytest.fixture
def new_page(browser: Browser, expected_errors: list[str]) -> Iterator[Callable[..., Page]]:
    """Open a page in a profile of its own. Fails the test for errors that it did not expect."""
    contexts = []
    errors: list[str] = []

    def open_page(**options: object) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(BOUND * 1000)
        page.on("pageerror", lambda error: errors.append(f"uncaught: {error}"))
        page.on("console", lambda each: errors.append(each.text) if each.type == "error" else None)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [each for each in errors if not any(part in each for part in expected_errors)] == []


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    return new_page()
