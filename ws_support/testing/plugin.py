"""Fixtures for pytest. In `conftest.py`: `pytest_plugins = ["ws_support.testing.plugin"]`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pytest

from ws_support.testing.peer import Peer
from ws_support.testing.pool import ServerGetter, ServerPool
from ws_support.testing.server import Server

__all__ = ["websocket_peer", "websocket_server", "websocket_server_pool"]

_MARK: Final = "websocket_tracebacks"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{_MARK}: the log of a websocket_server may have tracebacks in this test"
    )


@pytest.fixture(scope="session")
def websocket_server_pool(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[ServerPool]:
    """The servers of the session, started in the root directory of pytest, where `manage.py` is.

    Define a fixture of this name to have a pool with other arguments.
    """
    pool = ServerPool(tmp_path_factory.mktemp("servers"), cwd=pytestconfig.rootpath)
    yield pool
    pool.stop()


@pytest.fixture
def websocket_server(
    websocket_server_pool: ServerPool, request: pytest.FixtureRequest
) -> Iterator[ServerGetter]:
    """A function that returns a real server: see `ServerPool.get()`.

    Servers with equal arguments are shared by all tests of the session. A test fails if a server
    that it uses logs a traceback meanwhile, unless it is marked with
    `@pytest.mark.websocket_tracebacks`. Tests with that mark share servers of their own. The report
    of a test that fails shows what its servers have logged.
    """
    expects_tracebacks = request.node.get_closest_marker(_MARK) is not None
    group = _MARK if expects_tracebacks else ""
    marks: dict[Server, int] = {}

    def get(*arguments: Any, **options: Any) -> Server:
        server = websocket_server_pool.get(*arguments, **{"group": group, **options})
        marks.setdefault(server, server.mark())
        return server

    yield get
    for server, mark in marks.items():
        section = f"log of the server {server.name}"
        request.node.add_report_section("teardown", section, server.log(mark))
    if not expects_tracebacks:
        for server, mark in marks.items():
            server.check_log(mark)


@pytest.fixture
def websocket_peer() -> partial[Peer]:
    """A function that returns a `Peer` of `ASGI_APPLICATION`; its arguments without the first."""
    from channels.routing import get_default_application

    return partial(Peer, get_default_application())
