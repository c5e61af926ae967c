"""The page at /hub of the example project: a chat, and streams in both directions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.browser.test_demo import FAILED, colours, contrast
from tests.browser.test_live import serving_live
from tests.conftest import need_npm_package
from tests.harness import ASGI_SERVERS, ROOT, Server, free_port

pytestmark = [pytest.mark.browser, pytest.mark.long]

TRANSPORTS = ["WebSockets", "Server-sent events", "Long polling"]
AWAY = [FAILED, "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE"]
"""How Chromium's console says that a server has gone. No page can prevent that."""
LATE = [
    "status of 404",
    "Status code '404'",
    "Cannot send data if the connection is not in the 'Connected' State.",
]
"""The same, of what Microsoft's client sends when it has left: its Close message after an event
stream, items of an upload. Nobody can catch what becomes of those promises."""
CONNECTED_AGAIN = re.compile(r"^Connected again after [\d.]+ s, to process (\d+)$")
VENDORED = ROOT / "example_project" / "static" / "example_project" / "vendor" / "signalr.min.js"


class HubPage:
    """What a user finds on the page."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        # A short time until a page connects again.
        page.add_init_script("Math.random = () => 0.1")
        self.response = page.goto(f"{server.origin}/hub")
        self.state = page.get_by_role("status")
        self.transport = page.get_by_label("Transports to use")
        self.in_use = page.get_by_text("In use", exact=True).locator("+ dd")
        self.process = page.get_by_text("Server process").locator("+ dd")
        self.connection_id = page.get_by_text("Connection id").locator("+ dd")
        self.connect_button = page.get_by_role("button", name="Connect", exact=True)
        self.disconnect_button = page.get_by_role("button", name="Disconnect")
        chat = page.get_by_role("region", name="Chat", exact=True)
        self.name = chat.get_by_label("Your name")
        self.join_button = chat.get_by_role("button", name="Join")
        self.leave_button = chat.get_by_role("button", name="Leave")
        self.text = chat.get_by_label("Message to everybody")
        self.send_button = chat.get_by_role("button", name="Send")
        self.chat_error = chat.get_by_role("alert")
        self.lines = page.get_by_role("log", name="Chat").get_by_role("listitem")
        stream = page.get_by_role("region", name="Stream from the Server")
        self.start_button = stream.get_by_role("button", name="Start")
        self.stop_button = stream.get_by_role("button", name="Stop")
        self.interval = stream.get_by_label("One item each")
        self.plot_words = page.locator("#plotWords")
        self.stream_error = stream.get_by_role("alert")
        upload = page.get_by_role("region", name="Stream to the Server")
        self.numbers = upload.get_by_label("Lines to add up")
        self.file = upload.get_by_label("Or the lines of a file")
        self.upload_button = upload.get_by_role("button", name="Send Lines")
        self.stop_upload_button = upload.get_by_role("button", name="Stop")
        self.sums = upload.locator("dd")
        self.upload_error = upload.get_by_role("alert")
        self.sections = [page.get_by_role("region").nth(index) for index in range(4)]

    def expect_open(self, server: Server, transport: str = "WebSockets") -> None:
        expect(self.state).to_have_text("Open")
        expect(self.in_use).to_have_text(transport)
        expect(self.process).to_have_text(str(server.process.pid))
        expect(self.connection_id).to_have_text(re.compile(r"^[\w-]{24}$"))

    def join(self, name: str) -> None:
        self.name.fill(name)
        self.join_button.click()

    def say(self, text: str) -> None:
        self.text.fill(text)
        self.send_button.click()

    def expect_line(self, *texts: str, place: int = -1) -> None:
        """The last line of the chat, or another one, without its time."""
        parts = self.lines.nth(place).locator("[data-field]:not([data-field=time])")
        expect(parts).to_have_text(list(texts))

    def samples(self) -> int:
        """How many items of the stream the plot shows."""
        found = re.search(r"of the last (\d+)", self.plot_words.inner_text())
        return int(found[1]) if found else 0

    def expect_more_samples(self) -> None:
        before = re.compile(rf"of the last {self.samples()}\)")
        expect(self.plot_words).to_have_text(re.compile("of the last"))
        expect(self.plot_words).not_to_have_text(before)

    def add_up(self, text: str) -> None:
        # Typed in, so many lines would take Chromium minutes.
        self.numbers.evaluate("(field, text) => { field.value = text }", text)
        self.upload_button.click()


def passed_on(page: Page) -> list[WebSocketRoute]:
    """The sockets of the page to the hub, through which a test can send as the server does."""
    sockets: list[WebSocketRoute] = []

    def pass_on(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket("**/chat?*", pass_on)
    return sockets


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_live(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture
def serve_hub(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of a test's own. Asked for before pages, it outlives them: one whose server
    has gone tries to reach it again, which is an error in the browser's console."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving_live(tmp_path, **options))


# The transports


@pytest.mark.slow
@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_everything_works_on_each_server_over_each_transport(
    serve: Callable[..., Server],
    new_page: Callable[..., Page],
    name: str,
    expected_errors: list[str],
) -> None:
    expected_errors += LATE
    server = serve(asgi_server=name, ASGI_APPLICATION="example_project.asgi.application")
    one, two = HubPage(new_page(), server), HubPage(new_page(), server)
    expect(two.state).to_have_text("Open")
    for transport in TRANSPORTS:
        one.transport.select_option(transport)
        expect(one.in_use).to_have_text(transport)
        one.join("Ada")
        two.expect_line("Ada has come")
        one.say(f"Hello by {transport}")
        two.expect_line("Ada", f"Hello by {transport}")
        one.start_button.click()
        one.expect_more_samples()
        one.stop_button.click()
        one.add_up("1\n2\nthree")
        expect(one.sums).to_have_text(["3", "7", "2", "3"])
        one.leave_button.click()
        two.expect_line("Ada has gone")


def test_the_best_transport_is_a_websocket(page: Page, hub: Server) -> None:
    HubPage(page, hub).expect_open(hub)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_menu_chooses_the_transport(page: Page, hub: Server, transport: str) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    before = hub_page.connection_id.inner_text()
    hub_page.transport.select_option(transport)
    expect(hub_page.connection_id).not_to_have_text(before)
    hub_page.expect_open(hub, transport)


def test_a_page_without_websockets_uses_what_is_left(page: Page, hub: Server) -> None:
    page.add_init_script("delete window.WebSocket")
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub, "Server-sent events")


def test_disconnect_and_connect_do_what_they_say(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    hub_page.disconnect_button.click()
    expect(hub_page.state).to_have_text("Disconnected")
    expect(hub_page.in_use).to_have_text("-")
    hub_page.say("to nobody")
    expect(hub_page.chat_error).to_have_text("Nothing was sent: there is no connection.")
    hub_page.connect_button.click()
    hub_page.expect_open(hub)


# The chat


def test_everybody_reads_who_comes_what_they_say_and_who_goes(
    new_page: Callable[..., Page], hub: Server
) -> None:
    one, two = HubPage(new_page(), hub), HubPage(new_page(), hub)
    for each in (one, two):
        each.expect_open(hub)
    one.join("Ada")
    for each in (one, two):
        each.expect_line("Ada has come")
    two.join("Grace")
    for each in (one, two):
        each.expect_line("Grace has come")
    one.say("Hello")
    for each in (one, two):
        each.expect_line("Ada", "Hello")
    two.page.close()
    one.expect_line("Grace has gone")
    one.leave_button.click()
    one.expect_line("Ada has gone")
    expect(one.lines).to_have_count(5)


def test_html_stays_text(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    markup = "<img src=x onerror=alert(1)><b>x</b>"
    hub_page.join(markup)
    hub_page.expect_line(f"{markup} has come")
    hub_page.say(markup)
    hub_page.expect_line(markup, markup)
    expect(hub_page.lines.locator("img, b")).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 41, "The name has 41 characters, and 40 are the most."),
        (" ", "The name is empty."),
    ],
    ids=["too long", "empty"],
)
def test_a_name_that_is_refused_stays_in_its_field_with_the_reason(
    page: Page, hub: Server, name: str, reason: str
) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    hub_page.join(name)
    expect(hub_page.chat_error).to_have_text(reason)
    expect(hub_page.name).to_have_accessible_description(reason)
    expect(hub_page.name).to_be_focused()
    expect(hub_page.name).to_have_value(name)
    hub_page.join("x" * 40)
    hub_page.expect_line("x" * 40 + " has come")
    expect(hub_page.chat_error).to_be_hidden()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 501, "The message has 501 characters, and 500 are the most."),
        (" ", "The message is empty."),
        ("x" * 40_000, "That is too long for a message."),
    ],
    ids=["too long", "empty", "much too long"],
)
def test_a_message_that_is_refused_stays_in_its_field_with_the_reason(
    page: Page, hub: Server, text: str, reason: str
) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    hub_page.join("Ada")
    hub_page.expect_line("Ada has come")
    hub_page.say(text)
    expect(hub_page.chat_error).to_have_text(reason)
    expect(hub_page.text).to_have_accessible_description(reason)
    expect(hub_page.text).to_have_value(text)
    hub_page.say("\N{GRINNING FACE}" * 500)
    hub_page.expect_line("Ada", "\N{GRINNING FACE}" * 500)
    expect(hub_page.chat_error).to_be_hidden()


def test_who_has_not_joined_is_told_to(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    hub_page.say("Hello")
    expect(hub_page.chat_error).to_have_text("Join first: a message needs the name of its sender.")


def test_the_chat_keeps_the_newest_200_lines(page: Page, hub: Server) -> None:
    sockets = passed_on(page)
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    for number in range(201):
        arguments = ["Ada", str(number), "2026-01-01T00:00:00Z"]
        invocation = {"type": 1, "target": "Said", "arguments": arguments}
        sockets[0].send(json.dumps(invocation) + "\x1e")
    hub_page.expect_line("Ada", "200")
    expect(hub_page.lines).to_have_count(200)
    hub_page.expect_line("Ada", "1", place=0)


# The stream from the server


def test_the_stream_is_drawn_until_it_is_stopped(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    hub_page.start_button.click()
    expect(hub_page.plot_words).to_have_text(re.compile(r"^Median [\d.]+ ms, .*of the last \d+"))
    hub_page.expect_more_samples()
    expect(page.locator("#plot .line")).to_have_attribute("d", re.compile(r"^M\d+ .*L"))
    hub_page.stop_button.click()
    expect(hub_page.start_button).to_be_visible()
    # An item may have been under way; what is invoked comes back after it.
    hub_page.join("Ada")
    hub_page.expect_line("Ada has come")
    count = hub_page.samples()
    hub_page.say("Still here?")
    hub_page.expect_line("Ada", "Still here?")
    assert hub_page.samples() == count


def test_an_interval_that_the_hub_refuses_is_told(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    hub_page.interval.evaluate("menu => { menu.selectedOptions[0].value = '0' }")
    hub_page.start_button.click()
    expect(hub_page.stream_error).to_have_text(
        "The interval is 0 s, and has to be from 0.02 to 5 s."
    )
    expect(hub_page.start_button).to_be_visible()


# The stream to the server


def test_numbers_are_added_up(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    hub_page.add_up("1\n2.5\n\nno number\nNaN\n1e999\n-0.5")
    expect(hub_page.sums).to_have_text(["7", "25", "3", "3"])


def test_the_lines_of_a_file_are_added_up(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    content = "".join(f"{number}\r\n" for number in range(10_000))
    hub_page.file.set_input_files(
        {"name": "numbers.txt", "mimeType": "text/plain", "buffer": content.encode()}
    )
    expect(hub_page.numbers).to_have_value(re.compile("9999"))
    hub_page.upload_button.click()
    expect(hub_page.sums).to_have_text(["10,000", "38,890", "10,000", "49,995,000"])
    expect(hub_page.upload_error).to_be_hidden()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1\n" * 10_001, "There are more than 10,000 lines."),
        ("1\n" + "x" * 4_001, "Line 2 has more than 4,000 characters."),
    ],
    ids=["too many", "too long"],
)
def test_lines_that_are_refused_are_told(page: Page, hub: Server, text: str, reason: str) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    hub_page.add_up(text)
    expect(hub_page.upload_error).to_have_text(reason)
    expect(hub_page.numbers).to_have_accessible_description(reason)
    hub_page.add_up("4")
    expect(hub_page.sums).to_have_text(["1", "1", "1", "4"])
    expect(hub_page.upload_error).to_be_hidden()


def test_a_file_that_is_too_large_is_not_read(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.file.set_input_files(
        {"name": "large.txt", "mimeType": "text/plain", "buffer": b"1" * (2**20 + 1)}
    )
    expect(hub_page.upload_error).to_have_text("The file has more than 1 MiB.")


def test_an_upload_can_be_stopped(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    page.evaluate("window.setTimeout = () => {}")  # For which the second line waits.
    hub_page.add_up("1\n2\n3")
    hub_page.stop_upload_button.click()
    expect(hub_page.upload_error).to_have_text("Stopped by the page.")


# A server that stops


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_page_shows_that_its_server_is_restarted_and_goes_on(
    serve_hub: Callable[..., Server],
    new_page: Callable[..., Page],
    expected_errors: list[str],
    transport: str,
) -> None:
    expected_errors += [*AWAY, *LATE]
    port = free_port()
    server = serve_hub(port=port)
    hub_page = HubPage(new_page(), server)
    hub_page.transport.select_option(transport)
    hub_page.expect_open(server, transport)
    hub_page.join("Ada")
    hub_page.start_button.click()
    hub_page.expect_more_samples()
    server.stop()
    expect(hub_page.state).to_have_text("Lost, reconnecting...")
    expect(hub_page.process).to_have_text("-")
    hub_page.expect_line("Connection lost")
    hub_page.say("to nobody")
    expect(hub_page.chat_error).to_have_text("Nothing was sent: there is no connection.")
    server = serve_hub(port=port)
    hub_page.expect_open(server, transport)
    expect(hub_page.lines.get_by_text(CONNECTED_AGAIN)).to_have_text(
        re.compile(f"to process {server.process.pid}$")
    )
    hub_page.expect_line("Ada has come")
    hub_page.send_button.click()
    hub_page.expect_line("Ada", "to nobody")
    hub_page.expect_more_samples()


def test_a_page_that_cannot_connect_goes_on_trying(
    page: Page, hub: Server, expected_errors: list[str]
) -> None:
    expected_errors.append("ERR_FAILED")
    page.route("**/negotiate?*", lambda route: route.abort())
    hub_page = HubPage(page, hub)
    expect(hub_page.state).to_have_text("Not open, trying again...")
    page.unroute("**/negotiate?*")
    hub_page.expect_open(hub)


def test_an_end_that_is_meant_stays_one(page: Page, hub: Server) -> None:
    sockets = passed_on(page)
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    sockets[0].send('{"type": 7}\x1e')
    expect(hub_page.state).to_have_text("Closed by the server")
    hub_page.expect_line("Closed by the server")
    expect(hub_page.connect_button).to_be_visible()


# Using it


def test_the_keyboard_is_enough(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    for control in (
        page.get_by_role("link", name="Talk to an echo"),
        page.get_by_role("link", name="A background service and broadcasts"),
        page.get_by_role("link", name="A room with history"),
        hub_page.transport,
        hub_page.disconnect_button,
        hub_page.name,
    ):
        page.keyboard.press("Tab")
        expect(control).to_be_focused()
        expect(control).to_have_css("outline-style", "solid")
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    hub_page.expect_line("Ada has come")
    expect(hub_page.text).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    text = hub_page.lines.last.locator(".text")
    expect(text).to_have_js_property("textContent", "one\ntwo")
    expect(text).to_have_css("white-space-collapse", "preserve")
    expect(hub_page.text).to_have_value("")
    expect(hub_page.text).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(hub_page.interval).to_be_focused()


def test_the_pages_link_to_each_other(page: Page, hub: Server) -> None:
    page.goto(hub.origin)
    for name, path in (
        ("A hub: chat and streams", "/hub"),
        ("A background service and broadcasts", "/live"),
        ("A room with history", "/room"),
        ("A hub: chat and streams", "/hub"),
        ("A room with history", "/room"),
        ("A background service and broadcasts", "/live"),
        ("Talk to an echo", "/"),
        ("A room with history", "/room"),
        ("Talk to an echo", "/"),
    ):
        page.get_by_role("link", name=name).click()
        expect(page).to_have_url(f"{hub.origin}{path}")


@pytest.mark.slow
def test_the_sections_leave_no_hole(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    for width in (1000, 1280, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        connection, chat, stream, upload = (each.bounding_box() for each in hub_page.sections)
        assert connection["y"] == stream["y"]
        assert connection["x"] == chat["x"]
        assert stream["x"] == upload["x"]
        for above, below in ((connection, chat), (stream, upload)):
            assert 10 < below["y"] - above["y"] - above["height"] < 30
        ends = [each["y"] + each["height"] for each in (chat, upload)]
        assert ends[0] == pytest.approx(ends[1], abs=1)


@pytest.mark.slow
def test_no_text_makes_the_page_scroll_sideways(page: Page, hub: Server) -> None:
    hub_page = HubPage(page, hub)
    hub_page.expect_open(hub)
    hub_page.join("x" * 40)
    hub_page.expect_line("x" * 40 + " has come")
    hub_page.say("x" * 500)
    hub_page.expect_line("x" * 40, "x" * 500)
    hub_page.add_up("1e15\n" * 10_000)
    expect(hub_page.sums.first).to_have_text("10,000")
    for width in (360, 700, 1000, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        for element in ("html", ".scroller"):
            needed, there = page.locator(element).evaluate(
                "element => [element.scrollWidth, element.clientWidth]"
            )
            assert needed <= there, f"{element} at {width} pixels"
        for section in hub_page.sections:
            needed, there = section.evaluate("each => [each.scrollWidth, each.clientWidth]")
            assert needed <= there, f"a section at {width} pixels"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_state_is_readable_and_looks_different(
    new_page: Callable[..., Page], hub: Server, scheme: str
) -> None:
    hub_page = HubPage(new_page(color_scheme=scheme, reduced_motion="reduce"), hub)
    hub_page.expect_open(hub)
    seen = []
    for state in ("ready", "connecting", "open", "bad"):
        hub_page.state.evaluate("(label, state) => { label.dataset.state = state }", state)
        background, text = colours(hub_page.state)
        assert contrast(background, text) >= 4.5
        seen.append(background)
    assert len(set(seen)) == 4


def test_the_page_allows_only_files_and_connections_of_its_own_server(
    page: Page, hub: Server
) -> None:
    policy = HubPage(page, hub).response.header_value("Content-Security-Policy")
    # The nonce is for the import map.
    policy = re.sub(r" 'nonce-[\w-]{22}'", "", policy)
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "connect-src 'self';" in policy
    assert "unsafe" not in policy


def test_a_page_without_its_script_says_so(page: Page, hub: Server) -> None:
    page.route("**/hub.js", lambda route: route.fulfill(content_type="text/javascript", body=""))
    page.goto(f"{hub.origin}/hub")
    expect(page.get_by_text("The script of this page did not load.")).to_be_visible()


# What is not ours


def test_the_vendored_client_is_the_one_that_the_other_tests_use() -> None:
    package = need_npm_package("@microsoft/signalr")
    version = json.loads((package / "package.json").read_text())["version"]
    heading, script = VENDORED.read_text().split("\n", 1)
    assert f"@microsoft/signalr {version}." in heading
    assert f"version {version}," in VENDORED.with_name("LICENSE-signalr.txt").read_text()
    original = (package / "dist" / "browser" / "signalr.min.js").read_text()
    assert script.strip() == original.partition("\n//# sourceMappingURL=")[0].strip()
