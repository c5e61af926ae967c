"""Ports for servers that run beside other tests."""

from __future__ import annotations

import os
import socket
from collections import deque
from contextlib import suppress
from itertools import cycle, islice
from random import SystemRandom
from typing import Final

__all__ = ["free_port"]

# Below those that the kernel gives to clients (32768 and above, on Linux), which would take a port
# before its server does. Each worker of pytest-xdist has its own.
_PORT_COUNT: Final = 1_500
_WORKER: Final = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
_FIRST_PORT: Final = 20_000 + _PORT_COUNT * (int(_WORKER) % 8 if _WORKER.isdecimal() else 0)
_PORTS = cycle(range(_FIRST_PORT, _FIRST_PORT + _PORT_COUNT))
for _ in range(SystemRandom().randrange(_PORT_COUNT)):
    next(_PORTS)

# Two runs on one machine have the same ports. What one has found free is the other's no more until
# a server listens there: a port for UDP that belongs to it, and that nobody uses, is taken.
_LEASE_OFFSET: Final = 12_000
_MOST_LEASES: Final = 64
_LEASES: deque[int] = deque()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port at which nobody listens, and another one each time."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in islice(_PORTS, _PORT_COUNT):
        with (
            socket.socket(family) as probe,
            socket.socket(family, socket.SOCK_DGRAM) as lease,
            suppress(OSError),
        ):
            lease.bind((host, port - _LEASE_OFFSET))
            probe.bind((host, port))
            _LEASES.append(lease.detach())
            if len(_LEASES) > _MOST_LEASES:
                socket.close(_LEASES.popleft())
            return port
    raise OSError(
        f"No port of {host} from {_FIRST_PORT} to {_FIRST_PORT + _PORT_COUNT - 1} is free."
    )
