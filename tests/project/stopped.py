"""An application whose worker of Granian gets SIGTERM in the moment before its loop runs."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import granian._signals

from tests.harness import BOUND
from tests.project.broken import without_an_end_of_its_start as application

__all__ = ["application"]

_its_own = granian._signals.set_loop_signals


def set_loop_signals(loop: Any) -> Any:
    event = _its_own(loop)
    here, there = socket.socketpair()
    here.settimeout(BOUND)
    there.setblocking(False)
    of_loop = signal.set_wakeup_fd(there.fileno())
    os.kill(os.getppid(), signal.SIGTERM)
    here.recv(1)  # When it has come.
    signal.set_wakeup_fd(of_loop)
    return event


granian._signals.set_loop_signals = set_loop_signals
