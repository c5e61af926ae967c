"""Histories of topics, in the process of a test."""

from __future__ import annotations

__all__ = ["clear_histories"]


def clear_histories() -> None:
    """Forget all histories that are in the memory of this process.

    They last as long as the process, also from one test to the next. Those on Redis stay.
    """
    # Here: a plugin of pytest is imported before Django is there.
    from ws_support._topics.brokers.memory import histories

    histories().clear()
