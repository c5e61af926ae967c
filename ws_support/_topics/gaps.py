"""Gaps in the numbers of messages: published, but not received here."""

from __future__ import annotations

from typing import Final

_PUBLISHERS: Final = 64
"""The most publishers that are remembered for each topic."""


class Gaps:
    """The number of the last message of each publisher, for each topic with subscribers."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, int]] = {}

    def lost_before(self, topic: str, publisher: str, number: int, base: int | None = None) -> int:
        """Return how many messages of `publisher` are missing before the message `number`.

        Those up to `base` have been published for certain; without it, all before `number` have.
        Nothing is missing before the first message of a publisher that is new here, nor before a
        message with the number 1: its publisher has started again.
        """
        publishers = self._last.setdefault(topic, {})
        # Removed and added again, so that the publisher that was silent for the longest is first.
        last = publishers.pop(publisher, None)
        if last is None or number == 1:
            publishers[publisher] = number
            if len(publishers) > _PUBLISHERS:
                del publishers[next(iter(publishers))]
            return 0
        # max(): when the layer has taken a message but reported a failure, the next message of the
        # publisher has the same number.
        publishers[publisher] = max(last, number)
        return max((number - 1 if base is None else base) - last, 0)

    def forget(self, topic: str) -> None:
        """Forget the numbers of `topic`, whose messages do not come here any more."""
        self._last.pop(topic, None)

    def forget_all(self) -> None:
        """Forget all numbers: after an outage of the layer they say nothing."""
        self._last.clear()


LATE: Final = -1
"""What is said of a message that has come behind a later one."""


class GapsInOrder(Gaps):
    """The same where messages may overtake each other: one that was overtaken is `LATE`."""

    def lost_before(self, topic: str, publisher: str, number: int, base: int | None = None) -> int:
        last = self._last.get(topic, {}).get(publisher, 0)
        if 1 < number < last:
            return LATE
        return super().lost_before(topic, publisher, number, base)
