"""Granian: what it leaves undone when it stops."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

_TIMEOUT: Final = 10.0
"""Seconds for the applications to end."""


def cancel_applications_when_it_stops() -> None:
    """In a worker of Granian, cancel its applications at SIGTERM, as other servers do.

    Granian 2.8 leaves its event loop as it is: no `disconnect()` is called, the signal
    `disconnected` is not sent, and clients see no close frame. What it stops with has no public
    name; in a version without it, this does nothing.
    """
    if "granian" not in sys.modules:
        return
    signals = import_module("granian._signals")
    its_own: Callable[[Any], Any] | None = getattr(signals, "set_loop_signals", None)
    if its_own is not None:
        signals.set_loop_signals = _Stop(its_own).set_loop_signals  # type: ignore[attr-defined]


class _Stop:
    def __init__(self, set_loop_signals: Callable[[Any], Any]) -> None:
        self._set_loop_signals = set_loop_signals
        self._task: asyncio.Task[None] | None = None

    def set_loop_signals(self, loop: asyncio.AbstractEventLoop) -> Any:
        event = self._set_loop_signals(loop)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._begin, loop, event)
        return event

    def _begin(self, loop: asyncio.AbstractEventLoop, event: Any) -> None:
        # Ctrl-C sends a signal to the worker, and Granian's main process another.
        if self._task is None:
            self._task = loop.create_task(self._stop(event))

    async def _stop(self, event: Any) -> None:
        # It logs a traceback for each application that is cancelled, with children of its logger.
        for handler in logging.getLogger("_granian").handlers:
            handler.addFilter(
                lambda record: "CancelledError" not in f"{record.getMessage()} {record.exc_info}"
            )
        applications = [task for task in asyncio.all_tasks() if _is_application(task)]
        for application in applications:
            application.cancel()
        if applications:
            await asyncio.wait(applications, timeout=_TIMEOUT)
        event.set()


def _is_application(task: asyncio.Task[Any]) -> bool:
    return getattr(task.get_coro(), "__name__", None) == "future_watcher"
