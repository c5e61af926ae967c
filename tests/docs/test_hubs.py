"""The examples of docs/hubs.md, as a project that a server runs, and what the page lists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

import pytest
from playwright.sync_api import Page, expect
from websockets.sync.client import ClientConnection

import ws_support.hubs
from tests.browser.conftest import browser, expected_errors, new_page, page  # noqa: F401
from tests.deploy.conftest import clean_environment
from tests.docs.test_examples import _ACCOUNTS, _SETTINGS, environment_of, examples_of
from tests.harness import BOUND, ROOT, Server

PAGE = "hubs.md"
TEXT = (ROOT / "docs" / PAGE).read_text(encoding="utf-8")
GUIDES = """
from mysite import feeds, games, orders, rooms, streams, timing, tokens, typed
class Timed(timing.Timed):
    async def echo(self, value: int) -> int:
        return value
application = HubRouter(application, {
    "streams": streams.Numbers, "rooms": rooms.Rooms, "feeds": feeds.Feeds,
    "typed": typed.TypedChat, "games": games.Game, "orders": orders.Orders, "timed": Timed,
})
application = HubRouter(application, {"tokens": Chat}, authenticate=tokens.user_of_token)
"""
PATHS = """
from django.http import HttpResponse
from mysite import news
from ws_support.broadcast import broadcast_sync
def tell(request):
    broadcast_sync("room/7", "Hello")
    return HttpResponse()
urlpatterns += [
    path("tell", tell),
    path("announce", news.announce), path("announce-sync", news.announce_from_synchronous_code),
]
"""


@pytest.fixture
def start(tmp_path, serve) -> Callable[..., Server]:
    """Write the modules of the page, with `added` at the ends of some, and serve them."""

    def start(**added: str) -> Server:
        directory = tmp_path / "mysite"
        (directory / "templates").mkdir(parents=True)
        [template, _] = re.findall(r"^```html\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
        (directory / "templates" / "chat.html").write_text(template)
        files = {"__init__": "", **examples_of(PAGE)}
        files["settings"] = f"{_SETTINGS}{files['settings']}{_ACCOUNTS}"
        for name, text in files.items():
            (directory / f"{name}.py").write_text(text + added.get(name, ""))
        return serve(
            environment=environment_of(tmp_path),
            ASGI_APPLICATION="mysite.asgi.application",
        )

    return start


class Client:
    """A client of a hub that skips the negotiation, and writes its messages by hand."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._waiting: list[dict[str, Any]] = []
        self._send({"protocol": "json", "version": 1})
        assert self.receive() == {}

    def invoke(self, target: str, *arguments: Any, **more: Any) -> None:
        message = {"type": 1, "invocationId": "1", "target": target, "arguments": arguments}
        self._send({**message, **more})

    def send_item(self, item: Any) -> None:
        self._send({"type": 2, "invocationId": "2", "item": item})

    def complete(self, id_: str, **outcome: Any) -> None:
        self._send({"type": 3, "invocationId": id_, **outcome})

    def receive(self) -> dict[str, Any]:
        """Return the next message that is no ping."""
        while not self._waiting:
            text = self._socket.recv(BOUND)
            messages = [json.loads(each) for each in text.split("\x1e")[:-1]]
            self._waiting += [each for each in messages if each.get("type") != 6]
        return self._waiting.pop(0)

    def result(self) -> Any:
        """Return the result that comes next, or the text of the error."""
        message = self.receive()
        assert message["type"] == 3, message
        return message.get("error", message.get("result"))

    def called(self) -> tuple[str, list[Any]]:
        """Return the call of a method of this client that comes next."""
        message = self.receive()
        assert message["type"] == 1, message
        return message["target"], message["arguments"]

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.send(json.dumps(message) + "\x1e")


@contextmanager
def connected(server: Server, path: str) -> Iterator[Client]:
    with server.connect(path) as socket:
        yield Client(socket)


