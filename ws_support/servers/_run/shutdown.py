"""The shutdown of a server's process: in good order at the first signal, at once at the second."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from types import FrameType
from typing import Final

from ws_support._connection.registry import open_connections
from ws_support.servers._run import requests
from ws_support.servers._run.sockets import remove_path

logger = logging.getLogger("ws_support.servers")

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_HANGUP: Final = getattr(signal, "SIGHUP", None)
"""The signal of a terminal that is closed, and of operators who want a reload. Windows has none."""

_FOR_GOODBYES: Final = 0.8
_FOR_THE_SERVER: Final = 0.9
"""Parts of the shutdown time: after the first, WebSockets that have not ended are cancelled; after
the second, the server cancels everything that it still waits for. The rest is for the cleanup."""


def stop_at_once_until_it_serves() -> None:
    """End the process with exit code 0 at a signal that comes before the server serves."""
    for number in stop_signals():
        signal.signal(number, _exit_at_once)


unix_sockets: Final[set[str]] = set()
"""Paths of Unix sockets that are removed when the process ends during its start."""


def _exit_at_once(*_: object) -> None:
    # SystemExit would be lost when the signal comes while a finalizer runs.
    for path in unix_sockets:
        remove_path(path)
    os._exit(0)


def leave_signals_to_main_process() -> None:
    """Ignore SIGINT and SIGHUP in a worker, until the worker has handlers of its own.

    A terminal sends these signals to each of its processes, at Ctrl-C and when it is closed. The
    main process alone decides what to do then.
    """
    for number in stop_signals():
        if number != signal.SIGTERM:
            signal.signal(number, lambda *_: None)


def stop_signals() -> Iterator[int]:
    """Yield the signals that stop the server. SIGHUP is left out when nohup has it ignored."""
    yield from SIGNALS
    if _HANGUP is not None and signal.getsignal(_HANGUP) != signal.SIG_IGN:
        yield _HANGUP


def wake_at_signals(loop: asyncio.AbstractEventLoop) -> None:
    """Make a signal end the loop's wait for I/O, so that Python's handler runs at once.

    A signal may come just before the wait begins, or to another thread. Without this, Python's
    handler then runs when something else ends the wait, which may be never. uvloop and the loop of
    Windows have this built in. asyncio's other loops have it for `add_signal_handler()` alone,
    which forgets a signal while the socket is full through which threads wake the loop.
    """
    its_own = signal.set_wakeup_fd(-1)
    if its_own != -1 or os.name == "nt":  # No loop of Windows can wait for a pipe.
        signal.set_wakeup_fd(its_own)
        return
    wake, waker = os.pipe()  # Open until the process ends.
    for each in (wake, waker):
        os.set_blocking(each, False)
    # A full pipe wakes the loop as well.
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    loop.add_reader(wake, os.read, wake, 4096)


class Stop:
    """The shutdown of this process, which may take `timeout` seconds from the first signal on.

    When the shutdown takes longer, the process is killed. A second signal ends the process at once,
    unless `is_worker` is true: a terminal and systemd send a signal to each process, the main
    process sends a worker another, and the main process alone decides when to kill. SIGHUP does not
    count as a second signal: systemd and shells send it in addition to the first. `uds` is the path
    of a Unix socket, which is removed when the process ends.
    """

    def __init__(self, timeout: float, *, is_worker: bool = False, uds: str | None = None) -> None:
        self._timeout = timeout
        self._is_worker = is_worker
        self._uds = uds
        self._begun_at: float | None = None
        self._is_asked = False
        self._begin: Callable[[], object] = lambda: None

    def on_signal(self, begin: Callable[[], object]) -> None:
        """Call `begin` at the first SIGINT, SIGTERM or SIGHUP.

        The call is made in a signal handler of Python: in the main thread, between two bytecodes.
        """
        self._begin = begin
        for number in stop_signals():
            signal.signal(number, self._handle)

    def begin(self) -> None:
        """Begin the shutdown, as the first signal does."""
        self._begun_at = monotonic()
        watchdog = threading.Timer(self._timeout, self._end)
        watchdog.daemon = True
        watchdog.start()
        self._begin()

    @property
    def left_for_the_server(self) -> float:
        """Return the seconds that the server may still wait before it cancels what runs."""
        return self._left_until(_FOR_THE_SERVER)

    async def say_goodbye(self) -> None:
        """Close every WebSocket and wait until its `disconnect()` has run.

        Consumers that have not ended after `_FOR_GOODBYES` of the time are cancelled. Event streams
        are ended meanwhile, and requests that are not answered by then are cancelled, too.
        """
        requests.here.stop()
        loop = asyncio.get_running_loop()
        # The client of a request gets its 503 before the server cancels, which would send nothing.
        within = (_FOR_THE_SERVER - _FOR_GOODBYES) / 2 * self._timeout
        loop.call_later(self._left_until(_FOR_GOODBYES), requests.here.give_up, within)
        open_connections.drain()
        if await open_connections.wait_until_empty(self._left_until(_FOR_GOODBYES)):
            return
        logger.error(
            "%d WebSocket consumers have not ended within %g s and are cancelled. To give them"
            ' more time, raise WS_SUPPORT["SHUTDOWN_TIMEOUT"].',
            len(open_connections),
            _FOR_GOODBYES * self._timeout,
        )
        open_connections.cancel()
        await open_connections.wait_until_empty(self.left_for_the_server)

    def _left_until(self, part: float) -> float:
        if self._begun_at is None:
            return part * self._timeout
        return max(self._begun_at + part * self._timeout - monotonic(), 0.01)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._is_asked and number in SIGNALS and not self._is_worker:
            self._exit(128 + number)
        self._is_asked = self._is_asked or number in SIGNALS
        if self._begun_at is None:
            self.begin()

    def _end(self) -> None:  # pragma: no cover  # It ends the process before coverage is saved.
        logger.error(
            "The server has not ended within %g s and is killed, with %d WebSocket consumers. To"
            ' give it more time, raise WS_SUPPORT["SHUTDOWN_TIMEOUT"].',
            self._timeout,
            len(open_connections),
        )
        self._exit(0)

    def _exit(self, code: int) -> None:
        if self._uds:
            remove_path(self._uds)
        os._exit(code)
