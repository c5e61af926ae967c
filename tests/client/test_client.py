"""The browser client by itself: in Node.js, its types, and what is said of its options."""

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


@pytest.fixture(scope="module")
def node() -> str:
    """Node.js 20 or newer: the machine's, or the one that Playwright brings along."""
    import playwright

    bundled = Path(playwright.__file__).parent / "driver" / "node"
    for program in filter(None, (shutil.which("node"), str(bundled))):
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        if int(version.stdout.lstrip("v").partition(".")[0]) >= 20:
            return program
    raise AssertionError(f"no Node.js 20 or newer, not even {bundled}")


def test_the_client_does_what_its_unit_tests_say(node: str) -> None:
    run = subprocess.run(
        # In one process, which ends at the timeout: `--test` has another one for each file.
        [node, "--test-reporter=tap", HERE / "client.test.js"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"^# pass (\d+)$", run.stdout, re.M)[1]) > 90


def test_the_client_works_in_node_from_its_opening_to_its_close(
    node: str, serve: Callable[..., Server], tmp_path: Path
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
    version = subprocess.run([node, "-p", "process.versions.node"], capture_output=True, text=True)
    options = ["--experimental-websocket"] if version.stdout.startswith(("20.", "21.")) else []
    run = subprocess.run(
        [node, *options, script, server.url()],
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


def test_the_types_name_every_option() -> None:
    source = (CLIENT / "client.js").read_text()
    defaults = re.search(r"const DEFAULTS = \{\n(.*?)\n\};", source, re.S)[1]
    declared = re.search(
        r"export interface Options \{\n(.*?)\n\}", (CLIENT / "client.d.ts").read_text(), re.S
    )[1]
    names = re.findall(r"^  (\w+):", defaults, re.M)
    assert names == re.findall(r"^  (\w+)\?:", declared, re.M)
    page = (ROOT / "docs" / "browser.md").read_text()
    assert [name for name in names if f"`{name}`" not in page] == []
