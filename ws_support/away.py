"""A channel layer that is away for a while: Redis is started anew, or the network is cut."""

from __future__ import annotations

import logging
from random import uniform
from time import monotonic
from typing import Final

logger = logging.getLogger("ws_support.channel_layer")

_LOG_EVERY: Final = 60.0
"""Seconds. Every connection finds out by itself; one line is enough."""

_OUTAGES: Final = frozenset(
    {"OSError", "ConnectionError", "TimeoutError", "RedisError", "RedisClusterException"}
)
"""Names of exceptions, and of what they are derived from."""

_logged_at: float | None = None


def is_away(error: Exception) -> bool:
    """Return True if `error` says that the channel layer cannot be used for now.

    redis-py has exceptions of its own, with the names of Python's. A Redis that answers with an
    error is out of service as well: a replica after a failover (READONLY, UNBLOCKED), one that is
    loading or full, or one whose password has changed.
    """
    return not _names(error).isdisjoint(_OUTAGES)


def is_idle(error: Exception, seconds: float) -> bool:
    """Whether `error`, after so many seconds, says no more than that nothing came: redis-py 8 waits
    5 s for an answer by default, as long as channels_redis 4.3 lets Redis wait for a message."""
    return "TimeoutError" in _names(error) and seconds > 1


def _names(error: Exception) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def log_away(error: Exception) -> None:
    global _logged_at
    now = monotonic()
    if _logged_at is None or now - _logged_at >= _LOG_EVERY:
        _logged_at = now
        logger.error(
            "The channel layer is away: %s: %s. Connections stay open, and what is sent through it"
            " is lost until it comes back.",
            type(error).__name__,
            str(error).rstrip("."),
        )


class Pauses:
    """Between attempts: 1 s at first, 10 s in the end, and not for all at the same moment."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 1.0

    def next(self) -> float:
        pause, self._next = self._next, min(2 * self._next, 10)
        return uniform(0.5, 1) * pause  # noqa: S311  # Not for secrets.
