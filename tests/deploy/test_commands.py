"""`make demo` and `make test`, in a fresh copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need_program
from tests.deploy.conftest import clean_environment
from tests.harness import BOUND, ROOT, Server, free_port, until

# They download and install.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.long]

INSTALL_BOUND = 300.0
"""Seconds within which everything is downloaded and installed, also on a slow line."""
PYTHON = f'exec "{sys.executable}" "$@"'


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone of this repository would hold, with the changes that are not committed yet."""
    need_program("make")
    copy = tmp_path_factory.mktemp("repository") / "checkout"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):  # An archive, and no clone.
        ignored = shutil.ignore_patterns(".*", "__pycache__", "dist")
        return shutil.copytree(ROOT, copy, ignore=ignored)
    for name in listed.stdout.rstrip("\0").split("\0"):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def first_demo(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo that the first `make demo` starts."""
    with demo(checkout, tmp_path_factory.mktemp("log") / "demo.log") as server:
        server.wait_until_listening(bound=INSTALL_BOUND)
        yield server


def test_make_demo_serves_the_pages_in_a_fresh_checkout(first_demo):
    for path in ("", "/live", "/hub"):
        with urllib.request.urlopen(f"{first_demo.origin}{path}", timeout=BOUND) as response:
            assert "<!doctype html>" in response.read().decode()
    assert f"Open {first_demo.origin}/ in a browser." in first_demo.log()


def test_make_demo_echoes_in_a_fresh_checkout(first_demo):
    with first_demo.connect() as client:
        client.send("hello")
        assert client.recv(BOUND) == "hello"


def test_make_demo_warns_of_nothing(first_demo):
    log = first_demo.log().lower()
    assert "warning" not in log
    assert "migration" not in log


def test_make_demo_installs_what_the_package_needs_and_nothing_else(checkout, first_demo):
    installed = {each.name for each in checkout.glob(".venv/lib/python*/site-packages/*")}
    assert {"django", "channels", "daphne", "msgspec"} <= installed
    assert not {"pytest", "mypy", "playwright"} & installed


def test_make_demo_installs_nothing_from_the_second_time_on(checkout, first_demo, tmp_path):
    with demo(checkout, tmp_path / "demo.log") as server:
        server.wait_until_listening()
    assert "Installing" not in server.log()


def test_ctrl_c_ends_make_demo_and_everything_that_it_started(checkout, first_demo, tmp_path):
    with demo(checkout, tmp_path / "demo.log") as server:
        server.wait_until_listening()
        with server.connect():
            os.killpg(server.process.pid, signal.SIGINT)
            server.process.wait(BOUND)
        for _ in until("end of the group", server.log):
            if not group_exists(server.process.pid):
                break
    assert "Traceback" not in server.log()
    assert "***" not in server.log()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), BOUND)


def test_make_test_installs_nothing_from_the_second_time_on(checkout, tmp_path):
    copy = shutil.copytree(checkout, tmp_path / "checkout", ignore=shutil.ignore_patterns(".venv*"))
    # It is the second time that matters, so the first one need not install all of them.
    project = copy / "pyproject.toml"
    text = re.sub(r"(?ms)^dev = \[.*?^\]", 'dev = ["pytest", "pytest-xdist"]', project.read_text())
    project.write_text(text)
    executable(tmp_path / "npm", "exit 0")
    options = ["test", "PYTEST_ARGS=--version", f"PATH={tmp_path}:{os.environ['PATH']}"]
    first = make(copy, *options)
    assert first.returncode == 0, first.stdout
    again = make(copy, *options)
    assert again.returncode == 0, again.stdout
    assert "Installing" in first.stdout
    assert "Installing" not in again.stdout


def test_an_interrupted_install_is_done_again_from_scratch(checkout, tmp_path):
    venv = "VENV=.venv-interrupted"
    make(checkout, ".venv-interrupted/.made", venv)
    with (
        (tmp_path / "make.log").open("wb") as log,
        started(checkout, log, ".venv-interrupted/.demo", venv) as process,
    ):
        for _ in until("install"):
            if (checkout / ".venv-interrupted" / ".making").exists():
                break
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(BOUND) != 0
    planned = make(checkout, "--dry-run", "demo", venv)
    assert "-m venv --clear .venv-interrupted" in planned.stdout


def test_without_a_python_one_line_says_what_is_missing(checkout):
    done = make(checkout, ".venv-none/.demo", "VENV=.venv-none", "PYTHON=no-such-python")
    assert done.returncode != 0
    (line,) = done.stdout.splitlines()
    assert "Python 3.10 or newer is missing, looked for: no-such-python." in line


def test_without_the_venv_module_one_line_says_what_to_install(checkout, tmp_path):
    # As Debian's python3 is without python3-venv.
    python = executable(
        tmp_path / "python", f'case "$2" in *ensurepip*) echo missing; exit 1;; esac\n{PYTHON}'
    )
    done = make(checkout, ".venv-none/.demo", "VENV=.venv-none", f"PYTHON={python}")
    assert done.returncode != 0
    (line,) = done.stdout.splitlines()
    assert f"The venv module of {python} is missing." in line
    assert "apt install python3-venv" in line


def test_a_python_that_is_too_old_is_passed_over(checkout, tmp_path):
    old = executable(
        tmp_path / "old", f'exec "{sys.executable}" -c "import sys; sys.version_info = (3, 9); $2"'
    )
    new = executable(tmp_path / "new", PYTHON)
    planned = make(checkout, "--dry-run", "demo", "VENV=.venv-none", f"PYTHON={old} {new}")
    assert f"{new} -m venv --clear .venv-none" in planned.stdout


def test_another_python_makes_the_environment_anew(checkout, first_demo):
    planned = make(checkout, "--dry-run", "demo", f"PYTHON={sys.executable}")
    assert f"{sys.executable} -m venv --clear .venv" in planned.stdout


def test_make_alone_says_what_there_is(checkout):
    done = make(checkout)
    assert done.returncode == 0
    commands = [line.split()[:2] for line in done.stdout.splitlines()]
    assert ["make", "demo"] in commands
    assert ["make", "test"] in commands


def executable(file: Path, script: str) -> Path:
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def make(
    checkout: Path, *arguments: str, timeout: float = INSTALL_BOUND
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


@contextmanager
def demo(checkout: Path, log_file: Path) -> Iterator[Server]:
    """`make demo`, as a terminal runs it; ended by Ctrl-C."""
    port = free_port()
    with log_file.open("wb") as log, started(checkout, log, "demo", f"PORT={port}") as process:
        yield Server(process, "127.0.0.1", port, log_file)


@contextmanager
def started(checkout: Path, log: Any, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    # Tests that run in the background ignore Ctrl-C, and so would all that they start.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        ["make", *arguments],
        cwd=checkout,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, handler)
    try:
        yield process
    finally:
        for number in (signal.SIGINT, signal.SIGKILL):
            if group_exists(process.pid):
                os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(BOUND)


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
