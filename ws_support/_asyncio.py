"""The difference between our own cancellation of a task and one by other code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def cancelled_by_others(task: asyncio.Task[Any]) -> bool:
    """Undo our own cancellation of `task`. Return True if other code has cancelled it as well."""
    # Python 3.10 does not count cancellations: there is nothing to undo, and no way to tell.
    uncancel: Callable[[], int] = getattr(task, "uncancel", lambda: 0)
    return uncancel() > 0
