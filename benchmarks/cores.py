"""One core for the server, another for the load, so that neither takes time from the other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cores:
    """Numbers of cores; both `None` when there is one only, and nothing is pinned."""

    server: int | None
    load: int | None

    @classmethod
    def choose(cls) -> Cores:
        """Two that this process may use, and that are not two threads of one core."""
        first, *others = sorted(os.sched_getaffinity(0))
        if not others:
            return cls(None, None)
        siblings = _siblings(first)
        return cls(first, next((core for core in others if core not in siblings), others[0]))


def pin(core: int | None) -> None:
    """Keep this process, its threads and its children on a core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def _siblings(core: int) -> set[int]:
    """The threads of this core, as the kernel lists them: 0,4 or 0-1."""
    file = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    if not file.exists():
        return {core}
    found: set[int] = set()
    for part in file.read_text().strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
