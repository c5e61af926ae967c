"""The page at /live of the example project: a background service, and broadcasts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_demo import FAILED, colours, contrast
from tests.conftest import need_program
from tests.harness import Server, free_port, running
from tests.redis import Redis

pytestmark = [pytest.mark.browser, pytest.mark.long]

TIME = re.compile(r"^\d\d:\d\d:\d\d$")
LOST = re.compile(r"^Lost \(1006\), reconnecting\.\.\.$")


class LivePage:
    """What a user finds on the page."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        # A short time until a page connects again.
        page.add_init_script("Math.random = () => 0.1")
        self.response = page.goto(f"{server.origin}/live")
        ticker = page.get_by_role("region", name="Ticker")
        board = page.get_by_role("region", name="Broadcast", exact=True)
        self.sections = (ticker, board)
        self.states = page.get_by_role("status")
        self.processes = page.get_by_text("Server process").locator("+ dd")
        self.sockets = ticker.get_by_text("To sockets").locator("+ dd")
        self.tick = ticker.get_by_text("Last tick").locator("+ dd")
        self.tick_time = ticker.get_by_text("Sent at").locator("+ dd")
        self.text = board.get_by_label("Message to everybody")
        self.button = board.get_by_role("button", name="Broadcast")
        self.error = board.get_by_role("alert")
        self.messages = page.get_by_role("log", name="Messages").get_by_role("listitem")

    def expect_open(self, server: Server) -> None:
        """On this process, both sockets."""
        expect(self.states).to_have_text(["Open", "Open"])
        expect(self.processes).to_have_text([str(server.process.pid)] * 2)

    def send(self, text: str) -> None:
        self.text.fill(text)
        self.button.click()
        expect(self.button).to_be_enabled()

    def send_answered_with(self, status: int, text: str) -> None:
        with self.page.expect_response("**/live/send") as answer:
            self.send(text)
        assert answer.value.status == status

    def expect_message(self, text: str, server: Server, place: int = 0) -> None:
        """`place` 0 is the newest. The process is the one of this server."""
        parts = self.messages.nth(place).locator("[data-field]")
        expect(parts).to_have_text([text, str(server.process.pid), TIME])


def serving_live(
    directory: Path, *, redis: Redis | None = None, port: int | None = None
) -> AbstractContextManager[Server]:
    """The example project in one process."""
    port = port or free_port()
    settings: dict[str, Any] = {"DJANGO_SETTINGS_MODULE": "example_project.settings"}
    settings["REDIS_URL"] = "" if redis is None else f"redis://127.0.0.1:{redis.port}"
    return running(
        ["manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"],
        directory / f"server-{port}.log",
        port=port,
        environment=settings,
    )


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_live(tmp_path_factory.mktemp("live")) as server:
        yield server


