"""What the processes of a server have used, as Linux counts it."""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")

_libc = ctypes.CDLL(None, use_errno=True)


def processes_of(session: int) -> list[int]:
    """The ids of all processes in this session: a server, its workers and helpers."""
    return [
        int(directory.name)
        for directory in Path("/proc").iterdir()
        if directory.name.isdecimal() and _session_of(directory) == session
    ]


def _session_of(directory: Path) -> int | None:
    try:
        stat = (directory / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None  # Gone since it was listed.
    # The name comes second, in parentheses, and may hold anything. Zombies do no work.
    state, _, _, session = stat.rpartition(")")[2].split()[:4]
    return None if state == "Z" else int(session)


@dataclass(frozen=True)
class Usage:
    """Times in nanoseconds, which mean something as the difference of two."""

    wall: int
    server: int
    """CPU time of the server's processes, in user mode and in the kernel."""

    client: int
    """CPU time of this process."""

    faults: int
    """Page faults of the server's processes, a number."""

    @classmethod
    def now(cls, processes: list[int]) -> Usage:
        """The usage until now. Raises `ProcessLookupError` when a process has ended."""
        return cls(
            time.perf_counter_ns(),
            sum(map(_cpu_time, processes)),
            time.process_time_ns(),
            sum(map(_faults, processes)),
        )

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(
            self.wall - earlier.wall,
            self.server - earlier.server,
            self.client - earlier.client,
            self.faults - earlier.faults,
        )

    @property
    def seconds(self) -> float:
        return self.wall / 1e9

    @property
    def client_share(self) -> float:
        """The part of a core that the client needed: near 1, the client was what was measured."""
        return self.client / self.wall

    @property
    def server_share(self) -> float:
        """The part of a core that the server needed: near 1 when the load was enough."""
        return self.server / self.wall


def _cpu_time(process: int) -> int:
    """Nanoseconds of CPU time of all threads of a process, also of those that have ended.

    The clock of the process, as `/proc/PID/stat` counts in hundredths of a second, and
    `/proc/PID/schedstat` knows one thread.
    """
    clock = ctypes.c_int()
    if error := _libc.clock_getcpuclockid(process, ctypes.byref(clock)):
        raise OSError(error, f"{os.strerror(error)}: process {process}")
    return time.clock_gettime_ns(clock.value)


def _faults(process: int) -> int:
    # The tenth field, of which the name is the second.
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[7])


def private_memory(processes: list[int]) -> int:
    """Bytes that these processes wrote and share with nobody.

    That is where connections live. The resident set (RSS) also counts the pages of programs and
    libraries, and the proportional set (PSS) a share of them that changes whenever another process
    comes or goes. The buffers of the kernel are in none of the three.
    """
    return sum(map(_private_dirty, processes))


def _private_dirty(process: int) -> int:
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{process}/smaps_rollup has no Private_Dirty.")


def resident_memory(processes: list[int]) -> int:
    """Bytes of these processes that are in memory now, whoever shares them."""
    return sum(
        int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE for process in processes
    )


def forget_peak(processes: list[int]) -> None:
    """From now on, `peak_memory` is what is reached from now on."""
    for process in processes:
        Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_memory(processes: list[int]) -> int:
    """The most bytes of each process that were in memory: no moment between two looks is missed."""
    return sum(map(_peak, processes))


def _peak(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{process}/status has no VmHWM.")
