"""The browser's clients by themselves: in Node.js, their types, and what is said of options."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import need_npm_package
from tests.harness import BOUND, ROOT, Server

HERE = Path(__file__).resolve().parent
CLIENT = ROOT / "ws_support" / "static" / "ws_support"


def passed(node: str, *options: str, file: str) -> int:
    """Run the tests of `file` and return how many have passed, which are all."""
    run = subprocess.run(
        # In one process, which ends at the timeout: `--test` has another one for each file.
        [node, *options, "--test-reporter=tap", HERE / file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return int(re.search(r"^# pass (\d+)$", run.stdout, re.M)[1])


def test_the_client_does_what_its_unit_tests_say(node: str) -> None:
    assert passed(node, file="client.test.js") > 90


@pytest.mark.slow
def test_the_client_of_hubs_keeps_to_the_protocol_with_real_sockets(
    node: str, websocket_options: list[str]
) -> None:
    need_npm_package("ws")
    assert passed(node, *websocket_options, file="hub.test.js") > 150


def test_the_client_of_hubs_keeps_to_its_times(node: str) -> None:
    need_npm_package("ws")
    assert passed(node, file="hub_timing.test.js") > 25


def test_the_client_of_topics_does_what_its_unit_tests_say(
    node: str, websocket_options: list[str]
) -> None:
    need_npm_package("ws")
    assert passed(node, *websocket_options, file="topics.test.js") > 50


def test_tabs_that_share_a_connection_do_what_their_unit_tests_say(
    node: str, websocket_options: list[str]
) -> None:
    need_npm_package("ws")
    assert passed(node, *websocket_options, file="topics_shared.test.js") > 10


def test_the_client_works_in_node_from_its_opening_to_its_close(
    node: str, websocket_options: list[str], serve: Callable[..., Server], tmp_path: Path
) -> None:
    # Node.js sends no Origin.
    server = serve(WS_SUPPORT={"ALLOW_MISSING_ORIGIN": True})
    # Under this name it is a module, wherever it lies.
    shutil.copy(CLIENT / "client.js", tmp_path / "client.mjs")
    script = tmp_path / "page.mjs"
    script.write_text(
        """
        import { ReliableWebSocket } from "./client.mjs";

        const options = { finalCodes: [4000], maxFirstAttempts: 1, heartbeatInterval: null };
        const socket = new ReliableWebSocket(process.argv[2], async () => [], options);
        socket.onmessage = ({ data }) => {
          console.log(data);
          socket.send("\\x04"); // what asks the server of the demo for a close
        };
        socket.onclose = ({ type, code, reason }) => console.log(type, code, reason);
        socket.send("Hello");
        """
    )
    run = subprocess.run(
        [node, *websocket_options, script, server.url()],
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    said = ["Hello", "close 4000 Cut, as the page has asked"]
    assert run.stdout.splitlines() == said, run.stderr


@pytest.mark.slow
def test_the_types_fit_how_it_is_used(node: str) -> None:
    compiler = need_npm_package("typescript") / "bin" / "tsc"
    run = subprocess.run(
        [node, compiler, "--project", HERE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout


def options_of(module: str, interface: str) -> tuple[list[str], list[str]]:
    """Return the options that a client has, and those that its types name."""
    source = (CLIENT / f"{module}.js").read_text()
    defaults = re.search(r"const DEFAULTS = \{\n(.*?)\n\};", source, re.S)[1]
    types = (CLIENT / f"{module}.d.ts").read_text()
    declared = re.search(rf"export interface {interface} \{{\n(.*?)\n\}}", types, re.S)[1]
    return re.findall(r"^  (\w+):", defaults, re.M), re.findall(r"^  (\w+)\?:", declared, re.M)


def test_the_types_name_every_option() -> None:
    names, declared = options_of("client", "Options")
    assert names == declared
    page = (ROOT / "docs" / "browser.md").read_text()
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_types_of_the_client_of_hubs_name_every_option() -> None:
    names, declared = options_of("hub", "HubOptions")
    assert names == declared
    assert len(names) > 10


def test_the_types_of_the_client_of_topics_name_every_option() -> None:
    source = (CLIENT / "topics.js").read_text()
    defaults = re.search(r"const SUBSCRIBE_DEFAULTS = \{(.*?)\};", source)[1]
    types = (CLIENT / "topics.d.ts").read_text()
    declared = re.search(r"export interface SubscribeOptions \{\n(.*?)\n\}", types, re.S)[1]
    names = re.findall(r"(\w+):", defaults)
    assert names == re.findall(r"^  (\w+)\?:", declared, re.M)
    assert len(names) > 3