@pytest.fixture
def serve_live(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of a test's own. Asked for before pages, it outlives them: one whose server
    has gone tries to reach it again, which is an error in the browser's console."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving_live(tmp_path, **options))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """Not started yet."""
    redis = Redis(need_program("redis-server"), tmp_path)
    yield redis
    redis.stop()


# The background service


def test_ticks_arrive_and_count_the_sockets_of_both_pages(
    new_page: Callable[..., Page], live: Server
) -> None:
    one, two = LivePage(new_page(), live), LivePage(new_page(), live)
    for page in (one, two):
        page.expect_open(live)
        expect(page.tick).to_have_text(re.compile(r"^\d+$"))
        expect(page.tick_time).to_have_text(TIME)
        expect(page.sockets).to_have_text("2")
    first = one.tick.inner_text()
    expect(one.tick).not_to_have_text(first)
    assert int(one.tick.inner_text()) > int(first)
    two.page.close()
    expect(one.sockets).to_have_text("1")


# Broadcasts


def test_a_broadcast_from_one_page_appears_on_both(
    new_page: Callable[..., Page], live: Server
) -> None:
    one, two = LivePage(new_page(), live), LivePage(new_page(), live)
    for page in (one, two):
        page.expect_open(live)
        expect(page.messages).to_have_count(0)
    one.send("the first")
    two.expect_message("the first", live)
    expect(one.text).to_have_value("")
    two.send("the second")
    for page in (one, two):
        page.expect_message("the second", live, place=0)
        page.expect_message("the first", live, place=1)


@pytest.mark.slow
def test_pages_on_two_processes_see_the_messages_of_both(
    serve_live: Callable[..., Server], new_page: Callable[..., Page], redis: Redis
) -> None:
    redis.start()
    server_1, server_2 = serve_live(redis=redis), serve_live(redis=redis)
    one, two = LivePage(new_page(), server_1), LivePage(new_page(), server_2)
    one.expect_open(server_1)
    two.expect_open(server_2)
    expect(one.sockets).to_have_text("1")
    one.send("from one")
    two.expect_message("from one", server_1)
    two.send("from two")
    for page in (one, two):
        page.expect_message("from two", server_2, place=0)
        page.expect_message("from one", server_1, place=1)


def test_html_stays_text(page: Page, live: Server) -> None:
    live_page = LivePage(page, live)
    live_page.expect_open(live)
    markup = "<img src=x onerror=alert(1)><b>bold</b>"
    live_page.send(markup)
    live_page.expect_message(markup, live)
    expect(live_page.messages.locator("img, b")).to_have_count(0)


def test_the_list_keeps_the_newest_100(page: Page, live: Server) -> None:
    page.route_web_socket(
        "**/live/board",
        lambda socket: [
            socket.send(f'{{"text": "{number}", "pid": 1, "time": "2026-01-01T00:00:00Z"}}')
            for number in range(101)
        ],
    )
    live_page = LivePage(page, live)
    expect(live_page.messages.first).to_contain_text("100")
    expect(live_page.messages).to_have_count(100)
    expect(live_page.messages.last.locator("[data-field=text]")).to_have_text("1")


# What goes wrong


def test_the_page_says_that_its_server_has_gone_and_recovers_when_it_is_back(
    serve_live: Callable[..., Server], new_page: Callable[..., Page], expected_errors: list[str]
) -> None:
    expected_errors += [FAILED, "ERR_CONNECTION_REFUSED"]
    port = free_port()
    server = serve_live(port=port)
    live_page = LivePage(new_page(), server)
    live_page.expect_open(server)
    server.process.kill()
    expect(live_page.states).to_have_text([LOST, LOST])
    expect(live_page.processes).to_have_text(["-", "-"])
    live_page.send("to nobody")
    expect(live_page.error).to_have_text("Nothing was sent: the server does not answer.")
    server = serve_live(port=port)
    live_page.expect_open(server)
    live_page.button.click()
    live_page.expect_message("to nobody", server)
    expect(live_page.error).to_be_hidden()


def test_a_post_without_the_token_is_refused_with_403(page: Page, live: Server) -> None:
    live_page = LivePage(page, live)
    live_page.expect_open(live)
    answer = page.request.post(f"{live.origin}/live/send", form={"text": "forged"})
    assert answer.status == 403
    live_page.send("genuine")
    live_page.expect_message("genuine", live)
    expect(live_page.messages).to_have_count(1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 501, "The text has 501 characters, and 500 are the most."),
        (" ", "There is no text to send."),
    ],
    ids=["too long", "empty"],
)
def test_a_text_that_is_refused_with_400_stays_in_its_field_with_the_reason(
    page: Page, live: Server, expected_errors: list[str], text: str, reason: str
) -> None:
    expected_errors.append("status of 400")
    live_page = LivePage(page, live)
    live_page.expect_open(live)
    live_page.send_answered_with(400, text)
    expect(live_page.error).to_have_text(reason)
    expect(live_page.text).to_have_accessible_description(reason)
    expect(live_page.text).to_have_value(text)
    live_page.send_answered_with(204, "\N{GRINNING FACE}" * 500)
    live_page.expect_message("\N{GRINNING FACE}" * 500, live)
    expect(live_page.error).to_be_hidden()
    expect(live_page.messages).to_have_count(1)


@pytest.mark.slow
def test_a_text_is_refused_with_503_while_redis_is_away_and_taken_when_it_is_back(
    serve_live: Callable[..., Server], page: Page, redis: Redis, expected_errors: list[str]
) -> None:
    expected_errors.append("status of 503")
    server = serve_live(redis=redis)
    live_page = LivePage(page, server)
    live_page.expect_open(server)
    live_page.send_answered_with(503, "Hello?")
    expect(live_page.error).to_have_text(
        "Not sent, or not to everybody: the channel layer is away."
    )
    redis.start()
    server.wait_for_log("The channel layer is back")
    live_page.button.click()
    live_page.expect_message("Hello?", server)
    live_page.expect_open(server)


