"""The examples of docs/topics-page.md, as a project that a server runs."""

from __future__ import annotations

import re
from urllib.request import urlopen

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import browser, expected_errors, new_page, page  # noqa: F401
from tests.docs.test_examples import (
    _ACCOUNTS,
    assert_its_tests_pass,
    environment_of,
    examples_of,
)
from tests.harness import BOUND, ROOT

NAME = "topics-page.md"
TEXT = (ROOT / "docs" / NAME).read_text(encoding="utf-8")
RENDERED = """
from mysite import rendered
urlpatterns += [path("rendered", rendered.room)]
"""


@pytest.fixture
def server(tmp_path, serve):
    """The modules of the page, and its template, served."""
    directory = tmp_path / "mysite"
    (directory / "templates").mkdir(parents=True)
    template = re.search(r"^```html\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)[1]
    (directory / "templates" / "room.html").write_text(template)
    (directory / "templates" / "rendered.html").write_text("{{ position }}")
    files = {"__init__": "", **examples_of(NAME)}
    files["settings"] = "from tests.project.settings import *\nROOT_URLCONF = 'mysite.urls'\n"
    files["settings"] += _ACCOUNTS
    files["urls"] += RENDERED
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    return serve(
        environment=environment_of(tmp_path),
        ASGI_APPLICATION="mysite.asgi.application",
    )


@pytest.mark.slow
@pytest.mark.browser
def test_the_room_runs_as_it_is(
    server,
    page: Page,  # noqa: F811
    expected_errors,  # noqa: F811
):
    expected_errors.append("404")  # There is no icon.
    page.goto(server.origin)
    expect(page.get_by_role("heading")).to_have_text("Blue")
    expect(page.locator("#people")).to_have_text("1 here")
    page.get_by_role("textbox").fill("Hello")
    page.get_by_role("button").click()
    expect(page.get_by_role("listitem")).to_have_text("Hello")
    urlopen(f"{server.origin}/announce", timeout=BOUND).close()
    expect(page.get_by_role("listitem").last).to_have_text("Lunch is ready")
    with urlopen(f"{server.origin}/rendered", timeout=BOUND) as response:
        assert re.fullmatch(r"2-\d+", response.read().decode())


@pytest.mark.slow
def test_the_tests_of_the_rules_run_as_they_are(tmp_path):
    assert_its_tests_pass(tmp_path, NAME)
