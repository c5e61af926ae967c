"""The page at /room of the example project: a chat with history, and who is here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from example_project.topics import MAX_NAME, MAX_TEXT, RoomTopic
from tests.browser.test_hub_js import FAILED
from tests.browser.test_live import serving_live
from tests.conftest import need_program
from tests.harness import BOUND, Server, free_port
from tests.redis import Redis

pytestmark = [pytest.mark.browser, pytest.mark.long]

TIME = re.compile(r"^\d\d:\d\d$")
SECONDS = r"[\d.]+ s"
MISSING = "Messages may be missing here: the server has not kept them"


class RoomPage:
    """What a user finds on the page."""

    def __init__(self, page: Page, server: Server, room: str = "lobby") -> None:
        self.page = page
        # A short time until a page connects again.
        page.add_init_script("Math.random = () => 0.1")
        self.response = page.goto(f"{server.origin}/room/{room}")
        chat = page.get_by_role("region", name="Chat")
        self.state = chat.get_by_role("status")
        self.name = chat.get_by_label("Your name")
        self.join_button = chat.get_by_role("button", name="Join")
        self.rename_button = chat.get_by_role("button", name="Rename")
        self.text = chat.get_by_label("Message as")
        self.send_button = chat.get_by_role("button", name="Send")
        self.error = chat.get_by_role("alert").filter(visible=True)
        self.log = page.get_by_role("log", name="Chat")
        self.lines = self.log.get_by_role("listitem")
        # Of all messages, and of what the page itself says.
        self.texts = self.lines.locator("[data-field=text]")
        people = page.get_by_role("region", name="Who Is Here")
        self.people_count = people.get_by_role("status")
        self.people = people.locator(".name")
        connection = page.get_by_role("region", name="Connection")
        self.cut_button = connection.get_by_role("button", name="Cut for 10 s")
        self.connect_button = connection.get_by_role("button", name="Connect Now")
        self.shared = connection.get_by_role("switch", name="One socket for all tabs")
        self.process = connection.get_by_text("Server process").locator("+ dd")
        self.connections = connection.get_by_text("Its connections").locator("+ dd")

    def expect_open(self, server: Server | None = None) -> None:
        expect(self.state).to_have_text("Open")
        expect(self.log).to_have_attribute("aria-busy", "false")
        if server is not None:
            expect(self.process).to_have_text(str(server.process.pid))

    def join(self, name: str) -> None:
        self.name.fill(name)
        self.join_button.click()

    def say(self, *texts: str) -> None:
        for text in texts:
            self.text.fill(text)
            self.send_button.click()
            expect(self.text).to_have_value("")

    def expect_texts(self, *texts: str | re.Pattern[str]) -> None:
        expect(self.texts).to_have_text(list(texts))

    def leave(self) -> None:
        """For another page, in the same tab."""
        self.page.goto("about:blank")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_live(tmp_path_factory.mktemp("room")) as server:
        yield server


_numbers = count()


@pytest.fixture
def room() -> str:
    """The name of a room where nobody has been: the server is that of all tests."""
    return f"room-{next(_numbers)}"


@pytest.fixture
def enter(new_page: Callable[..., Page], server: Server, room: str) -> Callable[..., RoomPage]:
    """Open the page in a browser of its own, and join under a name."""

    def enter(name: str, **options: Any) -> RoomPage:
        room_page = RoomPage(new_page(**options), server, room)
        room_page.expect_open(server)
        room_page.join(name)
        return room_page

    return enter


@pytest.fixture
def serve_room(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of a test's own. Asked for before pages, it outlives them."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving_live(tmp_path, **options))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """Not started yet."""
    redis = Redis(need_program("redis-server"), tmp_path)
    yield redis
    redis.stop()


@pytest.fixture
def sockets(page: Page) -> list[WebSocketRoute]:
    """The sockets of the page, through which a test can send as the server does."""
    sockets: list[WebSocketRoute] = []

    def pass_on(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket(re.compile(r"/topics\b"), pass_on)
    return sockets


def publish(socket: WebSocketRoute, room: str, *messages: Any) -> None:
    """Send messages as the server does, with positions far behind those of the history."""
    for number, message in enumerate(messages, start=1_000):
        arguments = [RoomTopic.name(room=room), f"{number}-1", message]
        socket.send(json.dumps({"type": 1, "target": "Message", "arguments": arguments}) + "\x1e")


# The chat


def test_everybody_reads_what_is_said_by_whom_and_when(enter: Callable[..., RoomPage]) -> None:
    ada, grace = enter("Ada"), enter("Grace")
    ada.say("Hello", "Is somebody there?")
    grace.expect_texts("Hello", "Is somebody there?")
    grace.say("Yes")
    for each in (ada, grace):
        each.expect_texts("Hello", "Is somebody there?", "Yes")
        expect(each.lines.locator("strong")).to_have_text(["Ada", "Ada", "Grace"])
        expect(each.lines.locator("time")).to_have_text([TIME] * 3)
    # A name stands once above what somebody says in a row, and is read aloud each time.
    expect(grace.lines.nth(1)).to_have_class("message follows")
    expect(grace.lines.nth(2)).to_have_class("message mine")


def test_whoever_comes_later_reads_what_was_said_before(enter: Callable[..., RoomPage]) -> None:
    enter("Ada").say("one", "two")
    grace = enter("Grace")
    grace.expect_texts("one", "two")
    grace.say("three")
    grace.expect_texts("one", "two", "three")


def test_everybody_sees_who_is_here(enter: Callable[..., RoomPage], server: Server) -> None:
    ada, grace = enter("Ada"), enter("Grace")
    expect(ada.people_count).to_have_text("2 people")
    expect(ada.people).to_have_text(["Ada (you)", "Grace"])
    expect(grace.people).to_have_text(["Ada", "Grace (you)"])
    grace.rename_button.click()
    grace.join("Rear Admiral Hopper")
    expect(ada.people).to_have_text(["Ada (you)", "Rear Admiral Hopper"])
    grace.page.close()
    expect(ada.people).to_have_text(["Ada (you)"])
    expect(ada.people_count).to_have_text("1 person")


def test_whoever_has_no_name_reads_and_is_seen(
    page: Page, server: Server, room: str, enter: Callable[..., RoomPage]
) -> None:
    ada, reader = enter("Ada"), RoomPage(page, server, room)
    ada.say("Hello")
    reader.expect_texts("Hello")
    expect(reader.people).to_have_text(["Ada", "Somebody (you, without a name)"])
    expect(ada.people.last).to_have_text("Somebody (without a name)")
    expect(reader.text).to_be_hidden()


def test_a_name_is_kept_and_is_that_of_all_tabs(enter: Callable[..., RoomPage]) -> None:
    ada = enter("Ada")
    ada.page.reload()
    expect(ada.page.get_by_text("Message as Ada")).to_be_visible()
    tab = ada.page.context.new_page()
    tab.goto(ada.page.url)
    ada.rename_button.click()
    expect(ada.name).to_have_value("Ada")
    expect(ada.name).to_be_focused()
    ada.join("  Countess   Lovelace ")
    expect(tab.get_by_text("Message as Countess Lovelace")).to_be_visible()
    # The tabs of a browser are one person.
    expect(ada.people).to_have_text(["Countess Lovelace (you)"])


def test_html_stays_text(enter: Callable[..., RoomPage]) -> None:
    markup = "<img src=x onerror=alert(1)><b>x</b>"
    ada = enter(markup[:MAX_NAME])
    ada.say(markup)
    ada.expect_texts(markup)
    expect(ada.lines.locator("strong")).to_have_text(markup[:MAX_NAME])
    expect(ada.people).to_have_text([f"{markup[:MAX_NAME]} (you)"])
    expect(ada.page.locator("li img, li b, label b")).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 41, "The name has 41 characters, and 40 are the most."),
        (" ", "The name is empty."),
    ],
    ids=["too long", "empty"],
)
def test_a_name_that_cannot_be_stays_in_its_field_with_the_reason(
    page: Page, server: Server, room: str, name: str, reason: str
) -> None:
    room_page = RoomPage(page, server, room)
    room_page.join(name)
    expect(room_page.error).to_have_text(reason)
    expect(room_page.name).to_have_accessible_description(reason)
    expect(room_page.name).to_be_focused()
    expect(room_page.name).to_have_value(name)
    room_page.join("\N{GRINNING FACE}" * 40)
    expect(room_page.text).to_be_focused()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 501, "The message has 501 characters, and 500 are the most."),
        (" ", "The message is empty."),
        ("\x1c", "The server refuses this message."),
    ],
    ids=["too long", "empty", "empty for Python only"],
)
def test_a_message_that_is_refused_stays_in_its_field_with_the_reason(
    enter: Callable[..., RoomPage], text: str, reason: str
) -> None:
    ada = enter("Ada")
    ada.text.fill(text)
    ada.send_button.click()
    expect(ada.error).to_have_text(reason)
    expect(ada.text).to_have_accessible_description(reason)
    expect(ada.text).to_have_value(text)
    ada.say("\N{GRINNING FACE}" * 500)
    ada.expect_texts("\N{GRINNING FACE}" * 500)
    expect(ada.error).to_have_count(0)


def test_the_page_shows_whatever_code_on_the_server_publishes(
    sockets: list[WebSocketRoute], page: Page, server: Server, room: str
) -> None:
    room_page = RoomPage(page, server, room)
    room_page.expect_open()
    publish(sockets[0], room, "Lunch is ready", {"text": "<b>", "time": 1e99}, None, [1, 2])
    room_page.expect_texts("Lunch is ready", "<b>", "null", "[1,2]")
    expect(room_page.lines.locator("strong")).to_have_text(["The server"] * 4)
    expect(room_page.lines.locator("time")).to_have_count(0)


def test_the_page_keeps_the_newest_300_lines(
    sockets: list[WebSocketRoute], page: Page, server: Server, room: str
) -> None:
    room_page = RoomPage(page, server, room)
    room_page.expect_open()
    publish(sockets[0], room, *(str(number) for number in range(301)))
    expect(room_page.texts.last).to_have_text("300")
    expect(room_page.lines).to_have_count(300)
    expect(room_page.texts.first).to_have_text("1")


# Connections that are lost


def test_after_a_cut_the_missed_messages_come_in_order_and_once(
    enter: Callable[..., RoomPage],
) -> None:
    ada, grace = enter("Ada"), enter("Grace")
    ada.say("before")
    grace.expect_texts("before")
    ada.cut_button.click()
    expect(ada.state).to_have_text("Cut for 10 s")
    expect(ada.process).to_have_text("-")
    grace.say("one", "two", "three")
    ada.text.fill("to nobody")
    ada.send_button.click()
    expect(ada.error).to_have_text("Nothing was sent: there is no connection.")
    ada.connect_button.click()
    ada.expect_open()
    ada.send_button.click()
    missed = re.compile(rf"^3 messages while you were away \({SECONDS}\)$")
    ada.expect_texts("before", missed, "one", "two", "three", "to nobody")
    grace.expect_texts("before", "one", "two", "three", "to nobody")


def test_a_cut_ends_by_itself_and_the_page_says_if_nothing_was_missed(
    page: Page, server: Server, room: str
) -> None:
    page.clock.install()
    room_page = RoomPage(page, server, room)
    room_page.expect_open()
    room_page.cut_button.click()
    expect(room_page.connect_button).to_have_text(re.compile(r"Connect Now\s+\(\d+\)"))
    page.clock.fast_forward(10_000)
    room_page.expect_open()
    room_page.expect_texts(re.compile(rf"^Connected again after {SECONDS}: nothing was missed$"))
    expect(room_page.cut_button).to_be_visible()


def test_after_a_reload_everything_is_there_and_the_page_says_what_is_new(
    enter: Callable[..., RoomPage],
) -> None:
    ada, grace = enter("Ada"), enter("Grace")
    ada.say("one", "two")
    address = ada.page.url
    ada.leave()
    grace.say("three", "four")
    ada.page.goto(address)
    ada.expect_texts("one", "two", "2 messages while you were away", "three", "four")
    ada.page.reload()
    ada.expect_texts("one", "two", "three", "four")


@pytest.mark.slow
def test_without_redis_a_server_that_was_killed_has_lost_the_history_and_the_page_says_so(
    serve_room: Callable[..., Server], page: Page, room: str, expected_errors: list[str]
) -> None:
    expected_errors += FAILED
    port = free_port()
    server = serve_room(port=port)
    ada = RoomPage(page, server, room)
    ada.expect_open(server)
    ada.join("Ada")
    ada.say("before")
    expect(page.get_by_text("in its own memory, so a restart loses it")).to_be_visible()
    server.process.kill()
    expect(ada.state).to_have_text("Lost, reconnecting...")
    server = serve_room(port=port)
    ada.expect_open(server)
    ada.say("after")
    ada.expect_texts("before", MISSING, "after")
    page.reload()
    ada.expect_texts("after")


@pytest.mark.slow
def test_with_redis_the_chat_is_complete_after_the_server_was_killed(
    serve_room: Callable[..., Server],
    new_page: Callable[..., Page],
    redis: Redis,
    room: str,
    expected_errors: list[str],
) -> None:
    expected_errors += FAILED
    redis.start()
    port = free_port()
    server, other = serve_room(redis=redis, port=port), serve_room(redis=redis)
    ada, grace = RoomPage(new_page(), server, room), RoomPage(new_page(), other, room)
    for each, name in ((ada, "Ada"), (grace, "Grace")):
        each.expect_open()
        each.join(name)
    ada.say("before")
    grace.expect_texts("before")
    server.process.kill()
    server.process.wait(BOUND)
    grace.say("meanwhile")
    server = serve_room(redis=redis, port=port)
    ada.expect_open(server)
    missed = re.compile(rf"^1 message while you were away \({SECONDS}\)$")
    ada.expect_texts("before", missed, "meanwhile")
    ada.say("after")
    grace.expect_texts("before", "meanwhile", "after")
    expect(ada.page.get_by_text("Redis keeps the history")).to_be_visible()
    newcomer = RoomPage(new_page(), server, room)
    newcomer.expect_texts("before", "meanwhile", "after")


def test_the_page_says_that_the_server_wants_it_no_more(
    sockets: list[WebSocketRoute], page: Page, server: Server, room: str
) -> None:
    room_page = RoomPage(page, server, room)
    room_page.expect_open()
    sockets[0].send('{"type": 7}\x1e')
    expect(room_page.state).to_have_text("Closed by the server")
    room_page.connect_button.click()
    room_page.expect_open(server)


# Tabs


def test_tabs_share_one_socket_as_soon_as_one_of_them_is_told_to(
    serve_room: Callable[..., Server], page: Page, room: str
) -> None:
    server = serve_room()
    one = RoomPage(page, server, room)
    one.join("Ada")
    two = RoomPage(page.context.new_page(), server, room)
    for each in (one, two):
        expect(each.connections).to_have_text("2")
    one.say("over two sockets")
    one.shared.click()
    for each in (one, two):
        each.expect_open()
        expect(each.shared).to_be_checked()
        expect(each.connections).to_have_text("1")
    two.say("over one")
    for each in (one, two):
        each.expect_texts("over two sockets", "over one")
        expect(each.people).to_have_text(["Ada (you)"])
    two.shared.click()
    for each in (one, two):
        expect(each.shared).not_to_be_checked()
        expect(each.connections).to_have_text("2")
    two.page.close()
    expect(one.connections).to_have_text("1")


# Using it


def test_the_keyboard_is_enough(page: Page, server: Server, room: str) -> None:
    room_page = RoomPage(page, server, room)
    room_page.expect_open()
    for control in (
        page.get_by_role("link", name="Talk to an echo"),
        page.get_by_role("link", name="A background service and broadcasts"),
        page.get_by_role("link", name="A hub: chat and streams"),
        room_page.log,
        room_page.name,
    ):
        page.keyboard.press("Tab")
        expect(control).to_be_focused()
        expect(control).to_have_css("outline-style", "solid")
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    expect(room_page.text).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(room_page.texts.last).to_have_js_property("textContent", "one\ntwo")
    expect(room_page.text).to_have_value("")
    expect(room_page.text).to_be_focused()
    for control in (room_page.send_button, room_page.cut_button):
        page.keyboard.press("Tab")
        expect(control).to_be_focused()
    page.keyboard.press("Enter")
    expect(room_page.state).to_have_text("Cut for 10 s")
    expect(room_page.connect_button).to_be_focused()
    page.keyboard.press("Enter")
    room_page.expect_open()
    expect(room_page.cut_button).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(room_page.shared).to_be_checked()


@pytest.mark.slow
def test_no_text_makes_the_page_scroll_sideways(enter: Callable[..., RoomPage]) -> None:
    ada, grace = enter("A" * MAX_NAME), enter("G" * MAX_NAME)
    ada.say("x" * MAX_TEXT)
    grace.say("x" * MAX_TEXT)
    expect(ada.texts).to_have_count(2)
    for width in (320, 360, 700, 960, 1280):
        ada.page.set_viewport_size({"width": width, "height": 800})
        for element in ("html", ".scroller"):
            needed, there = ada.page.locator(element).evaluate(
                "element => [element.scrollWidth, element.clientWidth]"
            )
            assert needed <= there, f"{element} at {width} pixels"


def test_the_page_allows_only_files_and_sockets_of_its_own_server(
    page: Page, server: Server
) -> None:
    policy = RoomPage(page, server).response.header_value("Content-Security-Policy")
    # The nonce is for the import map.
    policy = re.sub(r" 'nonce-[\w-]{22}'", "", policy)
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "connect-src 'self';" in policy
    assert "unsafe" not in policy
