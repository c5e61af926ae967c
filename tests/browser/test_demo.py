"""The demo page, as its users see it: in a real browser, from a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.harness import Server, free_port, until

pytestmark = [pytest.mark.browser, pytest.mark.long]

LIMIT = 1024 * 1024
NEVER_OPENED = "The connection never opened"
FAILED = "WebSocket connection to"
"""How Chromium's console begins to say that a connection failed. No page can prevent that."""


class DemoPage:
    """What a user finds on the page."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.response = page.goto(origin)
        self.state = page.get_by_role("status")
        self.url = page.get_by_label("WebSocket Server URL")
        self.connect_button = page.get_by_role("button", name="Connect", exact=True)
        self.close_button = page.get_by_role("button", name="Close Socket")
        self.message = page.get_by_label("Message to send")
        self.send_button = page.get_by_role("button", name="Send", exact=True)
        self.file = page.get_by_label("File to send")
        self.send_file_button = page.get_by_role("button", name="Send File")
        self.subprotocols = page.get_by_label("Sub-protocols")
        self.reconnect = page.get_by_label("Reconnect", exact=True)
        self.cut_button = page.get_by_role("button", name="Cut Connection")
        self.retry_button = page.get_by_role("button", name="Try Now")
        self.countdown = page.locator("#countdown")
        self.close_code = page.get_by_label("Close code")
        self.close_reason = page.get_by_label("Reason", exact=True)
        self.plot = page.get_by_role("img")
        self.download_button = page.get_by_role("button", name="Download as JSON")
        self.log = page.get_by_role("group", name="Communication Log")
        self.lines = page.locator("#commsLog").get_by_role("row")
        self.live_link = page.get_by_role("link", name="A background service and broadcasts")
        self.hub_link = page.get_by_role("link", name="A hub: chat and streams")
        self.room_link = page.get_by_role("link", name="A room with history")

    def connect(self, url: str | None = None) -> None:
        if url is not None:
            self.url.fill(url)
        self.connect_button.click()
        expect(self.state).to_have_text("Open")

    def connect_once(self, url: str | None = None) -> None:
        """Without a way back."""
        self.reconnect.uncheck()
        self.connect(url)

    def close(self) -> None:
        self.close_button.click()
        expect(self.state).to_have_text("Closed")

    def send(self, text: str) -> None:
        self.message.fill(text)
        self.send_button.click()

    def send_file(self, content: bytes) -> None:
        self.file.set_input_files(
            {"name": "some.bin", "mimeType": "application/octet-stream", "buffer": content}
        )
        self.send_file_button.click()

    def send_quickly(self, count: int) -> None:
        self.page.evaluate(
            "count => { while (count--) document.querySelector('#sendButton').click() }", count
        )

    def cells(self, line: int) -> Locator:
        return self.lines.nth(line).get_by_role("cell")

    def counted(self, what: str) -> Locator:
        return self.page.get_by_text(what, exact=True).locator("+ dd")


@pytest.fixture
def demo_page(page: Page, demo: Server) -> DemoPage:
    return DemoPage(page, demo.origin)


@pytest.fixture
def sockets(page: Page) -> Page:
    """A page that keeps its sockets in the list `sockets`."""
    page.add_init_script("""
        window.sockets = [];
        window.WebSocket = class extends WebSocket {
            constructor(...options) { super(...options); window.sockets.push(this); }
        };
    """)
    return page


# What the sample has


def test_the_page_starts_ready_to_connect(demo_page: DemoPage, demo: Server) -> None:
    expect(demo_page.state).to_have_text("Ready to connect...")
    expect(demo_page.url).to_have_value(demo.url("/ws"))
    expect(demo_page.url).to_be_enabled()
    expect(demo_page.connect_button).to_be_enabled()
    for control in (
        demo_page.message,
        demo_page.send_button,
        demo_page.file,
        demo_page.send_file_button,
        demo_page.close_button,
        demo_page.close_code,
        demo_page.close_reason,
        demo_page.cut_button,
        demo_page.download_button,
    ):
        expect(control).to_be_disabled()
    expect(demo_page.retry_button).to_be_hidden()
    expect(demo_page.reconnect).to_be_checked()
    expect(demo_page.lines).to_have_count(0)
    expect(demo_page.page.get_by_role("columnheader")).to_have_text(
        ["Time", "From", "To", "Data", "Type", "Size", "Round trip"]
    )


def test_the_url_is_wss_when_the_page_came_by_https(page: Page, demo: Server) -> None:
    def answer(route: Route) -> None:
        route.fulfill(response=route.fetch(url=demo.origin + urlsplit(route.request.url).path))

    page.route("https://demo.test/**", answer)
    demo_page = DemoPage(page, "https://demo.test/")
    expect(demo_page.url).to_have_value("wss://demo.test/ws")


def test_an_open_socket_enables_the_messages_and_disables_connect(demo_page: DemoPage) -> None:
    demo_page.connect()
    for control in (
        demo_page.message,
        demo_page.send_button,
        demo_page.file,
        demo_page.send_file_button,
        demo_page.close_button,
        demo_page.close_code,
        demo_page.close_reason,
        demo_page.cut_button,
    ):
        expect(control).to_be_enabled()
    expect(demo_page.url).to_be_disabled()
    expect(demo_page.subprotocols).to_be_disabled()
    expect(demo_page.reconnect).to_be_disabled()
    expect(demo_page.connect_button).to_be_disabled()
    expect(demo_page.lines).to_have_count(1)
    expect(demo_page.lines).to_contain_text(["Connection opened"])


def test_the_state_label_follows_the_socket(demo_page: DemoPage) -> None:
    demo_page.page.evaluate("""
        const label = document.querySelector("#stateLabel");
        window.states = [];
        new MutationObserver(() => window.states.push(label.textContent))
            .observe(label, { childList: true });
    """)
    demo_page.connect()
    demo_page.close()
    states = demo_page.page.evaluate("window.states")
    assert states == ["Connecting...", "Open", "Closing...", "Closed"]


def test_connect_is_disabled_while_connecting_and_closing(demo_page: DemoPage) -> None:
    disabled = demo_page.page.evaluate("""async () => {
        const [connect, close] = ["connectButton", "closeButton"]
            .map((id) => document.getElementById(id));
        const url = document.getElementById("connectionUrl");
        const state = () => [connect.disabled, url.disabled, close.disabled];
        connect.click();
        const connecting = state();
        while (close.disabled) await new Promise(requestAnimationFrame);
        close.click();
        return [connecting, state()];
    }""")
    assert disabled == [[True, True, True], [True, True, True]]


def test_a_text_comes_back_and_both_ways_are_logged(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.send("Grüße")
    time = re.compile(r"^\d\d:\d\d:\d\d\.\d{3}$")
    sent, received = demo_page.cells(1), demo_page.cells(2)
    expect(sent).to_have_text([time, "Client", "Server", "Grüße", "text", "7 B", ""])
    duration = re.compile(r"^\d+\.\d ms$")
    expect(received).to_have_text([time, "Server", "Client", "Grüße", "text", "7 B", duration])


def test_close_socket_closes_with_1000_and_a_reason(demo_page: DemoPage, demo: Server) -> None:
    demo_page.connect()
    demo_page.close()
    expect(demo_page.lines.last).to_contain_text(
        "Connection closed. Code: 1000 (normal closure). Reason: Closing from client"
    )
    expect(demo_page.message).to_be_disabled()
    expect(demo_page.close_button).to_be_disabled()
    expect(demo_page.url).to_be_enabled()
    demo.wait_for_log('"code": 1000, "reason": "Closing from client"')


def test_a_closed_page_connects_again(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.close()
    demo_page.connect()
    demo_page.send("again")
    expect(demo_page.lines.last).to_contain_text("again")
    expect(demo_page.lines).to_have_count(5)


# Messages


def test_html_stays_text(demo_page: DemoPage) -> None:
    markup = "<img src=x onerror=alert(1)><b>bold</b>"
    demo_page.connect()
    demo_page.send(markup)
    expect(demo_page.cells(2).nth(3)).to_have_text(markup)
    expect(demo_page.log.locator("img, b")).to_have_count(0)


def test_an_empty_text_is_a_message(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.send("")
    expect(demo_page.cells(2)).to_contain_text(["", "Server", "Client", "empty", "text", "0 B", ""])


def test_a_file_comes_back_as_binary(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.send_file(bytes(range(50)))
    data = "".join(f"{byte:02x} " for byte in range(48)) + "... and 2 more bytes"
    sent, received = demo_page.cells(1), demo_page.cells(2)
    expect(sent).to_contain_text(["", "Client", "Server", data, "binary", "50 B", ""])
    expect(received).to_contain_text(["", "Server", "Client", data, "binary", "50 B", "ms"])


def test_an_empty_file_is_a_message(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.send_file(b"")
    expect(demo_page.cells(2)).to_contain_text(
        ["", "Server", "Client", "empty", "binary", "0 B", ""]
    )


def test_send_file_asks_for_a_file_first(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.send_file_button.click()
    expect(demo_page.file).to_have_accessible_description("Choose a file first.")
    expect(demo_page.file).to_be_focused()
    demo_page.send_file(b"x")
    expect(demo_page.lines).to_have_count(3)
    expect(demo_page.file).to_have_accessible_description("")


def test_a_text_as_large_as_the_server_takes_comes_back(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.send("x" * LIMIT)
    for line in (1, 2):
        expect(demo_page.cells(line).nth(5)).to_have_text("1,048,576 B")
        data = demo_page.cells(line).nth(3)
        expect(data).to_have_text("x" * 200 + " ... and 1,048,376 more characters")
    expect(demo_page.state).to_have_text("Open")


def test_a_larger_text_closes_with_1009(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.send("x" * (LIMIT + 1))
    expect(demo_page.state).to_have_text("Closed (1009)")
    expect(demo_page.lines.last).to_contain_text("Code: 1009 (message too big). Reason: ")


@pytest.mark.slow
def test_a_much_larger_file_closes_with_1009(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.send_file(bytes(4 * LIMIT))
    expect(demo_page.state).to_have_text("Closed (1009)")
    expect(demo_page.lines.last).to_contain_text("Code: 1009 (message too big). Reason: ")


def test_a_preview_does_not_cut_a_character_in_two(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.send("x" * 199 + "\N{GRINNING FACE}" * 2)
    expect(demo_page.cells(2).nth(3)).to_have_text("x" * 199 + " ... and 4 more characters")


def test_a_preview_ends_after_ten_lines(demo_page: DemoPage, demo: Server) -> None:
    demo_page.connect(demo.url("/commands"))
    demo_page.send(json.dumps({"do": "send", "text": "a\n" * 12}))
    data = demo_page.cells(2).nth(3)
    expect(data.locator("code")).to_have_js_property("textContent", "\n".join("a" * 10))
    expect(data).to_contain_text("... and 5 more characters")


def test_a_message_that_nobody_asked_for_has_no_round_trip(
    demo_page: DemoPage, demo: Server
) -> None:
    demo_page.page.route_web_socket("**/pushing", lambda socket: socket.send("news"))
    demo_page.connect(demo.url("/pushing"))
    expect(demo_page.cells(1)).to_have_text(
        [re.compile(":"), "Server", "Client", "news", "text", "4 B", ""]
    )


def test_round_trips_do_not_outlive_their_connection(page: Page, demo: Server) -> None:
    page.clock.install()
    demo_page = DemoPage(page, demo.origin)
    demo_page.connect_once(demo.url("/commands"))
    demo_page.send(json.dumps({"do": "close"}))
    expect(demo_page.state).to_have_text("Closed")
    page.clock.fast_forward("01:00:00")
    demo_page.connect(demo.url())
    demo_page.send("Hello")
    expect(demo_page.cells(5).last).to_have_text(re.compile(r"^\d{1,4}\.\d ms$"))


# Ends


def test_a_close_from_the_server_is_explained(demo_page: DemoPage, demo: Server) -> None:
    demo_page.reconnect.uncheck()
    demo_page.url.fill(demo.url("/commands"))
    for code, reason, line in (
        (1011, "", "Code: 1011 (server error). Reason: none given"),
        (1012, "", "Code: 1012 (server restarts). Reason: none given"),
        (1013, "busy", "Code: 1013 (try again later). Reason: busy"),
        (3008, "silence", "Code: 3008 (timeout). Reason: silence"),
        (4000, "<b>ours</b>", "Code: 4000. Reason: <b>ours</b>"),
    ):
        demo_page.connect()
        demo_page.send(json.dumps({"do": "close", "code": code, "reason": reason}))
        expect(demo_page.state).to_have_text(f"Closed ({code})")
        expect(demo_page.lines.last).to_contain_text(line)


def test_a_server_that_goes_away_closes_like_a_client_that_is_done(
    new_page: Callable[..., Page], demo: Server
) -> None:
    demo_page = DemoPage(new_page(reduced_motion="reduce"), demo.origin)
    demo_page.connect()
    demo_page.close()
    good = colours(demo_page.state)
    demo_page.connect_once(demo.url("/commands"))
    demo_page.send(json.dumps({"do": "close", "code": 1001}))
    expect(demo_page.lines.last).to_contain_text("Code: 1001 (going away)")
    expect(demo_page.state).to_have_text("Closed")
    assert colours(demo_page.state) == good


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_bad_close_looks_like_none_of_the_good_ones_and_is_readable(
    new_page: Callable[..., Page], demo: Server, scheme: str
) -> None:
    page = new_page(color_scheme=scheme, reduced_motion="reduce")
    demo_page = DemoPage(page, demo.origin)
    event = page.locator("#commsLog [data-field=event]")
    demo_page.connect_once(demo.url("/commands"))
    demo_page.close()
    good = colours(demo_page.state), colours(event.last)
    demo_page.connect()
    demo_page.send(json.dumps({"do": "close", "code": 1011}))
    expect(demo_page.state).to_have_text("Closed (1011)")
    bad = colours(demo_page.state), colours(event.last)
    for (background, text), (good_background, good_text) in zip(bad, good, strict=True):
        assert background != good_background
        assert text != good_text
        assert contrast(background, text) >= 4.5
    background, text = colours(demo_page.cells(-1).first)
    assert contrast(background, text) >= 4.5


def test_a_server_that_ends_is_noticed(serve: Callable[..., Server], page: Page) -> None:
    server = serve()
    demo_page = DemoPage(page, server.origin)
    demo_page.connect_once()
    server.stop()
    expect(demo_page.state).to_have_text(re.compile("^Closed"))
    expect(demo_page.lines.last).to_contain_text("Connection closed. Code: 10")
    expect(demo_page.page.get_by_text(NEVER_OPENED)).to_have_count(0)


def test_an_invalid_url_is_explained_at_its_field(demo_page: DemoPage) -> None:
    explanation = (
        "This is not the address of a WebSocket. Write ws://host:port/path, or wss:// for TLS,"
        " without # and with a port up to 65535."
    )
    for url in (
        "",
        "localhost/ws",
        "/ws",
        "http://localhost/ws",
        "ws://",
        "ws://a:port/",
        "ws://a:65536/",
        "ws://a/#b",
    ):
        demo_page.page.reload()
        demo_page.url.fill(url)
        demo_page.connect_button.click()
        expect(demo_page.url).to_have_accessible_description(explanation)
        expect(demo_page.url).to_have_attribute("aria-invalid", "true")
        expect(demo_page.url).to_be_focused()
        expect(demo_page.state).to_have_text("Ready to connect...")


def test_a_mended_url_is_in_order_again(demo_page: DemoPage, demo: Server) -> None:
    demo_page.url.fill("nonsense")
    demo_page.connect_button.click()
    expect(demo_page.url).to_have_attribute("aria-invalid", "true")
    demo_page.connect(demo.url())
    expect(demo_page.url).to_have_attribute("aria-invalid", "false")
    expect(demo_page.url).to_have_accessible_description("")


def test_a_connection_that_nobody_answers_is_explained(
    demo_page: DemoPage, expected_errors: list[str]
) -> None:
    expected_errors.append(FAILED)
    url = f"ws://127.0.0.1:{free_port()}/ws"
    demo_page.reconnect.uncheck()
    demo_page.url.fill(url)
    demo_page.connect_button.click()
    expect(demo_page.page.get_by_role("alert").first).to_contain_text(
        f"{NEVER_OPENED}. Browsers do not tell a page why; the server's log does. Either nothing"
        f" listens at {url}, there is no WebSocket at this path, or the server refused this page."
    )
    expect(demo_page.state).to_have_text("Closed (1006)")
    expect(demo_page.lines).to_have_class(["event bad"])
    expect(demo_page.lines).to_contain_text(["Code: 1006 (never opened). Reason: none given"])
    expect(demo_page.connect_button).to_be_focused()


def test_a_page_of_a_foreign_origin_says_so_and_gives_up_after_four_attempts(
    serve: Callable[..., Server], page: Page, expected_errors: list[str]
) -> None:
    expected_errors.append(FAILED)
    server = serve(WS_SUPPORT={"ALLOWED_ORIGINS": ["https://client.com"]})
    demo_page = still(page, server)
    demo_page.connect_button.click()
    expect(demo_page.url).to_have_accessible_description(re.compile(NEVER_OPENED))
    alert = demo_page.page.get_by_role("alert").first
    expect(alert).to_contain_text(
        f'To admit it, add {server.origin} to WS_SUPPORT["ALLOWED_ORIGINS"].'
    )
    for attempt in (1, 2, 3):
        expect(demo_page.lines).to_have_count(attempt)
        expect(demo_page.lines.last).to_contain_text(f"No connection. Attempt {attempt} in ")
        demo_page.retry_button.click()
    expect(demo_page.state).to_have_text("Closed (1006)")
    expect(demo_page.url).to_have_accessible_description(re.compile(NEVER_OPENED))
    refusals = [line for line in server.log().splitlines() if "Refused with 403" in line]
    assert len(refusals) == 4
    assert server.origin in refusals[0]
    assert 'WS_SUPPORT["ALLOWED_ORIGINS"]' in refusals[0]


# The way back


def still(page: Page, server: Server) -> DemoPage:
    """A page whose time stands still, and whose attempts wait nearly as long as they may."""
    page.add_init_script("Math.random = () => 0.98")
    page.clock.install(time=0)
    demo_page = DemoPage(page, server.origin)
    page.clock.pause_at(60_000)
    return demo_page


def test_a_connection_that_is_cut_comes_back(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.cut_button.click()
    expect(demo_page.lines.nth(1)).to_contain_text(
        "Connection lost. Code: 4000. Reason: Cut, as the page has asked. Attempt 1 in "
    )
    expect(demo_page.state).to_have_text("Open")
    expect(demo_page.lines.nth(2)).to_contain_text("Connection opened again after ")
    expect(demo_page.retry_button).to_be_hidden()
    demo_page.send("Hello")
    expect(demo_page.cells(4)).to_contain_text(["", "Server", "Client", "Hello", "text", "5 B", ""])


def test_the_next_attempt_is_counted_down_to_and_can_be_made_at_once(
    page: Page, demo: Server
) -> None:
    demo_page = still(page, demo)
    demo_page.connect()
    demo_page.cut_button.click()
    expect(demo_page.countdown).to_have_text("Attempt 1 in 1.0 s")
    page.clock.run_for(400)
    expect(demo_page.countdown).to_have_text("Attempt 1 in 0.6 s")
    demo_page.retry_button.click()
    expect(demo_page.state).to_have_text("Open")
    expect(demo_page.countdown).to_be_hidden()
    expect(demo_page.lines.last).to_contain_text("again after 0.4 s, on attempt 1")
    expect(demo_page.message).to_be_focused()


def test_what_is_sent_meanwhile_waits_and_arrives_in_order(page: Page, demo: Server) -> None:
    demo_page = still(page, demo)
    demo_page.connect()
    demo_page.cut_button.click()
    expect(demo_page.state).to_have_text("Reconnecting...")
    for text in ("one", "two"):
        demo_page.send(text)
    for line in (2, 3):
        expect(demo_page.cells(line).last).to_have_text("waits")
    demo_page.retry_button.click()
    expect(demo_page.lines).to_have_count(7)
    for line, text in ((5, "one"), (6, "two")):
        expect(demo_page.cells(line)).to_contain_text(["", "Server", "Client", text, "", "", "ms"])


def test_too_many_that_wait_are_an_error_at_the_field(page: Page, demo: Server) -> None:
    demo_page = still(page, demo)
    demo_page.connect()
    demo_page.cut_button.click()
    expect(demo_page.state).to_have_text("Reconnecting...")
    demo_page.send_quickly(101)
    expect(demo_page.message).to_have_accessible_description(
        "100 messages wait for a connection already (maxQueue)."
    )
    expect(demo_page.counted("Sent")).to_have_text("100 messages, 0 B")


def test_close_socket_ends_the_attempts(page: Page, demo: Server) -> None:
    page.clock.install()
    demo_page = DemoPage(page, demo.origin)
    demo_page.connect()
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)
    demo_page.cut_button.click()
    expect(demo_page.state).to_have_text("Reconnecting...")
    demo_page.close()
    expect(demo_page.retry_button).to_be_hidden()
    page.clock.run_for(60_000)
    expect(demo_page.state).to_have_text("Closed")


def test_only_the_server_of_the_page_is_asked_to_cut(demo_page: DemoPage, demo: Server) -> None:
    demo_page.connect(demo.url("/logged"))
    expect(demo_page.cut_button).to_be_disabled()


# Sub-protocols, codes and reasons


def test_the_first_sub_protocol_is_agreed_on(demo_page: DemoPage) -> None:
    demo_page.subprotocols.fill("chat.v2, chat.v1")
    demo_page.connect()
    expect(demo_page.lines).to_contain_text(["Connection opened, sub-protocol chat.v2"])


@pytest.mark.parametrize("names", ["a/b", "Grüße", "chat, chat"])
def test_names_that_are_no_sub_protocols_are_explained_at_their_field(
    demo_page: DemoPage, names: str
) -> None:
    demo_page.subprotocols.fill(names)
    demo_page.connect_button.click()
    expect(demo_page.subprotocols).to_have_accessible_description(
        "Names without spaces, each one once, with commas between them."
    )
    expect(demo_page.subprotocols).to_be_focused()
    expect(demo_page.state).to_have_text("Ready to connect...")
    demo_page.subprotocols.fill("")
    demo_page.connect()
    expect(demo_page.subprotocols).to_have_accessible_description("")


def test_code_and_reason_of_the_close_are_those_of_the_fields(
    demo_page: DemoPage, demo: Server
) -> None:
    demo_page.connect()
    demo_page.close_code.fill("4321")
    demo_page.close_reason.fill("Grüße")
    demo_page.close_button.click()
    expect(demo_page.state).to_have_text("Closed (4321)")
    expect(demo_page.lines.last).to_contain_text("Code: 4321. Reason: Grüße")
    demo.wait_for_log(r'"code": 4321, "reason": "Gr\u00fc\u00dfe"')


@pytest.mark.parametrize(
    ("code", "reason", "explanation"),
    [
        ("1001", "", "A page may close with 1000 and with 3000 to 4999, not with 1001."),
        ("no", "", "A page may close with 1000 and with 3000 to 4999, not with NaN."),
        ("1000", "x" * 124, "The reason of a close is longer than 123 bytes."),
    ],
)
def test_a_code_or_reason_that_cannot_be_sent_is_explained(
    demo_page: DemoPage, code: str, reason: str, explanation: str
) -> None:
    demo_page.connect()
    demo_page.close_code.fill(code)
    demo_page.close_reason.fill(reason)
    demo_page.close_button.click()
    expect(demo_page.close_code).to_have_accessible_description(explanation)
    expect(demo_page.state).to_have_text("Open")


# Figures


def test_messages_and_bytes_are_counted_each_way(demo_page: DemoPage) -> None:
    expect(demo_page.counted("Sent")).to_have_text("none")
    demo_page.connect()
    demo_page.send("Grüße")
    expect(demo_page.counted("Sent")).to_have_text("1 message, 7 B")
    demo_page.send_file(bytes(2000))
    expect(demo_page.counted("Sent")).to_have_text("2 messages, 2,007 B")
    expect(demo_page.counted("Received")).to_have_text("2 messages, 2,007 B")


@pytest.mark.slow
def test_round_trips_are_plotted_and_put_into_words(page: Page, demo: Server) -> None:
    page.clock.install(time=0)
    demo_page = DemoPage(page, demo.origin)
    page.clock.pause_at(60_000)
    sockets = []
    page.route_web_socket("**/timed", lambda socket: sockets.append(socket))
    demo_page.connect(demo.url("/timed"))
    # Echoes after 1 to 200 milliseconds, in an order that is none.
    for number in range(130):
        page.evaluate("document.querySelector('#sendButton').click()")
        page.clock.run_for(1 + 37 * number % 200)
        sockets[0].send(str(number))
        for _ in until("echo"):
            if demo_page.counted("Received").inner_text().startswith(f"{number + 1} message"):
                break
    page.clock.run_for(100)
    last = [1 + 37 * number % 200 for number in range(10, 130)]
    expect(demo_page.plot).to_have_accessible_name(
        f"Median {sorted(last)[59]}.0 ms, 95 % within {sorted(last)[113]}.0 ms,"
        f" the last one {last[-1]}.0 ms (of the last 120)."
    )
    line = demo_page.plot.locator(".line").get_attribute("d")
    points = [tuple(map(float, point.split())) for point in line.lstrip("M").split("L")]
    assert [x for x, _ in points] == list(range(120))
    assert [y for _, y in points] == pytest.approx([100 - each / 2 for each in last])
    expect(page.locator(".scale")).to_have_text("200 ms")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"HEARTBEAT_INTERVAL": 30}, {"HEARTBEAT_INTERVAL": 0.5}], ids=str
)
def test_the_heartbeat_is_plotted_and_seen_nowhere_else(
    serve: Callable[..., Server], page: Page, settings: dict[str, float]
) -> None:
    server = serve(WS_SUPPORT=settings)
    demo_page = DemoPage(page, server.origin)
    demo_page.connect()
    expect(demo_page.plot).to_have_accessible_name(re.compile(r"\(of the last ([3-9]|\d\d+)\)"))
    expect(demo_page.lines).to_have_count(1)
    expect(demo_page.counted("Received")).to_have_text("none")


def test_the_log_is_downloaded_as_json(page: Page, demo: Server) -> None:
    demo_page = DemoPage(page, demo.origin)
    demo_page.connect()
    demo_page.send("Grüße")
    expect(demo_page.lines).to_have_count(3)
    demo_page.send_file(b"\x00\xff")
    expect(demo_page.lines).to_have_count(5)
    with page.expect_download() as download:
        demo_page.download_button.click()
    assert download.value.suggested_filename == "websocket-log.json"
    log = json.loads(download.value.path().read_text())
    assert log["page"] == f"{demo.origin}/"
    assert log["dropped"] == 0
    opened, sent, received, sent_file, _ = log["lines"]
    assert opened["event"] == "Connection opened"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", opened["time"])
    assert (sent["from"], sent["preview"], sent["type"], sent["size"]) == (
        *("Client", "Grüße", "text", "7 B"),
    )
    assert (received["from"], received["preview"]) == ("Server", "Grüße")
    assert received["roundTrip"].endswith(" ms")
    assert (sent_file["type"], sent_file["preview"]) == ("binary", "00 ff")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uvicorn-picows", "daphne"])
def test_ten_minutes_leave_no_listener_timer_or_line(
    serve: Callable[..., Server], page: Page, name: str
) -> None:
    demo = serve(asgi_server=name)
    page.clock.install(time=0)
    # What Playwright's clock has put in place, counted.
    page.add_init_script("""
        window.timers = new Set();
        for (const [start, stop] of [["setTimeout", "clearTimeout"],
                ["setInterval", "clearInterval"]]) {
            const [starts, stops] = [window[start], window[stop]];
            window[start] = (call, ...rest) => {
                const timer = starts(() => {
                    if (start === "setTimeout") window.timers.delete(timer);
                    call();
                }, ...rest);
                window.timers.add(timer);
                return timer;
            };
            window[stop] = (timer) => {
                window.timers.delete(timer);
                stops(timer);
            };
        }
        window.replies = 0;
        window.WebSocket = class extends WebSocket {
            constructor(...options) {
                super(...options);
                this.addEventListener("message", () => { window.replies += 1; });
            }
        };
    """)
    demo_page = DemoPage(page, demo.origin)
    page.clock.pause_at(60_000)
    protocol = page.context.new_cdp_session(page)
    protocol.send("Performance.enable")
    demo_page.connect()

    def minutes_pass(count: int) -> None:
        for _ in range(60 * count):
            before = page.evaluate("window.replies")
            page.clock.run_for(1000)
            for _ in until("reply to a heartbeat"):
                if page.evaluate("window.replies") > before:
                    break

    def figures() -> dict[str, float]:
        protocol.send("HeapProfiler.collectGarbage")
        metrics = {
            each["name"]: each["value"]
            for each in protocol.send("Performance.getMetrics")["metrics"]
        }
        names = ("JSEventListeners", "Nodes")
        return {
            **{name: metrics[name] for name in names},
            "timers": page.evaluate("window.timers.size"),
            "lines": demo_page.lines.count(),
        }

    minutes_pass(3)
    before = figures()
    minutes_pass(7)
    after = figures()
    # The texts of a figure that has just changed may be counted twice.
    assert after.pop("Nodes") <= before.pop("Nodes") + 10
    assert after == before
    assert before["lines"] == 1
    expect(demo_page.state).to_have_text("Open")


def test_a_second_connect_changes_nothing(sockets: Page, demo: Server) -> None:
    demo_page = DemoPage(sockets, demo.origin)
    sockets.evaluate("""
        const form = document.querySelector("#connectForm");
        form.dispatchEvent(new SubmitEvent("submit", { cancelable: true }));
        form.dispatchEvent(new SubmitEvent("submit", { cancelable: true }));
    """)
    expect(demo_page.state).to_have_text("Open")
    assert sockets.evaluate("window.sockets.length") == 1


def test_events_of_an_earlier_socket_change_nothing(sockets: Page, demo: Server) -> None:
    demo_page = DemoPage(sockets, demo.origin)
    demo_page.connect()
    demo_page.close()
    demo_page.connect()
    sockets.evaluate("""
        const [earlier] = window.sockets;
        earlier.dispatchEvent(new Event("open"));
        earlier.dispatchEvent(new MessageEvent("message", { data: "late" }));
        earlier.dispatchEvent(new CloseEvent("close", { code: 1006 }));
    """)
    expect(demo_page.lines).to_have_count(3)
    expect(demo_page.state).to_have_text("Open")


def test_while_the_server_closes_messages_wait(sockets: Page, demo: Server) -> None:
    demo_page = DemoPage(sockets, demo.origin)
    demo_page.connect()
    sockets.evaluate("""
        const closing = { value: WebSocket.CLOSING };
        Object.defineProperty(window.sockets[0], "readyState", closing);
    """)
    demo_page.send("too late")
    expect(demo_page.lines).to_have_count(2)
    sockets.evaluate("delete window.sockets[0].readyState; window.sockets[0].close(4000)")
    expect(demo_page.lines.last).to_contain_text("too late")
    expect(demo_page.lines).to_have_count(5)


# The log


@pytest.mark.slow
def test_the_log_keeps_500_lines_and_counts_the_others(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.send_quickly(260)
    note = demo_page.page.get_by_text("The last 500 lines; 21 older ones dropped")
    expect(note).to_be_visible()
    expect(demo_page.lines).to_have_count(500)
    expect(demo_page.page.get_by_text("Connection opened")).to_have_count(0)


def test_the_newest_line_stays_in_sight(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.send_quickly(50)
    expect(demo_page.lines).to_have_count(101)
    expect(demo_page.lines.last).to_be_in_viewport(ratio=0.99)
    assert demo_page.page.evaluate("scrollY") == 0, "at Playwright's 1280 x 720 pixels"


@pytest.mark.slow
def test_a_small_screen_shows_the_last_event_where_one_sends(
    new_page: Callable[..., Page], demo: Server
) -> None:
    page = new_page(viewport={"width": 360, "height": 640})
    demo_page = DemoPage(page, demo.origin)
    last_event = page.locator("#lastEvent")
    demo_page.connect_once(demo.url("/commands"))
    expect(last_event).to_have_text("Connection opened")
    demo_page.send(json.dumps({"do": "send", "text": "<b>" + "x" * 300}))
    expect(last_event).to_have_text(re.compile(r"^Received after \d+\.\d ms: <b>x{197}$"))
    expect(last_event).to_be_in_viewport(ratio=0.99)
    expect(last_event).to_have_js_property("scrollLeft", 0)
    height = last_event.bounding_box()["height"]
    demo_page.send(json.dumps({"do": "close", "code": 1011}))
    expect(last_event).to_have_text(re.compile(r"^Connection closed\. Code: 1011"))
    expect(last_event).to_be_in_viewport(ratio=0.99)
    assert last_event.bounding_box()["height"] == height
    page.set_viewport_size({"width": 1280, "height": 720})
    expect(last_event).to_be_hidden()


@pytest.mark.slow
def test_a_small_screen_has_room_for_file_names_and_events(
    new_page: Callable[..., Page], demo: Server
) -> None:
    page = new_page(viewport={"width": 360, "height": 640})
    demo_page = DemoPage(page, demo.origin)
    demo_page.connect()
    demo_page.close()
    form, log = page.locator("#fileForm").bounding_box(), demo_page.log.bounding_box()
    assert demo_page.file.bounding_box()["width"] == form["width"]
    time, event = (cell.bounding_box() for cell in demo_page.cells(-1).all())
    assert time["y"] + time["height"] <= event["y"]
    assert event["width"] > 0.8 * log["width"]


@pytest.mark.slow
def test_a_size_stays_on_one_line(demo_page: DemoPage, demo: Server) -> None:
    demo_page.page.route_web_socket("**/large", lambda socket: None)
    demo_page.connect(demo.url("/large"))
    demo_page.send_file(bytes(2 * LIMIT))
    size = demo_page.cells(1).nth(5)
    expect(size).to_have_text("2,097,152 B")
    for width in (360, 1000, 1280):
        demo_page.page.set_viewport_size({"width": width, "height": 720})
        lines, is_inside = size.evaluate("""cell => {
            const text = document.createRange();
            text.selectNodeContents(cell);
            const [line, ...others] = text.getClientRects();
            return [1 + others.length, line.left >= cell.getBoundingClientRect().left];
        }""")
        assert (lines, is_inside) == (1, True), width


def test_a_busy_log_is_announced_in_one_sentence(page: Page, demo: Server) -> None:
    page.clock.install(time=0)
    demo_page = DemoPage(page, demo.origin)
    page.clock.pause_at(60_000)
    demo_page.connect()
    demo_page.send_quickly(100)
    expect(demo_page.lines).to_have_count(201)
    announcement = page.locator("[aria-live=polite]")
    page.clock.run_for(900)
    expect(announcement).to_have_text("")
    page.clock.run_for(100)
    expect(announcement).to_have_text("201 new lines. The last: Received after 0.0 ms: empty text")


# Using it


def test_the_keyboard_is_enough(demo_page: DemoPage) -> None:
    keyboard = demo_page.page.keyboard
    keyboard.press("Tab")
    expect(demo_page.live_link).to_be_focused()
    keyboard.press("Tab")
    expect(demo_page.hub_link).to_be_focused()
    keyboard.press("Tab")
    expect(demo_page.room_link).to_be_focused()
    keyboard.press("Tab")
    expect(demo_page.url).to_be_focused()
    keyboard.press("Enter")
    expect(demo_page.message).to_be_focused()
    keyboard.type("typed")
    keyboard.press("Enter")
    expect(demo_page.lines.last).to_contain_text("typed")
    expect(demo_page.lines).to_have_count(3)
    keyboard.press("Enter")
    expect(demo_page.lines).to_have_count(5)
    keyboard.press("Shift+Tab")
    expect(demo_page.close_button).to_be_focused()
    keyboard.press("Enter")
    expect(demo_page.state).to_have_text("Closed")
    expect(demo_page.connect_button).to_be_focused()
    keyboard.press("Tab")
    expect(demo_page.download_button).to_be_focused()
    keyboard.press("Tab")
    expect(demo_page.log).to_be_focused()


def test_enter_sends_and_with_shift_starts_a_new_line(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.message.focus()
    keyboard = demo_page.page.keyboard
    keyboard.type("one")
    keyboard.press("Shift+Enter")
    keyboard.type("two")
    expect(demo_page.lines).to_have_count(1)
    keyboard.press("Enter")
    expect(demo_page.lines).to_have_count(3)
    data = demo_page.lines.last.locator("code")
    assert data.text_content() == "one\ntwo"
    expect(demo_page.message).to_have_value("one\ntwo")


def test_the_enter_of_an_input_method_sends_nothing(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.message.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    demo_page.message.dispatch_event("keydown", {"key": "Enter"})
    expect(demo_page.lines).to_have_count(3)


def test_the_page_says_what_it_is_a_demo_of_and_leads_to_the_other(
    demo_page: DemoPage, expected_errors: list[str]
) -> None:
    # The sockets of the other page are not at this server.
    expected_errors.append(FAILED)
    expect(demo_page.page.get_by_role("banner")).to_contain_text("A demo of ws_support")
    demo_page.live_link.click()
    expect(demo_page.page).to_have_url(re.compile("/live$"))


@pytest.mark.slow
def test_the_reason_and_the_file_have_room(demo_page: DemoPage) -> None:
    for width in (360, 480, 1000, 1200, 1280, 1600):
        demo_page.page.set_viewport_size({"width": width, "height": 800})
        assert demo_page.close_reason.evaluate("field => field.scrollWidth <= field.clientWidth")
        form = demo_page.page.locator("#fileForm").bounding_box()
        assert demo_page.file.bounding_box()["width"] == form["width"], width


def test_the_focus_is_visible(demo_page: DemoPage) -> None:
    for element in (
        demo_page.live_link,
        demo_page.hub_link,
        demo_page.room_link,
        demo_page.url,
    ):
        demo_page.page.keyboard.press("Tab")
        expect(element).to_have_css("outline-style", "solid")
        expect(element).to_have_css("outline-width", "3px")


def test_a_close_leaves_the_focus_where_it_works(demo_page: DemoPage) -> None:
    demo_page.connect()
    demo_page.log.focus()
    demo_page.close_button.evaluate("button => button.click()")
    expect(demo_page.state).to_have_text("Closed")
    expect(demo_page.log).to_be_focused()


@pytest.mark.slow
def test_no_message_makes_the_page_scroll_sideways(
    demo_page: DemoPage, expected_errors: list[str]
) -> None:
    expected_errors.append(FAILED)
    demo_page.connect()
    demo_page.send("x" * 100_000)
    demo_page.send_file(bytes(100_000))
    expect(demo_page.lines).to_have_count(5)
    demo_page.close()
    demo_page.reconnect.uncheck()
    demo_page.url.fill(f"ws://127.0.0.1:{free_port()}/{'x' * 1000}")
    demo_page.connect_button.click()
    expect(demo_page.page.get_by_text(NEVER_OPENED)).to_be_visible()
    for width in (360, 700, 1000, 1280, 2560):
        demo_page.page.set_viewport_size({"width": width, "height": 800})
        for element in ("html", ".scroller"):
            needed, there = demo_page.page.locator(element).evaluate(
                "element => [element.scrollWidth, element.clientWidth]"
            )
            assert needed <= there, f"{element} at {width} pixels"


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_the_page_follows_the_colour_scheme(
    new_page: Callable[..., Page], demo: Server, scheme: str, is_dark: bool
) -> None:
    demo_page = DemoPage(new_page(color_scheme=scheme), demo.origin)
    for element in ("body", "section", "input", "th"):
        background, text = colours(demo_page.page.locator(element).first)
        assert (luminance(background) < luminance(text)) is is_dark
        assert contrast(background, text) >= 4.5


def colours(element: Locator) -> list[str]:
    """Of its background and its text."""
    return element.evaluate("""element => {
        const { backgroundColor, color } = getComputedStyle(element);
        return [backgroundColor, color];
    }""")


def contrast(one: str, other: str) -> float:
    """As WCAG has it: from 1 to 21."""
    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """From 0, black, to 1."""
    parts = (float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3])
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.slow
def test_nothing_moves_for_those_who_asked_for_that(
    new_page: Callable[..., Page], demo: Server
) -> None:
    demo_page = DemoPage(new_page(reduced_motion="reduce"), demo.origin)
    expect(demo_page.connect_button).to_have_css("transition-duration", "0s")


# Without its script

SCRIPT_NOTICE = "The script of this page did not load"


def test_without_static_files_the_page_says_so(
    serve: Callable[..., Server], page: Page, expected_errors: list[str]
) -> None:
    expected_errors += ["404", "MIME type"]
    DemoPage(page, serve(STATICFILES_FINDERS=[]).origin)
    notice = page.get_by_text(SCRIPT_NOTICE)
    expect(notice).to_be_visible()
    expect(notice).to_be_in_viewport()
    expect(page.get_by_text("This page needs JavaScript.")).to_be_visible()


def test_without_javascript_the_page_says_so_after_a_second(
    new_page: Callable[..., Page], demo: Server
) -> None:
    page = new_page(java_script_enabled=False, reduced_motion="reduce")
    DemoPage(page, demo.origin)
    expect(page.get_by_text(SCRIPT_NOTICE)).to_be_visible()


@pytest.mark.slow
def test_the_notice_takes_no_room_while_the_script_is_on_its_way(
    page: Page, demo: Server, expected_errors: list[str]
) -> None:
    expected_errors.append("ERR_FAILED")
    page.route("**/demo.js", lambda route: route.abort())
    DemoPage(page, demo.origin)
    header = page.locator("header")
    notice = page.locator("#scriptNotice")
    expect(notice).to_be_visible()
    height = header.bounding_box()["height"]
    notice.evaluate("""notice => {
        notice.style.animation = "none";
        notice.offsetHeight;
        notice.style.animation = "";
        const [animation] = notice.getAnimations();
        animation.pause();
        animation.currentTime = 999;
    }""")
    expect(notice).to_be_hidden()
    early = header.bounding_box()["height"]
    notice.evaluate("notice => notice.remove()")
    assert early == header.bounding_box()["height"] < height


def test_a_script_that_loads_removes_the_notice(demo_page: DemoPage) -> None:
    expect(demo_page.page.get_by_text(SCRIPT_NOTICE)).to_have_count(0)


# What goes over the network


def test_the_page_asks_no_other_host(page: Page, demo: Server) -> None:
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.on("websocket", lambda socket: urls.append(socket.url))
    demo_page = DemoPage(page, demo.origin)
    demo_page.connect()
    demo_page.send("Hello")
    expect(demo_page.lines).to_have_count(3)
    paths = {url.partition(f"//{demo.host}:{demo.port}")[2] for url in urls}
    files = ("demo.css", "client.js", "demo.js", "demo_log.js", "demo_page.js", "demo_plot.js")
    assert paths == {"/", "/ws", *(f"/static/ws_support/{name}" for name in files)}


def test_a_session_keeps_the_content_security_policy(page: Page, demo: Server) -> None:
    page.add_init_script("""
        window.violations = [];
        document.addEventListener("securitypolicyviolation",
            (event) => window.violations.push(event.violatedDirective));
    """)
    demo_page = DemoPage(page, demo.origin)
    assert demo_page.response is not None
    assert "script-src 'self'" in demo_page.response.headers["content-security-policy"]
    demo_page.connect()
    demo_page.send("Hello")
    demo_page.send_file(b"Hello")
    expect(demo_page.lines).to_have_count(5)
    demo_page.close()
    assert page.evaluate("window.violations") == []


def test_the_content_security_policy_stops_a_foreign_script(
    demo_page: DemoPage, expected_errors: list[str]
) -> None:
    expected_errors.append("Content Security Policy")
    demo_page.page.evaluate("""
        const script = document.createElement("script");
        script.textContent = "window.hasRun = true";
        document.head.append(script);
    """)
    assert demo_page.page.evaluate("window.hasRun") is None


def test_a_session_leaves_a_clean_server_log(serve: Callable[..., Server], page: Page) -> None:
    server = serve()
    demo_page = DemoPage(page, server.origin)
    demo_page.connect()
    demo_page.send("Hello")
    demo_page.send_file(b"Hello")
    expect(demo_page.lines).to_have_count(5)
    page.reload()
    demo_page.connect()
    page.close()
    server.wait_for_event("disconnected", "/ws", 2)
    log = server.log()
    assert "Traceback" not in log
    assert "ERROR" not in log
    assert not re.search(r'" [45]\d\d ', log), "no request failed"
