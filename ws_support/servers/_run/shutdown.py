"""Stopping a server's process: in good order at the first signal, at once at the second."""

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
"""What a terminal sends when it is closed, and many an operator to reload. Windows has none."""

_FOR_GOODBYES: Final = 0.8
_FOR_THE_SERVER: Final = 0.9
"""How much of the time has passed when WebSockets that have not ended by themselves are given up,
and when the server cancels whatever it still waits for. They have the rest to clean up."""


def stop_at_once_until_it_serves() -> None:
    """Have a signal to stop end the process with 0 while there is nobody to say goodbye to."""
    for number in stop_signals():
        signal.signal(number, _exit_at_once)


unix_sockets: Final[set[str]] = set()
"""Paths that go when the process ends while it starts."""


def _exit_at_once(*_: object) -> None:
    # Not by raising SystemExit, which gets lost when it comes while something is finalized.
    for path in unix_sockets:
        remove_path(path)
    os._exit(0)


def leave_signals_to_main_process() -> None:
    """In a worker, until it has handlers of its own.

    A terminal sends Ctrl-C, and that it is closed, to each of its processes. What that means, the
    main process decides.
    """
    for number in stop_signals():
        if number != signal.SIGTERM:
            signal.signal(number, lambda *_: None)


def stop_signals() -> Iterator[int]:
    """Return the signals that mean a stop. SIGHUP is none when it is ignored, as by nohup."""
    yield from SIGNALS
    if _HANGUP is not None and signal.getsignal(_HANGUP) != signal.SIG_IGN:
        yield _HANGUP


class Stop:
    """The one stop of this process, `timeout` seconds long from the first signal on.

    When it takes longer, the process is ended as it is. A second signal ends it at once, unless
    `is_worker`: a terminal and systemd send a signal to each process, and the main process sends
    another; it is the main process that decides then. SIGHUP is no second one: systemd and shells
    send it besides. `uds` is the path of a Unix socket, which goes with the process.
    """

    def __init__(self, timeout: float, *, is_worker: bool = False, uds: str | None = None) -> None:
        self._timeout = timeout
        self._is_worker = is_worker
        self._uds = uds
        self._begun_at: float | None = None
        self._is_asked = False
        self._begin: Callable[[], object] = lambda: None

    def on_signal(self, begin: Callable[[], object]) -> None:
        """Call `begin` at the first SIGINT, SIGTERM or SIGHUP, in the main thread, between two
        steps of whatever runs there."""
        self._begin = begin
        for number in stop_signals():
            signal.signal(number, self._handle)

    def begin(self) -> None:
        """Stop, as at the first signal."""
        self._begun_at = monotonic()
        watchdog = threading.Timer(self._timeout, self._end)
        watchdog.daemon = True
        watchdog.start()
        self._begin()

    @property
    def left_for_the_server(self) -> float:
        """Seconds that the server may wait for what is still running, before it cancels it."""
        return self._left_until(_FOR_THE_SERVER)

    async def say_goodbye(self) -> None:
        """Close every WebSocket and wait until its `disconnect()` has run.

        Those that take most of the time are cancelled then. Event streams are ended meanwhile, and
        requests that take most of the time are cancelled, too.
        """
        requests.here.stop()
        loop = asyncio.get_running_loop()
        # The answer that says so is sent before the server cancels, which would send none.
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

    def _end(self) -> None:  # pragma: no cover  # Nothing is saved of a process that it ends.
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
