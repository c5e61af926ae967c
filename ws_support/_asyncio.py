"""Cancelling a task to wake it up, and telling that from somebody else's cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def cancelled_by_others(task: asyncio.Task[Any]) -> bool:
    """Take our own cancellation of `task` back; whether somebody else cancelled it too."""
    # Python 3.10 keeps no count: nothing to take back, and no way to tell.
    uncancel: Callable[[], int] = getattr(task, "uncancel", lambda: 0)
    return uncancel() > 0
