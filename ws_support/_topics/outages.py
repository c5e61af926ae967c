"""Outages of a channel layer: Redis restarts, or the network is cut."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from time import monotonic
from traceback import extract_tb
from typing import Any, Final
from weakref import WeakSet

from ws_support._topics.brokers.base import BrokerError

logger = logging.getLogger("ws_support.channel_layer")

_LOG_EVERY: Final = 60.0
"""Seconds between two log lines about messages that were skipped."""

_MOMENT: Final = 0.001
"""Seconds to wait after a message that was skipped."""

_MANY: Final = 1000
"""Skipped messages in a row, after which the wait becomes one second."""

_OUTAGES: Final = frozenset(
    {"OSError", "ConnectionError", "TimeoutError", "RedisError", "RedisClusterException"}
)
"""Names of exception classes. An exception whose class or base class is here reports an outage."""


def is_away(error: Exception) -> bool:
    """Return True if `error` reports an outage of the channel layer.

    Names are compared, since redis-py has its own exceptions with the names of Python's. A Redis
    that answers with an error is out of service as well: a replica after a failover (READONLY,
    UNBLOCKED), a server that is loading or full, or one whose password has changed.
    """
    return not _names(error).isdisjoint(_OUTAGES) or _is_of_closed_transport(error)


def _is_of_closed_transport(error: Exception) -> bool:
    """Return True for what asyncio raises when redis-py writes to a connection that it has lost.

    Python 3.13.0 raises "TypeError: 'NoneType' object is not callable" in `writelines()` of a
    transport that is closed; other versions do not.
    """
    frames = extract_tb(error.__traceback__, limit=-1) if isinstance(error, TypeError) else ()
    return any(
        frame.name == "writelines" and frame.filename.endswith("selector_events.py")
        for frame in frames
    )


def is_idle(error: Exception, seconds: float) -> bool:
    """Return True if `error`, after `seconds`, only says that no message came.

    redis-py 8 waits 5 s for an answer by default, and channels_redis 4.3 lets Redis wait for a
    message for the same 5 s: both end at the same time.
    """
    return "TimeoutError" in _names(error) and seconds > 1


def _names(error: Exception) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def is_malformed(error: Exception) -> bool:
    """Return True if `error` concerns one message that cannot be read, and not those after it."""
    # channels_redis 4.3 may raise KeyError when it is cancelled.
    if is_away(error) or isinstance(error.__context__, asyncio.CancelledError):
        return False
    return isinstance(error, (ValueError, TypeError, LookupError, AttributeError)) or bool(
        _names(error) & {"InvalidToken", "UnpackException", "RecursionError"}
    )


class Outages:
    """The outages of one channel layer: noticed by many, and logged once in each process.

    The first detector that loses the layer logs the start, and the last that finds it the end.
    """

    @classmethod
    def of(cls, layer: Any, name: str = "The channel layer") -> Outages:
        """Return the outages of `layer`, an object of the process. The log calls it `name`."""
        outages: Outages | None = vars(layer).get("_ws_support_outages")
        if outages is None:
            outages = layer._ws_support_outages = cls(name)
        return outages

    def __init__(self, name: str = "The channel layer") -> None:
        self._name = name
        self._began_at = 0.0
        # True if an outage began, and who has noticed it has ended since.
        self._is_left = False
        self._detectors: WeakSet[OutageDetector] = WeakSet()
        # Event loops of several threads may use the layer.
        self._lock = threading.Lock()

    def detector(self, on_outage: Callable[[Exception], None] | None = None) -> OutageDetector:
        """Return a detector for one user of the layer.

        `on_outage` is called with the error when another detector is the first to lose the layer.
        """
        detector = OutageDetector(self, on_outage)
        with self._lock:
            self._detectors.add(detector)
        return detector

    def note(self, detector: OutageDetector, error: Exception | None) -> None:
        """Note what a detector has noticed: that the layer is away, or, with `None`, is back."""
        with self._lock:
            was_away = self._is_left or self._are_away()
            detector.is_away = error is not None
            self._is_left = False
            is_away = self._are_away()
            now = monotonic()
            lasted = now - self._began_at
            others = [each for each in self._detectors if each is not detector]
            if is_away and not was_away:
                self._began_at = now
        if error is not None and not was_away:
            logger.error(
                "%s is away: %s. Connections stay open, and what is broadcast or sent to groups"
                " meanwhile is lost.",
                self._name,
                _text(error),
            )
            for each in others:
                if each.on_outage is not None:
                    each.on_outage(error)
        elif was_away and not is_away:
            logger.warning(
                "%s is back after %.0f s. All topics and groups of this process are restored.",
                self._name,
                lasted,
            )

    def leave(self, detector: OutageDetector) -> None:
        """Forget a detector. An outage that it alone knows of goes on."""
        with self._lock:
            self._is_left = self._is_left or self._are_away()
            detector.is_away = False
            self._detectors.discard(detector)

    @property
    def is_noticed(self) -> bool:
        """True while a detector knows of an outage."""
        with self._lock:
            return self._are_away()

    @property
    def is_left(self) -> bool:
        """True if there is an outage that no detector knows of."""
        return self._is_left

    def _are_away(self) -> bool:
        return any(each.is_away for each in self._detectors)


class OutageDetector:
    """What one user of a channel layer, such as a broker, knows about outages of the layer."""

    def __init__(self, outages: Outages, on_outage: Callable[[Exception], None] | None) -> None:
        self._outages = outages
        self.on_outage = on_outage
        self.is_away = False
        """True from `lose()` to `find()` or `forget()`."""

    def lose(self, error: Exception) -> None:
        """Note that the layer cannot be used."""
        if not self.is_away:
            self._outages.note(self, error)

    def find(self) -> None:
        """Note that the layer works, and that everything is restored."""
        if self.is_away or self._outages.is_left:
            self._outages.note(self, None)

    def forget(self) -> None:
        """Forget an outage, since the user of the layer ends. Others notice when it is back."""
        self.is_away = False

    def leave(self) -> None:
        """Forget an outage, which the next user of the layer finds: it has the same Redis."""
        self._outages.leave(self)


def _text(error: Exception) -> str:
    text = str(error).rstrip(".")
    return text if isinstance(error, BrokerError) else f"{type(error).__name__}: {text}"


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
