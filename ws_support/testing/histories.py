"""Histories of topics, in the process of a test."""

from __future__ import annotations

from ws_support._topics.brokers.memory import histories

__all__ = ["clear_histories"]


def clear_histories() -> None:
    """Forget all histories that are in the memory of this process.

    They last as long as the process, also from one test to the next. Those on Redis stay.
    """
    histories().clear()
