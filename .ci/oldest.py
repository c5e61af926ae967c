"""Print the oldest version of each dependency that pyproject.toml promises, as pip's constraints.

python .ci/oldest.py > constraints.txt
PIP_CONSTRAINT=constraints.txt make test
"""

from __future__ import annotations

import re
from pathlib import Path

import tomllib

_PROMISED = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9.]+)")


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    oldest = {}
    for requirement in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        promised = _PROMISED.match(requirement)
        if promised is None:
            raise SystemExit(f"pyproject.toml: {requirement!r} does not begin with name>=version.")
        oldest[promised[1]] = promised[2]
    for name, version in oldest.items():
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
