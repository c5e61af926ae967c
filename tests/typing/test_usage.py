"""The types of the package, as type checkers other than mypy read them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need_npm_package
from tests.harness import ROOT


@pytest.mark.slow
def test_pyright_agrees_with_what_the_documentation_shows() -> None:
    program = need_npm_package("pyright") / "index.js"
    run = subprocess.run(
        [
            shutil.which("node") or "node",
            program,
            "--pythonpath",
            sys.executable,
            Path(__file__).with_name("usage.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