def test_a_page_whose_sockets_are_refused_says_so(
    page: Page, live: Server, expected_errors: list[str]
) -> None:
    expected_errors.append(FAILED)
    page.add_init_script("""
        window.WebSocket = class extends WebSocket {
            constructor(url) { super(`${url}-which-is-nowhere`); }
        };
    """)
    live_page = LivePage(page, live)
    expect(live_page.states).to_have_text(["Not open, trying again..."] * 2)
    expect(live_page.states).to_have_text(["Closed (1006). Reload the page to try again."] * 2)


# Using it


def test_the_keyboard_is_enough(page: Page, live: Server) -> None:
    live_page = LivePage(page, live)
    live_page.expect_open(live)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Talk to an echo")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="A hub: chat and streams")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="A room with history")).to_be_focused()
    page.keyboard.press("Tab")
    expect(live_page.text).to_be_focused()
    expect(live_page.text).to_have_css("outline-style", "solid")
    for text, keys in (("typed", ["Enter"]), ("with the button", ["Tab", "Enter"])):
        page.keyboard.type(text)
        for key in keys:
            page.keyboard.press(key)
        live_page.expect_message(text, live)
        expect(live_page.text).to_have_value("")
        expect(live_page.text).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("log")).to_be_focused()


def test_enter_with_shift_starts_a_new_line(page: Page, live: Server) -> None:
    live_page = LivePage(page, live)
    live_page.expect_open(live)
    live_page.text.focus()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    text = page.get_by_text("one")
    expect(text).to_be_visible()
    assert text.text_content() == "one\ntwo"
    expect(text).to_have_css("white-space-collapse", "preserve")


@pytest.mark.slow
def test_the_sections_leave_no_hole(page: Page, live: Server) -> None:
    live_page = LivePage(page, live)
    for width in (1000, 1280, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        one, other = (section.bounding_box() for section in live_page.sections)
        main = page.get_by_role("main").bounding_box()
        assert one["x"] == main["x"]
        assert one["y"] == other["y"]
        assert other["x"] + other["width"] == pytest.approx(main["x"] + main["width"], abs=1)


@pytest.mark.slow
def test_no_text_makes_the_page_scroll_sideways(page: Page, live: Server) -> None:
    live_page = LivePage(page, live)
    live_page.expect_open(live)
    live_page.send("x" * 500)
    live_page.expect_message("x" * 500, live)
    for width in (360, 700, 1000, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        for element in ("html", ".scroller"):
            needed, there = page.locator(element).evaluate(
                "element => [element.scrollWidth, element.clientWidth]"
            )
            assert needed <= there, f"{element} at {width} pixels"


@pytest.mark.slow
def test_on_a_phone_the_message_stands_below_its_hint(page: Page, live: Server) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    live_page = LivePage(page, live)
    live_page.expect_open(live)
    hint = page.get_by_text("Shift + Enter").bounding_box()
    text, button = live_page.text.bounding_box(), live_page.button.bounding_box()
    assert hint["y"] + hint["height"] <= text["y"]
    assert text["y"] == button["y"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_state_is_readable_and_looks_different(
    new_page: Callable[..., Page], live: Server, scheme: str
) -> None:
    page = new_page(color_scheme=scheme, reduced_motion="reduce")
    live_page = LivePage(page, live)
    live_page.expect_open(live)
    label = live_page.states.first
    seen = []
    for state in ("connecting", "open", "bad"):
        label.evaluate("(label, state) => { label.dataset.state = state }", state)
        background, text = colours(label)
        assert contrast(background, text) >= 4.5
        seen.append(background)
    assert len(set(seen)) == 3


def test_the_page_allows_only_files_and_sockets_of_its_own_server(page: Page, live: Server) -> None:
    policy = LivePage(page, live).response.header_value("Content-Security-Policy")
    # The nonce is for the import map.
    policy = re.sub(r" 'nonce-[\w-]{22}'", "", policy)
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "connect-src 'self';" in policy
    assert "unsafe" not in policy
