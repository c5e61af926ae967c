"""Clients of hubs in Node.js: Microsoft's, and hub.js. The scripts are in `tests/client`."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from tests.conftest import need_npm_package
from tests.harness import BOUND, ROOT, wait_until

SCRIPTS = ROOT / "tests" / "client"
KINDS = [
    "WebSockets, json",
    "WebSockets, messagepack",
    "ServerSentEvents, json",
    "LongPolling, json",
    "LongPolling, messagepack",
    "hub.js",
]
"""The names that `tests/client/hubs.js` has for clients without a stateful reconnect."""

WS_SUPPORT = {"ALLOW_MISSING_ORIGIN": True, "HUBS": {"ALLOW_STATEFUL_RECONNECTS": True}}
"""The setting of their servers. Node.js sends no origin."""


class Node:
    """Node.js with what the scripts need. A test that it lacks something for is skipped."""

    def __init__(self, program: str, options: list[str]) -> None:
        for name in ("@microsoft/signalr", "@microsoft/signalr-protocol-msgpack", "ws"):
            need_npm_package(name)
        self.command = [program, *options]

    def passed(self, script: str, *, timeout: float = 200, **environment: object) -> int:
        """Run the tests in a script, and return how many have passed, which are all."""
        run = subprocess.run(
            # In one process, which ends at the timeout: `--test` has another one for each file.
            [*self.command, "--test-reporter=tap", SCRIPTS / script],
            env={**os.environ, **{name: str(environment[name]) for name in environment}},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        # Each with what follows: its error, and where.
        failed = re.finditer(r"^( *)not ok .*\n(?:\1  .*\n)*", run.stdout, re.M)
        assert run.returncode == 0, "".join(each[0] for each in failed) + run.stderr[-5_000:]
        return int(re.search(r"^# pass (\d+)$", run.stdout, re.M)[1])

    def connect(self, url: str, said: Path, count: int, kinds: list[str]) -> Clients:
        """Start so many clients of each of these kinds. `said` is the file for what they say."""
        with said.open("wb") as file:
            process = subprocess.Popen(
                [*self.command, SCRIPTS / "hubs.ends.js", url, str(count), *kinds],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        names = {f"{kind} {number}" for kind in kinds for number in range(count)}
        return Clients(process, said, names)


class Clients:
    """Connections of each kind of client, in one process of Node.js."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path, names: set[str]) -> None:
        self._process = process
        self._said = said
        self.names = names

    def _events(self) -> list[dict[str, Any]]:
        text = self._said.read_text()
        lines = text.rpartition("\n")[0].splitlines()
        # Anything else is how Node.js ends when a client has failed.
        assert all(line.startswith("{") for line in lines), text
        return [json.loads(line) for line in lines]

    def events(self, name: str) -> dict[str, dict[str, Any]]:
        """The last event of this name of each client that has had one."""
        return {each["client"]: each for each in self._events() if each["event"] == name}

    def latest(self) -> dict[str, str]:
        """The name of the last event of each client."""
        return {each["client"]: each["event"] for each in self._events()}

    def wait_for(self, name: str) -> dict[str, dict[str, Any]]:
        """The events of this name, when each client has had one."""
        wait_until(
            lambda: self.events(name).keys() == self.names, f"{name} of each", self._said.read_text
        )
        return self.events(name)

    def wait_until_all_are_back(self) -> None:
        wait_until(
            lambda: self.latest() == dict.fromkeys(self.names, "back"),
            "return of each",
            self._said.read_text,
        )

    def stop(self) -> None:
        """Have each client ask the hub once more, and stop them."""
        self._process.stdin.close()
        assert self._process.wait(BOUND) == 0, self._said.read_text()
        assert self.events("answered").keys() == self.names

    def end(self) -> None:
        """Stop them, whatever state they are in."""
        self._process.stdin.close()
        try:
            self._process.wait(BOUND)
        finally:
            self._process.kill()
            self._process.wait()


class Follower:
    """`topics_follower.js`, and what it has said."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self.process = process
        self._said = said

    def text(self) -> str:
        return self._said.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().rpartition("\n")[0].splitlines()]

    @property
    def messages(self) -> list[str]:
        return [each["data"] for each in self.events if each["type"] == "message"]

    def counts(self) -> Counter[str]:
        return Counter(each["type"] for each in self.events)

    def wait_for(self, kind: str, count: int) -> None:
        wait_until(lambda: self.counts()[kind] >= count, f"{count} times {kind}", self.text)
