from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from tests.certificates import Certificates, make_certificates
from tests.harness import ROOT, Server, serving
from tests.redis import CORE, PUBSUB, Redis
from tests.warm import end_all

pytest_plugins = ["ws_support.testing.plugin", "tests.tracebacks", "pytester"]

ALONE = frozenset(
    {
        "tests/management/test_broadcast.py",
        "tests/management/test_runasgi.py",
        "tests/middleware/test_heartbeat.py",
        "tests/servers/test_addresses.py",
        "tests/servers/test_stopping.py",
        "tests/test_redis_away.py",
    }
)
"""Files whose tests share nothing, and run wherever there is time."""

LONG = [
    "tests/browser/test_demo.py",
    "tests/test_endings.py",
    "tests/deploy/test_commands.py",
    "tests/test_redis_away.py",
    "tests/servers/test_behaviours.py",
    "tests/servers/test_picows.py",
    "tests/servers/test_daphne.py",
    "tests/browser/test_client.py",
    "tests/servers/test_floods.py",
    "tests/test_redis.py",
    "tests/deploy/test_proxies.py",
    "tests/browser/test_live.py",
]
"""Files that take a minute and more."""

# Playwright's synchronous interface runs a loop in this thread, in which no test uses a database.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
# A shared machine is slow for a moment now and then.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


# A shell has what runs in its background ignore Ctrl-C, and nohup the hangup: servers would inherit
# that. What has a handler of Python's own is not inherited.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

_SHARED = re.compile(r"[\[-](daphne|runserver|uvicorn-picows|uvicorn|hypercorn|granian)(?=[]-])")


class _Scheduling(LoadFileScheduling):
    """The tests of a file run in one process, since they share a browser or what else takes time to
    start. Those that share a server are a part of their own, and those of `ALONE` one each."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if file in ALONE:
            return nodeid
        shared = (
            _SHARED.search(nodeid) if file.startswith(("tests/servers/", "tests/test_")) else None
        )
        return f"{file}[{shared[1]}]" if shared else file


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, and small pieces fill the end."""

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return LONG.index(file) if file in LONG else len(LONG) + (file in ALONE)

    items.sort(key=place)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return _Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    end_all()  # Before what they have measured is put together.


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server with settings of the test's own; stopped when the test ends."""
    with ExitStack() as stack:

        def start(**options: Any) -> Server:
            log_file = tmp_path / f"server-{len(list(tmp_path.glob('server-*')))}.log"
            return stack.enter_context(serving(log_file, **options))

        yield start


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo as `manage.py runserver` starts it, shared by the tests of a module."""
    with serving(tmp_path_factory.mktemp("demo") / "server.log") as server:
        yield server


def need_program(*names: str) -> str:
    """The path of the first of these programs. Without one, skips; in CI, fails."""
    for name in names:
        if path := shutil.which(name):
            return path
    message = f"needs {' or '.join(names)}, which is not installed"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def need_npm_package(name: str) -> Path:
    """Where a package of `tests/client` is, which `make test` installs where there is npm. Without,
    skips; in CI, fails."""
    path = ROOT / "tests" / "client" / "node_modules" / name
    if path.exists():
        return path
    message = f"needs {name}: npm ci --prefix tests/client"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis of this test's own, which it may stop."""
    redis = Redis(need_program("redis-server"), tmp_path)
    redis.start()
    yield redis
    redis.stop()


@pytest.fixture(params=[CORE, PUBSUB], ids=["core", "pubsub"])
def layers(request: pytest.FixtureRequest, redis: Redis) -> dict[str, Any]:
    return redis.layers(request.param)


@pytest.fixture
def two_servers(serve: Callable[..., Server], layers: dict[str, Any]) -> list[Server]:
    """Two processes with the same channel layer, and queues that a busy machine does not fill."""
    options = {"CHANNEL_LAYERS": layers, "WS_SUPPORT": {"BROADCAST_QUEUE": 1000}}
    return [serve(asgi_server=name, **options) for name in ("uvicorn", "granian")]
