from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.hubs.clients import Clock, Problems, check_nothing_is_left
from tests.hubs.node import KINDS, SCRIPTS, Clients, Follower, Node
from tests.hubs.recording import open_gates
from ws_support._connection.database import OldConnections
from ws_support._connection.registry import open_connections
from ws_support._hubs import connection


@pytest_asyncio.fixture
async def problems() -> AsyncIterator[Problems]:
    """Fail for each traceback in the log, and for tasks and connections that are left.

    A test that asks for an error says which one, with `problems.expect()`.
    """
    problems = Problems()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: problems.found.append(str(context)))
    loggers = [logging.getLogger(name) for name in ("ws_support", "asyncio", "django")]
    for each in loggers:
        each.addHandler(problems)
    # The first one in an event loop takes a thread, and some turns of the loop.
    await OldConnections.of_this_loop().close()
    before = asyncio.all_tasks()
    gc.freeze()  # Only what the test makes is looked at in the end.
    try:
        yield problems
        open_gates()
        await check_nothing_is_left(before)
        assert not problems.found
    finally:
        open_gates()
        open_connections._connections.clear()  # One failed test is enough.
        for each in loggers:
            each.removeHandler(problems)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give methods that run at the end a tenth of a second instead of 5."""
    monkeypatch.setattr(connection, "_GRACE", 0.1)


@pytest_asyncio.fixture
async def clock(monkeypatch: pytest.MonkeyPatch, problems: Any) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(scope="session")
def hub_node(node: str, websocket_options: list[str]) -> Node:
    return Node(node, websocket_options)


@pytest.fixture
def connect(hub_node: Node, tmp_path: Path) -> Iterator[Callable[..., Clients]]:
    """Start clients of each kind for the hub at an origin. They are stopped with the test."""
    started = []

    def start(origin: str, count: int = 1, kinds: list[str] = KINDS) -> Clients:
        said = tmp_path / "clients.txt"
        clients = hub_node.connect(f"{origin}/logged-hub", said, count, kinds)
        started.append(clients)
        return clients

    yield start
    for clients in started:
        # Servers would wait for polls that do not come.
        clients.end()


@pytest.fixture
def follow(hub_node: Node, tmp_path: Path) -> Iterator[Callable[[str], Follower]]:
    """Start a client that follows the topic room/x."""
    processes = []

    def start(origin: str) -> Follower:
        said = tmp_path / f"follower-{len(processes)}.txt"
        command = [*hub_node.command, SCRIPTS / "topics_follower.js", f"{origin}/topics-hub"]
        with said.open("wb") as file:
            process = subprocess.Popen([*command, "room/x"], stdout=file, stderr=file)
        processes.append(process)
        return Follower(process, said)

    yield start
    for process in processes:
        process.kill()
        process.wait()
