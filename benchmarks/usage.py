"""What the processes of a server have used, as the operating system counts it."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil


class Meter:
    """The time that a server and its client take, from now on.

    The kernel counts CPU time in hundredths of a second, in user mode and in the kernel, of all
    threads. Raises `psutil.NoSuchProcess` when a process has ended.
    """

    def __init__(self, processes: Iterable[int]) -> None:
        self._processes = [psutil.Process(process) for process in processes]
        self._before = self._now()

    def _now(self) -> tuple[float, float, float]:
        times = [process.cpu_times() for process in self._processes]
        server = sum(each.user + each.system for each in times)
        return time.perf_counter(), server, time.process_time()

    def figures(self, count: int) -> dict[str, float]:
        """Return the figures of `count` messages, handshakes or deliveries in this time.

        A `client_share` near 1 says that it was the client that was measured, and a `server_share`
        far below 1 that the server had no full load.
        """
        both = zip(self._now(), self._before, strict=True)
        wall, server, client = (now - before for now, before in both)
        return {
            "per_second": count / wall,
            "cpu_us": server * 1e6 / count,
            "server_share": server / wall,
            "client_share": client / wall,
        }


def private_memory(processes: Iterable[int]) -> int:
    """Return the bytes that these processes share with nobody, which is where connections live.

    The resident set (RSS) also counts the pages of programs and libraries, and the proportional set
    (PSS) a share of them that changes whenever another process comes or goes. The buffers of the
    kernel are in none of the three.
    """
    return sum(psutil.Process(process).memory_full_info().uss for process in processes)