@pytest.mark.slow
@pytest.mark.browser
def test_the_chat_of_the_tutorial_runs_as_it_is(
    start,
    page: Page,  # noqa: F811
    expected_errors,  # noqa: F811
):
    expected_errors.append("404")  # There is no icon.
    server = start()
    page.goto(server.origin)
    page.get_by_placeholder("Name").fill("ann")
    page.get_by_placeholder("Message").fill("Hello")
    page.get_by_role("button").click()
    expect(page.get_by_role("listitem")).to_have_text("ann: Hello")
    page.get_by_placeholder("Message").fill("x" * 501)
    page.get_by_role("button").click()
    expect(page.get_by_role("alert")).to_contain_text("A message has at most 500 characters.")


@pytest.mark.slow
def test_the_guides_do_what_they_say(start):
    server = start(asgi=GUIDES, urls=PATHS)
    with connected(server, "/streams") as client:
        client.invoke("Countdown", 2, type=4)
        assert [client.receive()["item"] for _ in range(2)] == [2, 1]
        assert client.result() is None
        client.invoke("Total", streamIds=["2"])
        client.send_item(1.5)
        client.send_item(2)
        client.complete("2")
        assert client.result() == 3.5
    with connected(server, "/rooms") as one, connected(server, "/rooms") as two:
        one.invoke("Join", "blue")
        target, [id_] = one.called()
        assert (target, one.result()) == ("Joined", None)
        two.invoke("Join", "blue")
        assert two.called()[0] == "Joined"
        assert two.result() is None
        assert one.called()[1] != [id_]
        two.invoke("Say", "blue", "Hello")
        assert one.called() == ("Said", ["Hello"])
        assert two.result() is None
    with connected(server, "/feeds") as client:
        client.invoke("Follow", 7, None)
        assert client.result() is False
        urlopen(f"{server.origin}/tell", timeout=BOUND).close()
        assert client.called() == ("Message", ["room/7", None, "Hello"])
    with connected(server, "/typed") as client:
        client.invoke("SendMessage", "ann", "Hello")
        assert client.called() == ("ReceiveMessage", ["ann", "Hello"])
    with connected(server, "/games") as client:
        client.invoke("Play")
        question = client.receive()
        assert question["target"] == "ChooseMove"
        client.complete(question["invocationId"], result="rock")
        assert client.result() == "rock it is"
    with connected(server, "/timed") as client:
        client.invoke("Echo", 1)
        assert client.result() == 1
    with connected(server, "/chat") as client:
        for path, text in (("announce", "Hello"), ("announce-sync", "Hello again")):
            urlopen(f"{server.origin}/{path}", timeout=BOUND).close()
            assert client.called() == ("ReceiveMessage", ["system", text])
    with pytest.raises(Exception, match="401"), server.connect("/orders"):
        """Nobody has logged in."""
    with pytest.raises(Exception, match="401"), server.connect("/tokens?access_token=wrong"):
        """That is no token."""


@pytest.mark.slow
def test_the_tests_of_a_hub_run_as_they_are(tmp_path):
    directory = tmp_path / "mysite"
    directory.mkdir()
    for name, text in {"__init__": "", **examples_of(PAGE)}.items():
        (directory / f"{name}.py").write_text(text)
    (directory / "settings.py").write_text(f"{_SETTINGS}{_ACCOUNTS}")
    done = subprocess.run(
        [sys.executable, "-m", "django", "test", "mysite"],
        cwd=tmp_path,
        env={**clean_environment(), **environment_of(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "Ran 3 tests" in done.stderr) == (0, True), done.stderr


@pytest.mark.parametrize("name", ws_support.hubs.__all__)
def test_every_public_name_is_in_the_table_of_names(name):
    table = TEXT.partition("## Names of `ws_support.hubs`")[2].partition("\n## ")[0]
    names = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    assert re.search(rf"`{name}\b", names)


def test_the_page_links_to_headings_that_it_has():
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors
