"""The pages from static files that have a hash in their names, and no other names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_demo import DemoPage
from tests.browser.test_hub_js import USED
from tests.browser.test_room import RoomPage
from tests.harness import Server, serving, to_its_end

pytestmark = [pytest.mark.browser, pytest.mark.slow]

STORAGES = [
    "django.contrib.staticfiles.storage.ManifestStaticFilesStorage",
    "tests.project.storages.AggregatingStorage",
]


def collect(folder: Path, settings: dict[str, Any]) -> None:
    """Run `collectstatic`, and remove what has no hash in its name."""
    run = to_its_end("collectstatic", "--noinput", settings=settings)
    assert run.returncode == 0, run.stdout + run.stderr
    for name in json.loads((folder / "staticfiles.json").read_text())["paths"]:
        (folder / name).unlink()


@contextmanager
def serving_hashed(
    storage: str, tmp_path_factory: pytest.TempPathFactory, **more: Any
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("static")
    settings: dict[str, Any] = {
        "DEBUG": False,
        "STORAGES": {"staticfiles": {"BACKEND": storage, "OPTIONS": {"location": str(folder)}}},
        **more,
    }
    collect(folder, settings)
    # From there, and from nowhere else.
    settings["STATICFILES_DIRS"] = [str(folder)]
    settings["STATICFILES_FINDERS"] = ["django.contrib.staticfiles.finders.FileSystemFinder"]
    log_file = tmp_path_factory.mktemp("hashed") / "server.log"
    with serving(log_file, asgi_server="uvicorn", **settings) as server:
        yield server


@pytest.fixture(scope="module", params=STORAGES, ids=["manifest", "aggregating"])
def hashed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The demo."""
    application = "example_project.asgi.application"
    with serving_hashed(request.param, tmp_path_factory, ASGI_APPLICATION=application) as server:
        yield server


@pytest.fixture(scope="module", params=STORAGES, ids=["manifest", "aggregating"])
def hashed_project(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The project of the tests, which has a hub where the demo has a page."""
    urls = "tests.project.urls"
    with serving_hashed(request.param, tmp_path_factory, ROOT_URLCONF=urls) as server:
        yield server


@pytest.fixture
def names(page: Page) -> list[str]:
    """Of the static files that the page has asked for."""
    names: list[str] = []
    page.on(
        "request",
        lambda each: names.append(each.url.rpartition("/")[2]) if "/static/" in each.url else None,
    )
    return names


def are_hashed(names: list[str]) -> bool:
    return all(re.fullmatch(r"[\w.]+\.[0-9a-f]{12}\.\w+", name) for name in names)


def test_the_demo_page_works_with_hashed_files_only(
    page: Page, names: list[str], hashed: Server
) -> None:
    demo_page = DemoPage(page, hashed.origin)
    demo_page.connect()
    demo_page.send("Hello")
    expect(demo_page.lines).to_have_count(3)
    # A style sheet and five modules.
    assert len(set(names)) == 6
    assert are_hashed(names), names


def test_the_live_page_works_with_hashed_files_only(
    page: Page, names: list[str], hashed: Server
) -> None:
    page.goto(f"{hashed.origin}/live")
    expect(page.get_by_role("status")).to_have_text(["Open", "Open"])
    # Two style sheets and two modules.
    assert len(set(names)) == 4
    assert are_hashed(names), names


def test_the_hub_page_works_with_hashed_files_only(
    page: Page, names: list[str], hashed: Server
) -> None:
    page.goto(f"{hashed.origin}/hub")
    expect(page.get_by_role("status")).to_have_text("Open")
    # Three style sheets, Microsoft's client, and three modules.
    assert len(set(names)) == 7
    assert are_hashed(names), names


def test_the_room_works_with_hashed_files_only(
    page: Page, names: list[str], hashed: Server
) -> None:
    room_page = RoomPage(page, hashed)
    room_page.join("Ada")
    room_page.say("Hello")
    room_page.expect_texts("Hello")
    # Three style sheets, the two modules of the page, demo_page.js, topics.js and the six that it
    # needs.
    assert len(set(names)) == 13
    assert are_hashed(names), names


def test_a_page_with_a_hub_works_with_hashed_files_only(
    page: Page, names: list[str], hashed_project: Server
) -> None:
    page.goto(f"{hashed_project.origin}/hub-page")
    page.evaluate("start()")
    assert page.evaluate("use()") == USED
    # hub.js, and the three modules that it needs.
    assert len(set(names)) == 4
    assert are_hashed(names), names
