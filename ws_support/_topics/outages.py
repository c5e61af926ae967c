"""Outages of a channel layer: Redis restarts, or the network is cut."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Final

logger = logging.getLogger("ws_support.channel_layer")

_LOG_EVERY: Final = 60.0
"""Seconds between two log lines. Each connection notices an outage; one line for all is enough."""

_MOMENT: Final = 0.001
"""Seconds to wait after a message that was skipped."""

_MANY: Final = 1000
"""Skipped messages in a row, after which the wait becomes one second."""

_OUTAGES: Final = frozenset(
    {"OSError", "ConnectionError", "TimeoutError", "RedisError", "RedisClusterException"}
)
"""Names of exception classes. An exception whose class or base class is here reports an outage."""

_logged_at: float | None = None


def is_away(error: Exception) -> bool:
    """Return True if `error` reports an outage of the channel layer.

    Names are compared, since redis-py has its own exceptions with the names of Python's. A Redis
    that answers with an error is out of service as well: a replica after a failover (READONLY,
    UNBLOCKED), a server that is loading or full, or one whose password has changed.
    """
    return not _names(error).isdisjoint(_OUTAGES)


def is_idle(error: Exception, seconds: float) -> bool:
    """Return True if `error`, after `seconds`, only says that no message came.

    redis-py 8 waits 5 s for an answer by default, and channels_redis 4.3 lets Redis wait for a
    message for the same 5 s: both end at the same time.
    """
    return "TimeoutError" in _names(error) and seconds > 1


def _names(error: Exception) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def log_away(error: Exception) -> None:
    """Log an outage of the channel layer, at most once a minute."""
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
    """Return True if `error` concerns one message that cannot be read, and not those after it."""
    # channels_redis 4.3 may raise KeyError when it is cancelled.
    if is_away(error) or isinstance(error.__context__, asyncio.CancelledError):
        return False
    return isinstance(error, (ValueError, TypeError, LookupError, AttributeError)) or bool(
        _names(error) & {"InvalidToken", "UnpackException", "RecursionError"}
    )


class Strangers:
    """Skips messages in the channel layer that are foreign or damaged: counts and logs them."""

    total = 0
    _logged_at: float | None = None

    def __init__(self) -> None:
        self._in_a_row = 0

    def over(self) -> None:
        """Note that a message could be read."""
        self._in_a_row = 0

    async def skip(self, what: str) -> None:
        """Count and log a message, and wait a moment.

        Without the wait, a layer full of such messages would keep the event loop busy.
        """
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
