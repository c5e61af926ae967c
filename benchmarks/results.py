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

from benchmarks.servers import ENVIRONMENT, Competitor


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

    @property
    def competitor(self) -> Competitor:
        return Competitor(self.server, self.application)


@dataclass(frozen=True)
class Results:
    environment: Mapping[str, Any]
    arguments: Mapping[str, Mapping[str, float]]
    """What each part was measured with."""

    samples: list[Sample] = field(default_factory=list)

    def rows(self, part: str) -> list[tuple[Competitor, str]]:
        """Return the competitors of a part and their cases, in the order of measuring."""
        of_part = (each for each in self.samples if each.part == part)
        return list(dict.fromkeys((each.competitor, each.case) for each in of_part))

    def series(
        self, part: str, competitor: Competitor, figure: str, case: str = ""
    ) -> dict[int, float]:
        """Return one figure of a competitor by round; empty when it was not measured."""
        wanted = (part, competitor, case)
        return {
            each.round: each.measured[figure]
            for each in self.samples
            if (each.part, each.competitor, each.case) == wanted
        }

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> Results:
        """Read a file. Raises `OSError` or `ValueError` for one that is not there or not ours."""
        try:
            written = json.loads(file.read_text())
            samples = [Sample(**each) for each in written.pop("samples")]
            return cls(**written, samples=samples)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} holds no results: {error!r}.") from error


def environment(cores: tuple[int | None, int | None]) -> dict[str, Any]:
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
