"""Processes that are forked behave as those that `subprocess` starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import BOUND, until
from tests.warm import Process, warm

Run = Callable[..., Process]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start `python -c CODE`, whose output is in `output`."""
    processes = []

    def start(code: str, *arguments: str, **options: Any) -> Process:
        with (tmp_path / "output").open("wb") as output:
            process = warm("hypercorn").start(
                ["-c", code, *arguments],
                cwd=tmp_path,
                env={**os.environ, "OF_ITS_OWN": "yes"},
                stdout=output.fileno(),
                stderr=output.fileno(),
                **options,
            )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait(BOUND)


def test_it_has_arguments_environment_folder_and_output_of_its_own(run, tmp_path):
    code = (
        "import json, os, sys; print(json.dumps([sys.argv, os.environ['OF_ITS_OWN'], os.getcwd()]))"
    )
    assert run(code, "first", "second").wait(BOUND) == 0
    found = json.loads((tmp_path / "output").read_text())
    assert found == [["-c", "first", "second"], "yes", str(tmp_path)]


def test_django_is_set_up_by_each_of_them(run):
    code = "from django.conf import settings; raise SystemExit(settings.configured)"
    assert run(code).wait(BOUND) == 0


@pytest.mark.parametrize(
    ("code", "expected"), [("pass", 0), ("raise SystemExit(3)", 3), ("raise OSError", 1)]
)
def test_its_exit_code_is_that_of_python(run, code, expected):
    assert run(code).wait(BOUND) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_that_ends_it_is_its_exit_code(run, tmp_path, number):
    process = run("import time; print('ready'); time.sleep(60)")
    for _ in until("output"):
        if (tmp_path / "output").read_text():
            break
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(number)
    assert process.wait(BOUND) == process.poll() == -number


def test_it_may_have_a_session_of_its_own(run):
    mine = os.getsid(0)
    process = run("import time; time.sleep(60)", start_new_session=True)
    for _ in until("session"):
        if os.getsid(process.pid) != mine:
            break
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(BOUND) == -signal.SIGKILL


def test_what_it_spawns_is_forked_as_well(run, tmp_path):
    (tmp_path / "answering.py").write_text("def answer(end):\n    end.send('spawned')\n")
    code = (
        "import sys; sys.path.insert(0, '')\n"
        "from multiprocessing import get_context\n"
        "import answering\n"
        "context = get_context('spawn')\n"
        "ours, theirs = context.Pipe()\n"
        "process = context.Process(target=answering.answer, args=(theirs,))\n"
        "process.start()\n"
        "print(ours.recv(), open(f'/proc/{process.pid}/comm').read().strip())\n"
        "process.join()\n"
        "raise SystemExit(process.exitcode)\n"
    )
    assert run(code, replaced=2).wait(BOUND) == 0
    assert (tmp_path / "output").read_text() == "spawned spawn_main\n"
