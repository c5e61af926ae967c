"""A channel layer that is away for a while: Redis is started anew, or the network is cut."""

from __future__ import annotations

import logging
from random import uniform
from time import monotonic
from typing import Final

logger = logging.getLogger("ws_support.channel_layer")

_LOG_EVERY: Final = 60.0
"""Seconds. Every connection finds out by itself; one line is enough."""

_logged_at: float | None = None


def is_away(error: Exception) -> bool:
    """Whether `error` says that the layer cannot be reached. redis-py has exceptions of its own,
    with the names of Python's."""
    names = {base.__name__ for base in type(error).__mro__}
    return not names.isdisjoint({"OSError", "ConnectionError", "TimeoutError"})


def log_away(error: Exception) -> None:
    global _logged_at
    now = monotonic()
    if _logged_at is None or now - _logged_at >= _LOG_EVERY:
        _logged_at = now
        logger.error(
            "The channel layer is away: %s: %s. Connections stay open, and what is sent through it"
            " is lost until it is back.",
            type(error).__name__,
            error,
        )


class Pauses:
    """Between attempts: 1 s at first, 10 s in the end, and not for all at the same moment."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 1.0

    def next(self) -> float:
        pause, self._next = self._next, min(2 * self._next, 10)
        return uniform(0.5, 1) * pause  # noqa: S311  # Not for secrets.
