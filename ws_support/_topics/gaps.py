"""Messages that were published and did not come."""

from __future__ import annotations

from typing import Final

_PUBLISHERS: Final = 64
"""Publishers that are remembered for each topic."""


class Gaps:
    """The number of the last message of each publisher under each topic that was joined."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, int]] = {}

    def lost_before(self, topic: str, publisher: str, number: int) -> int:
        """Return how many messages are missing between this one and the last that came.

        A publisher that is new here, or that starts again with 1, misses none.
        """
        publishers = self._last.setdefault(topic, {})
        # Taken out and put in again, so that the one that was silent for the longest is the first.
        last = publishers.pop(publisher, None)
        if last is None or number == 1:
            publishers[publisher] = number
            if len(publishers) > _PUBLISHERS:
                del publishers[next(iter(publishers))]
            return 0
        # One that the layer has taken, and said that it had not, has the number of the next.
        publishers[publisher] = max(last, number)
        return max(number - last - 1, 0)

    def forget(self, topic: str) -> None:
        """Messages under `topic` do not come here any more."""
        self._last.pop(topic, None)

    def forget_all(self) -> None:
        """What comes next may follow anything: the layer is away."""
        self._last.clear()
