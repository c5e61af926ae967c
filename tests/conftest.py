from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

import pytest
from django.core.signals import setting_changed
from hypothesis import settings

from tests.certificates import Certificates, make_certificates
from tests.harness import ASGI_SERVERS, ROOT, SERVERS, Server, serving
from tests.redis import WAYS, Cluster, Redis
from tests.warm import end_all

pytest_plugins = ["ws_support.testing.plugin", "tests.tracebacks", "pytester"]

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

# Each process collects thousands of tests, which stay: to look through them again and again takes a
# third of that time, and of what the tests spend on collecting garbage later.
gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


SHARING = ("tests/hubs/", "tests/middleware/", "tests/servers/", "tests/test_")
SERVER_NAMES = {*ASGI_SERVERS, *SERVERS}
# Of a grid, the first of each that is in it.
DEFAULTS = [("daphne", "runserver"), ("uvicorn-picows", "uvicorn")]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Say which tests run in one process, and which begin first.

    Those of a file do, since they share a browser or what else takes time to start; of those that
    share a server, the ones of each server. What is marked with `long` begins first. Those that are
    marked with `alone` share nothing, and mostly wait: they are spread among the others, which keep
    the processor busy meanwhile.

    Outside of CI, tests that run on each server are slow on all but two: the default of
    `runserver`, and that of `runasgi`. To change another server, name it: `-m "" -k hypercorn`. So
    are those that run over both layers of channels_redis, on the one that fewer people use, and
    over a Redis Cluster as well, there.
    """
    tested_on = defaultdict(set)
    for item in items:
        tested_on[item.function].add(server_of(item))
    for item in items:
        names = tested_on[item.function] - {None}
        kept = {next(filter(names.__contains__, defaults), None) for defaults in DEFAULTS} - {None}
        is_other_server = kept and server_of(item) not in kept
        params = item.callspec.params if hasattr(item, "callspec") else {}
        is_other_layer = params.get("way") == "pubsub" or "cluster" in params.values()
        if (is_other_server or is_other_layer) and not os.environ.get("CI"):
            item.add_marker(pytest.mark.slow)
        if not is_alone(item):
            item.add_marker(pytest.mark.xdist_group(group_of(item)))
    yield
    alone, together = [], []
    for item in items:
        (alone if is_alone(item) else together).append(item)
    together.sort(key=lambda item: item.get_closest_marker("long") is None)
    places = [
        ((at + 1) / len(each), item) for each in (alone, together) for at, item in enumerate(each)
    ]
    places.sort(key=itemgetter(0))
    items[:] = [item for _, item in places]


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def server_of(item: pytest.Item) -> str | None:
    """The name of the server that a test is for, if it is for one."""
    params = getattr(item, "callspec", None)
    values = params.params.values() if params else ()
    return next((each for each in values if isinstance(each, str) and each in SERVER_NAMES), None)


def group_of(item: pytest.Item) -> str:
    file = item.nodeid.partition("::")[0]
    name = server_of(item) if file.startswith(SHARING) else None
    return f"{file}:{name}" if name else file


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add the last lines of its servers to the report of a test that has failed."""
    report: pytest.TestReport = yield
    directory = getattr(item, "funcargs", {}).get("tmp_path")
    if report.when == "call" and report.failed and directory is not None:
        for log in sorted(directory.glob("server-*.log")):
            report.sections.append((log.name, log.read_text(errors="replace")[-4000:]))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep halves of surrogate pairs from a worker's report: it could not be sent."""
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]


def pytest_make_parametrize_id(val: object) -> str | None:
    """Keep names of tests short: all are sent between processes, one is in the environment."""
    if isinstance(val, str | bytes) and len(val) > 100:
        return f"{ascii(val[:20])[:40]} and so on, {len(val)} long"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    end_all()  # Before what they have measured is put together.


@pytest.fixture(scope="session", autouse=True)
def _options_of_tests(django_test_environment: None) -> None:
    """Read the settings anew: Django's test environment changes them after the modules are loaded,
    and says so to nobody."""
    setting_changed.send(sender=None, setting="ALLOWED_HOSTS", value=None, enter=True)


@pytest.fixture
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server with settings of the test's own; stopped when the test ends.

    In a slow test its coverage is not measured, unless the test asks for that or is marked with
    `alone`: it takes time, and most slow tests run the lines of others, with more to do.
    """
    is_measured = request.node.get_closest_marker("slow") is None or is_alone(request.node)
    with ExitStack() as stack:

        def start(**options: Any) -> Server:
            log_file = tmp_path / f"server-{len(list(tmp_path.glob('server-*')))}.log"
            return stack.enter_context(serving(log_file, **{"measured": is_measured, **options}))

        yield start


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo as `manage.py runserver` starts it, shared by the tests of a module."""
    with serving(tmp_path_factory.mktemp("demo") / "server.log") as server:
        yield server


@pytest.fixture(scope="module")
def shared_hub_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for clients of hubs that send no origin, shared by the tests of a module."""
    log_file = tmp_path_factory.mktemp("hubs") / "server.log"
    settings = {"ALLOW_MISSING_ORIGIN": True}
    with serving(log_file, asgi_server="uvicorn-picows", WS_SUPPORT=settings) as server:
        yield server


@pytest.fixture
def hub_server(shared_hub_server: Server) -> Server:
    """The same server, with a log that begins with the test."""
    return shared_hub_server.from_now_on()


def need_program(*names: str) -> str:
    """The path of the first of these programs. Without one, skips; in CI, fails."""
    for name in names:
        if path := shutil.which(name):
            return path
    return missing(f"needs {' or '.join(names)}, which is not installed")


@pytest.fixture(scope="session")
def node() -> str:
    """Node.js 20 or newer: the machine's, or the one that Playwright brings along. Without one,
    skips; in CI, fails."""
    import playwright

    bundled = Path(playwright.__file__).parent / "driver" / "node"
    for program in filter(None, (shutil.which("node"), shutil.which(bundled))):
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        if int(version.stdout.lstrip("v").partition(".")[0]) >= 20:
            return program
    return missing(f"needs Node.js 20 or newer, and there is none, not even {bundled}")


@pytest.fixture(scope="session")
def websocket_options(node: str) -> list[str]:
    """What gives Node.js a WebSocket: version 22 has one."""
    version = subprocess.run(
        [node, "-p", "process.versions.node"], capture_output=True, text=True, check=True
    )
    return ["--experimental-websocket"] if version.stdout.startswith(("20.", "21.")) else []


def need_npm_package(name: str) -> Path:
    """Where a package of `tests/client` is, which `make test` installs where there is npm. Without,
    skips; in CI, fails."""
    path = ROOT / "tests" / "client" / "node_modules" / name
    if path.exists():
        return path
    return missing(f"needs {name}: npm ci --prefix tests/client")


def missing(message: str) -> NoReturn:
    """Skip the test for what it needs and the machine lacks; in CI, fail it."""
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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Redis Cluster of three masters, which tests leave as it is."""
    cluster = Cluster(need_program("redis-server"), tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """What carries broadcasts through Redis."""
    return WAYS[request.param]


@pytest.fixture
def connected_settings(way: str, redis: Redis) -> dict[str, Any]:
    """With which processes hear each other, and queues are not full on a busy machine."""
    return redis.settings(way, options={"BROADCAST_QUEUE": 1000})


@pytest.fixture
def two_servers(connected_settings: dict[str, Any], serve: Callable[..., Server]) -> list[Server]:
    return [serve(asgi_server=name, **connected_settings) for name in ("uvicorn", "granian")]
