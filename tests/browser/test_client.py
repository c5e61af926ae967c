"""The browser client in a real browser, through ends of real servers and networks."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.harness import BOUND, ROOT, Server, free_port, running, serving

pytestmark = [pytest.mark.browser, pytest.mark.long]

FAILED = ["WebSocket connection to", "ERR_CONNECTION_REFUSED"]
"""How Chromium's console says that a connection failed. No page can prevent that."""

SERVERS = ["uvicorn-picows", "daphne"]


class Client:
    """A page with one `ReliableWebSocket`, to `/logged` if nothing else is said."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        page.goto(f"{origin}/client")

    def start(self, url: str | None = None, **options: Any) -> None:
        self.page.evaluate("([options, url]) => start(options, url ?? undefined)", [options, url])

    def send(self, *messages: str) -> None:
        self.page.evaluate("messages => messages.forEach((each) => socket.send(each))", messages)

    def wait_for(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The `count`th event of this kind."""
        return self.page.wait_for_function(
            """([kind, count]) => events.filter(({ type }) => type === kind)[count - 1]""",
            arg=[kind, count],
        ).json_value()

    def events(self, kind: str) -> list[dict[str, Any]]:
        return self.page.evaluate("kind => events.filter(({ type }) => type === kind)", kind)

    @property
    def messages(self) -> list[str]:
        return [event["data"] for event in self.events("message")]


