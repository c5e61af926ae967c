"""Waits that have a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["BOUND", "wait_until"]

_T = TypeVar("_T")

BOUND: Final = 30.0
"""Seconds within which whatever a test waits for has happened, also on a busy machine."""

_PAUSE: Final = 0.01
"""Seconds between two attempts."""


def wait_until(
    attempt: Callable[[], _T],
    what: str,
    details: Callable[[], str] = lambda: "",
    *,
    bound: float = BOUND,
) -> _T:
    """Call `attempt()` until its result is true, and return that.

    Raises `AssertionError` after `bound` seconds. Its message names `what` was waited for, and ends
    with `details()`.
    """
    deadline = time.monotonic() + bound
    while not (result := attempt()):
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} within {bound:g} s\n{details()}")
        time.sleep(_PAUSE)
    return result
