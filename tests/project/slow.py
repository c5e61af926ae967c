"""The tests' application, which a worker takes longer to load than anybody waits."""

from __future__ import annotations

import os
import time
from multiprocessing import parent_process

from tests.project.asgi import application
from tests.project.events import log

__all__ = ["application"]

while parent_process() is not None:
    log("loading", pid=os.getpid())
    time.sleep(0.1)