@pytest.fixture
def serve_client(serve: Callable[..., Server]) -> Callable[..., Server]:
    """Asked for before a page, so that they outlive it: it would try to reach them again."""
    return lambda **options: serve(ROOT_URLCONF="tests.project.urls", **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_after_a_server_was_away_for_five_seconds_messages_arrive_in_order_and_each_once(
    serve_client: Callable[..., Server], page: Page, expected_errors: list[str], name: str
) -> None:
    expected_errors += FAILED
    server = serve_client(asgi_server=name)
    client = Client(page, server.origin)
    client.start()
    client.send("before")
    client.wait_for("message")
    server.process.kill()
    server.process.wait(BOUND)
    client.wait_for("reconnecting")
    sent = [f"message {number}" for number in range(20)]
    client.send(*sent)
    time.sleep(5)  # That is how long it is away.
    server.wait_until_nobody_listens()  # Its worker, if it has one, ends a moment later.
    again = serve_client(asgi_server=name, port=server.port)
    client.wait_for("reconnected")
    client.wait_for("message", 21)
    assert client.messages == ["before", *sent]
    client.send("after")
    client.wait_for("message", 22)
    assert client.messages == ["before", *sent, "after"]
    assert len(again.events("connected", "/logged")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_a_network_that_is_cut_without_a_word_is_noticed_and_one_that_heals_used(
    serve_client: Callable[..., Server], page: Page, tmp_path, name: str
) -> None:
    interval = 1
    server = serve_client(asgi_server=name, WS_SUPPORT={"HEARTBEAT_INTERVAL": interval})
    port = free_port()
    arguments = ["-m", "tests.proxy", str(port), str(server.port)]
    with running(arguments, tmp_path / "proxy.log", port=port, environment={}) as proxy:
        client = Client(page, proxy.origin)
        client.start()
        client.wait_for("latency", 2)
        proxy.process.send_signal(signal.SIGSTOP)
        try:
            lost = client.wait_for("reconnecting")
            heard = max(event["time"] for event in client.events("latency"))
            server.wait_for_event("disconnected", "/logged")
        finally:
            proxy.process.send_signal(signal.SIGCONT)
        assert lost["code"] == 1006
        assert lost["time"] - heard <= 1000 * (2 * interval + 1)
        client.wait_for("reconnected")
        client.send("back")
        client.wait_for("message")
        assert client.messages == ["back"]
        page.close()  # Before the proxy goes, which it would try to reach again.


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_with_the_settings_of_the_server_a_quiet_page_stays_connected(
    serve_client: Callable[..., Server], page: Page, name: str
) -> None:
    server = serve_client(asgi_server=name, WS_SUPPORT={"HEARTBEAT_INTERVAL": 0.5})
    client = Client(page, server.origin)
    client.start()
    client.wait_for("latency", 5)  # The server would have closed it after two.
    assert client.messages == []
    assert client.page.evaluate("socket.latency") < 1000 * BOUND
    assert server.events("disconnected", "/logged") == []


@pytest.mark.parametrize(("code", "path"), [(None, "/logged"), (1008, "/commands")])
def test_there_is_no_way_back_from_a_close_of_the_page_or_1008(
    page: Page, client_server: Server, code: int | None, path: str
) -> None:
    page.clock.install()
    client = Client(page, client_server.origin)
    before = len(client_server.events("connected", path))
    client.start(path)
    client.wait_for("open")
    if code is None:
        client.page.evaluate("socket.close(1000, 'done')")
    else:
        client.send(f'{{"do": "close", "code": {code}}}')
    end = client.wait_for("close")
    assert end["code"] == (code or 1000)
    page.clock.run_for(3_600_000)
    assert client.events("reconnecting") == []
    assert len(client_server.events("connected", path)) == before + 1


@pytest.mark.parametrize("name", SERVERS)
def test_a_page_of_a_foreign_origin_gives_up_after_six_attempts(
    serve_client: Callable[..., Server], page: Page, expected_errors: list[str], name: str
) -> None:
    expected_errors += FAILED
    server = serve_client(asgi_server=name, WS_SUPPORT={"ALLOWED_ORIGINS": ["https://client.com"]})
    client = Client(page, server.origin)
    client.start(minDelay=10)
    assert client.wait_for("close")["code"] == 1006
    assert [event["attempt"] for event in client.events("reconnecting")] == [1, 2, 3, 4, 5]
    assert client.events("open") == []
    assert len(server.events("rejected", "/logged")) == 6


def test_a_browser_that_comes_online_does_not_wait(
    serve_client: Callable[..., Server], page: Page, expected_errors: list[str]
) -> None:
    expected_errors += FAILED
    server = serve_client()
    client = Client(page, server.origin)
    hour = 3_600_000
    # Else one in a thousand waits for less than four seconds.
    page.evaluate("Math.random = () => 0.5")
    client.start(minDelay=hour, maxDelay=hour)
    client.wait_for("open")
    page.context.set_offline(True)
    server.stop()
    client.wait_for("reconnecting")
    serve_client(port=server.port)
    page.context.set_offline(False)
    assert client.wait_for("reconnected")["attempts"] == 1


def test_text_and_binary_come_back_as_they_were(page: Page, client_server: Server) -> None:
    client = Client(page, client_server.origin)
    client.start()
    received = page.evaluate("""async () => {
        socket.binaryType = "arraybuffer";
        const received = [];
        socket.onmessage = ({ data }) => received.push(data);
        const sent = ["", "Grüße", new Uint8Array([0, 255]), new Uint8Array([1, 2, 3]).buffer,
            new Blob(["blob"])];
        for (const each of sent) socket.send(each);
        while (received.length < sent.length) await new Promise((done) => setTimeout(done, 10));
        return received.map((each) => typeof each === "string" ? each : [...new Uint8Array(each)]);
    }""")
    assert received == ["", "Grüße", [0, 255], [1, 2, 3], [*b"blob"]]


# The examples of the documentation


def test_the_example_of_the_documentation_works_as_it_is(
    page: Page, client_server: Server, expected_errors: list[str]
) -> None:
    expected_errors.append("404")  # There is no icon.
    page.goto(f"{client_server.origin}/example/docs/browser.md")
    expect(page.locator("#state")).to_have_text("Connected")
    expect(page.get_by_role("listitem")).to_have_text("Hello")


def test_the_example_of_the_readme_works_as_it_is(
    page: Page, client_server: Server, expected_errors: list[str]
) -> None:
    expected_errors.append("404")  # There is no icon.
    with page.expect_console_message(lambda message: message.text == "Hello"):
        page.goto(f"{client_server.origin}/example/README.md")


def test_the_example_with_a_token_works_as_it_is(page: Page, client_server: Server) -> None:
    client = Client(page, client_server.origin)
    with page.expect_websocket() as opened:
        client.page.evaluate(example("token"))
    assert opened.value.url == client_server.url("/ws?token=a%20token")


def test_the_example_of_where_one_left_off_works_as_it_is(
    page: Page, client_server: Server
) -> None:
    client = Client(page, client_server.origin)
    page.evaluate(f"window.lastNumber = 7; start(); {example('lastNumber')}; undefined")
    client.send("waiting")
    client.wait_for("message", 2)
    assert client.messages == ['{"since":7}', "waiting"]


def example(word: str) -> str:
    """The JavaScript in docs/browser.md that has this word."""
    text = (ROOT / "docs" / "browser.md").read_text()
    [found] = [
        block for block in re.findall(r"^```js\n(.*?)^```$", text, re.S | re.M) if word in block
    ]
    return found


@pytest.fixture(scope="module", params=SERVERS)
def client_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """For tests that leave it as it is."""
    log_file = tmp_path_factory.mktemp("client") / "server.log"
    options = {"asgi_server": request.param, "ROOT_URLCONF": "tests.project.urls"}
    with serving(log_file, **options) as server:
        yield server
