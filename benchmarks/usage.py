"""What the processes of a server have used, as the operating system counts it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """Times in seconds, which mean something as the difference of two."""

    wall: float
    server: float
    """CPU time of the server's processes, in user mode and in the kernel, of all their threads.
    The kernel counts it in hundredths of a second."""

    client: float
    """CPU time of this process."""

    @classmethod
    def now(cls, processes: Iterable[int]) -> Usage:
        """Return the usage until now. Raises `psutil.NoSuchProcess` when a process has ended."""
        times = [psutil.Process(process).cpu_times() for process in processes]
        server = sum(each.user + each.system for each in times)
        return cls(time.perf_counter(), server, time.process_time())

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(
            self.wall - earlier.wall, self.server - earlier.server, self.client - earlier.client
        )

    def figures(self, count: int) -> dict[str, float]:
        """Return the figures of `count` messages, handshakes or deliveries in this time.

        A `client_share` near 1 says that it was the client that was measured, and a `server_share`
        far below 1 that the server had no full load.
        """
        return {
            "per_second": count / self.wall,
            "cpu_us": self.server * 1e6 / count,
            "server_share": self.server / self.wall,
            "client_share": self.client / self.wall,
        }


def private_memory(processes: Iterable[int]) -> int:
    """Return the bytes that these processes share with nobody, which is where connections live.

    The resident set (RSS) also counts the pages of programs and libraries, and the proportional set
    (PSS) a share of them that changes whenever another process comes or goes. The buffers of the
    kernel are in none of the three.
    """
    return sum(psutil.Process(process).memory_full_info().uss for process in processes)
