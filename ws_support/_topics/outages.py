"""A channel layer that is away for a while: Redis is started anew, or the network is cut."""

from __future__ import annotations

import asyncio
import logging
from random import uniform
from time import monotonic
from typing import Final

logger = logging.getLogger("ws_support.channel_layer")

_LOG_EVERY: Final = 60.0
"""Seconds. Every connection finds out by itself; one line is enough."""

_MOMENT: Final = 0.001
_MANY: Final = 1000
"""Messages in a row that cannot be read, after which one each second is tried."""

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


def is_malformed(error: Exception) -> bool:
    """Return True if `error` says that a message cannot be read, and the next one may be."""
    # channels_redis 4.3 may raise KeyError when it is cancelled.
    if is_away(error) or isinstance(error.__context__, asyncio.CancelledError):
        return False
    return isinstance(error, (ValueError, TypeError, LookupError, AttributeError)) or bool(
        _names(error) & {"InvalidToken", "UnpackException", "RecursionError"}
    )


class Strangers:
    """Messages in the channel layer that are not ours, or broken: skipped, counted and logged."""

    total = 0
    _logged_at: float | None = None

    def __init__(self) -> None:
        self._in_a_row = 0

    def over(self) -> None:
        self._in_a_row = 0

    async def skip(self, what: str) -> None:
        """Go on with the next message. A layer that has nothing else gets no more than its turn."""
        Strangers.total += 1
        self._in_a_row += 1
        now = monotonic()
        if Strangers._logged_at is None or now - Strangers._logged_at >= _LOG_EVERY:
            Strangers._logged_at = now
            logger.warning(
                "A message in the channel layer was skipped, which somebody else has put there or"
                " which is damaged: %.200s (%d in this process until now).",
                what,
                Strangers.total,
            )
        await asyncio.sleep(_MOMENT if self._in_a_row < _MANY else 1)


class Pauses:
    """Between attempts: 1 s at first, 10 s in the end, and not for all at the same moment."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 1.0

    def next(self) -> float:
        pause, self._next = self._next, min(2 * self._next, 10)
        return uniform(0.5, 1) * pause  # noqa: S311  # Not for secrets.
