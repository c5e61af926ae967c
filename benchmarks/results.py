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

from benchmarks.cores import Cores
from benchmarks.servers import ENVIRONMENT, Competitor


@dataclass(frozen=True)
class Sample:
    """One competitor in one round of one part."""

    part: str
    server: str
    application: str
    round: int
    measured: Mapping[str, float]
    """Figures by name. The name says the unit."""

    case: str = ""
    """The name of the case, in parts that have several."""

    @property
    def competitor(self) -> Competitor:
        return Competitor(self.server, self.application)


@dataclass(frozen=True)
class Results:
    environment: Mapping[str, Any]
    arguments: Mapping[str, Mapping[str, float]]
    """What each part was measured with."""

    samples: list[Sample] = field(default_factory=list)

    def competitors(self, part: str) -> list[Competitor]:
        """Those that were measured, in the order in which they were."""
        return list(dict.fromkeys(each.competitor for each in self.samples if each.part == part))

    def cases(self, part: str) -> list[tuple[Competitor, str]]:
        """The same with each of their cases."""
        return list(
            dict.fromkeys(
                (each.competitor, each.case) for each in self.samples if each.part == part
            )
        )

    def series(
        self, part: str, competitor: Competitor, figure: str, case: str = ""
    ) -> dict[int, float]:
        """One figure of a competitor by round."""
        return {
            each.round: each.measured[figure]
            for each in self.samples
            if each.part == part and each.competitor == competitor and each.case == case
        }

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> Results:
        """Raises `OSError` and `ValueError` for a file that is not there, or is none of ours."""
        try:
            written = json.loads(file.read_text())
            samples = [Sample(**each) for each in written.pop("samples")]
            return cls(**written, samples=samples)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} holds no results: {error!r}.") from error


def environment(cores: Cores) -> dict[str, Any]:
    """The machine and the software, as far as figures depend on them."""
    return {
        "command": shlex.join(sys.orig_argv),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "server_core": cores.server,
        "load_core": cores.load,
        "kernel": platform.release(),
        "server_environment": ENVIRONMENT,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": dict(sorted((each.metadata["Name"], each.version) for each in distributions())),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
