"""What was measured, where, and with what: a JSON file."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pandas import DataFrame, MultiIndex

from benchmarks.servers import ENVIRONMENT


@dataclass(frozen=True)
class Sample:
    """One competitor in one round of one part."""

    part: str
    case: str
    """Empty in parts that have one only."""

    server: str
    application: str
    round: int
    measured: Mapping[str, float]
    """Figures by name."""


@dataclass(frozen=True)
class Results:
    environment: Mapping[str, Any]
    arguments: Mapping[str, Mapping[str, float]]
    """What each part was measured with."""

    samples: list[Sample] = field(default_factory=list)

    def part(self, name: str) -> DataFrame:
        """Return the figures of a part, one a column; a row is a competitor in a case and round."""
        samples = [sample for sample in self.samples if sample.part == name]
        rows = [(each.server, each.application, each.case, each.round) for each in samples]
        index = MultiIndex.from_tuples(rows, names=["server", "application", "case", "round"])
        return DataFrame([each.measured for each in samples], index)

    def write(self, directory: Path) -> Path:
        """Write `results.json`, and return the file."""
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "results.json"
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return file


def environment(cores: tuple[int, int]) -> dict[str, Any]:
    """Return the machine and the software, as far as figures depend on them."""
    return {
        "command": shlex.join(sys.orig_argv),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} x {platform.machine()}, Linux {platform.release()}",
        "server_core": cores[0],
        "load_core": cores[1],
        "server_environment": ENVIRONMENT,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": dict(sorted((each.metadata["Name"], each.version) for each in distributions())),
    }
