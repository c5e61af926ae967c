"""An application that the main process takes longer to load than anybody waits."""

from __future__ import annotations

import os
import time

from tests.project.events import log

while True:
    log("loading", pid=os.getpid())
    time.sleep(0.1)
