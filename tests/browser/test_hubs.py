"""Microsoft's client in a real browser, on a page of another origin than its hub."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page

from tests.conftest import need_npm_package
from tests.harness import BOUND, Server, serving

pytestmark = pytest.mark.browser

TRANSPORTS = ["WebSockets", "ServerSentEvents", "LongPolling"]
COOKIE = "sessionid=of-the-page"

REFUSED = ["blocked by CORS policy", "ERR_FAILED", "WebSocket connection to", "EventSource", "403"]
"""How Chromium's console says that a request failed. No page can prevent that."""

GOODBYE = ["404 (Not Found)"]
"""The same for a client that stops. It says goodbye in two ways at once, and for the second one the
connection may have ended."""

PAGE = """
<!doctype html>
<title>Another origin</title>
<link rel="icon" href="data:,">
<script src="/signalr.js"></script>
<script>
  window.build = (url, transport, options = {}) =>
    new signalR.HubConnectionBuilder()
      .withUrl(url, { transport: signalR.HttpTransportType[transport], ...options })
      .configureLogging(signalR.LogLevel.None)
      .build();
</script>
"""


class Pages:
    """A server of one page, which allows itself as an origin, and under another name does not."""

    def __init__(self, script: Path) -> None:
        bodies = {"/": ("text/html", PAGE.encode()), "/signalr.js": ("", script.read_bytes())}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, body = bodies[self.path]
                self.send_response(200)
                self.send_header("Content-Type", kind or "text/javascript")
                self.send_header("Content-Length", str(len(body)))
                # As Django sets it. Cookies are for a host, with whatever port.
                self.send_header("Set-Cookie", f"{COOKIE}; HttpOnly; Path=/; SameSite=Lax")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.allowed = f"http://127.0.0.1:{self._server.server_port}"
        self.not_allowed = f"http://localhost:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(BOUND)
        self._server.server_close()


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    package = need_npm_package("@microsoft/signalr")
    pages = Pages(package / "dist" / "browser" / "signalr.js")
    yield pages
    pages.stop()


@pytest.fixture(scope="module")
def shared(pages: Pages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log_file = tmp_path_factory.mktemp("hubs") / "server.log"
    settings = {"ALLOWED_ORIGINS": [pages.allowed]}
    with serving(log_file, asgi_server="uvicorn-picows", WS_SUPPORT=settings) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    return shared.from_now_on()


@pytest.fixture
def stranger(
    new_page: Callable[..., Page], pages: Pages, server: Server, expected_errors: list[str]
) -> Page:
    """A page whose origin is not allowed."""
    expected_errors += REFUSED
    page = new_page()
    page.goto(pages.not_allowed)
    return page


def is_refused(server: Server, count: int) -> bool:
    """Return True if so many requests were refused, and no hub has heard of any."""
    return server.log().count("origin") >= count and not server.events("on_connected()")


def token_of(server: Server, origin: str) -> str:
    """A token for a new connection, as a page of this origin gets it."""
    url = f"{server.origin}/hub/negotiate?negotiateVersion=1"
    with urlopen(Request(url, b"", {"Origin": origin}), timeout=BOUND) as response:
        token: str = json.loads(response.read())["connectionToken"]
        return token


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_page_of_another_origin_invokes_and_streams_and_hears_broadcasts(
    page: Page, pages: Pages, server: Server, expected_errors: list[str], transport: str
) -> None:
    expected_errors += GOODBYE
    page.goto(pages.allowed)
    found: dict[str, Any] = page.evaluate(
        """async ([url, transport]) => {
          const connections = [];
          for (const name of ["ada", "grace"]) {
            const connection = build(url, transport, { accessTokenFactory: () => name });
            await connection.start();
            connections.push(connection);
          }
          const [one] = connections;
          const heard = Promise.all(connections.map((each) =>
            new Promise((resolve) => each.on("Told", resolve))));
          await one.invoke("Tell", "all", [], "to all");
          const items = await new Promise((resolve, reject) => {
            const items = [];
            const next = (item) => items.push(item);
            const complete = () => resolve(items);
            one.stream("Counter", 3).subscribe({ next, complete, error: reject });
          });
          const who = await Promise.all(connections.map((each) => each.invoke("Who")));
          const sum = await one.invoke("Add", 1, 2);
          const found = { heard: await heard, items, sum, who };
          await Promise.all(connections.map((each) => each.stop()));
          return found;
        }""",
        [f"{server.origin}/hub", transport],
    )
    # WebSockets and event streams of browsers have their token in the query.
    who = [(each["user"], each["transport"]) for each in found.pop("who")]
    assert who == [("ada", transport), ("grace", transport)]
    assert found == {"heard": ["to all", "to all"], "items": [0, 1, 2], "sum": 3}
    server.wait_for_event("on_disconnected()", "/hub", 2)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_session_cookie_reaches_the_hub(
    page: Page, pages: Pages, server: Server, expected_errors: list[str], transport: str
) -> None:
    expected_errors += GOODBYE
    page.goto(pages.allowed)
    cookie = page.evaluate(
        """async ([url, transport]) => {
          const connection = build(url, transport);
          await connection.start();
          const cookie = await connection.invoke("Header", "Cookie");
          await connection.stop();
          return cookie;
        }""",
        [f"{server.origin}/hub", transport],
    )
    assert cookie == COOKIE


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_page_whose_origin_is_not_allowed_gets_no_negotiation(
    stranger: Page, server: Server, transport: str
) -> None:
    said = stranger.evaluate(
        """([url, transport]) =>
          build(url, transport).start().then(() => "started", (error) => String(error))""",
        [f"{server.origin}/hub", transport],
    )
    assert "Failed to complete negotiation with the server" in said
    assert is_refused(server, 1), server.log()


def test_a_page_whose_origin_is_not_allowed_gets_no_websocket(
    stranger: Page, server: Server
) -> None:
    said = stranger.evaluate(
        """(url) =>
          build(url, "WebSockets", { skipNegotiation: true })
            .start().then(() => "started", (error) => String(error))""",
        f"{server.origin}/hub",
    )
    assert "WebSocket failed to connect" in said
    assert is_refused(server, 1), server.log()


def test_a_page_whose_origin_is_not_allowed_gets_nothing_for_the_token_of_another_one(
    stranger: Page, server: Server, pages: Pages
) -> None:
    url = f"{server.origin}/hub?id={token_of(server, pages.allowed)}"
    said = stranger.evaluate(
        """async (url) => {
          const opened = await new Promise((resolve) => {
            const stream = new EventSource(url, { withCredentials: true });
            stream.onopen = () => resolve("opened");
            stream.onerror = () => resolve(`error ${stream.readyState}`);
          });
          const ask = (options) =>
            fetch(url, { credentials: "include", ...options })
              .then(({ status }) => status, (error) => String(error));
          const body = '{"protocol":"json","version":1}\\x1e';
          // What browsers send without a question before.
          return [opened, await ask({}), await ask({ method: "POST", body, mode: "no-cors" })];
        }""",
        url,
    )
    assert said == ["error 2", "TypeError: Failed to fetch", 0]
    assert is_refused(server, 3), server.log()
