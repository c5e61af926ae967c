from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from dataclasses import replace
from typing import Any, Final

from daphne.management.commands.runserver import Command as DaphneCommand
from django.core.management.base import CommandParser
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ws_support.conf import get_options
from ws_support.servers._run.banner import summary, unguarded
from ws_support.servers.daphne.server import Server, configuration

_GOODBYE_TIMEOUT: Final = 2
"""Seconds that applications may take to end, since a developer waits for the reload."""


class DevelopmentServer(Server):
    """Daphne in the thread of Django's autoreloader, or in the main thread without a reloader."""

    def run(self) -> None:
        self._done = threading.Event()
        # The autoreloader ends its process, at Ctrl-C and before a restart, without telling this
        # thread, and clients would see their connections break. `atexit` is too late: no new thread
        # can be started then for synchronous code, such as the `disconnect()` of consumers.
        register = getattr(threading, "_register_atexit", atexit.register)
        register(self._stop_and_wait)
        try:
            super().run()
        finally:
            self._done.set()

    def _stop_and_wait(self) -> None:
        if not self._done.is_set():
            reactor.callFromThread(self.stop)
            self._done.wait(_GOODBYE_TIMEOUT)

    def kill_all_applications(self) -> Deferred[Any]:
        if threading.current_thread() is threading.main_thread():
            # In the main thread, only this watchdog makes sure that the process ends.
            watchdog = threading.Timer(self.stop_timeout + _GOODBYE_TIMEOUT, os._exit, (0,))
            watchdog.daemon = True
            watchdog.start()
        return super().kill_all_applications()

    def listen_error(self, failure: Failure) -> None:
        sys.stderr.write(f"Error: {failure.getErrorMessage()}\n")
        # As in Django's own runserver: in a thread, sys.exit() ends only that thread.
        os._exit(1)


class Command(DaphneCommand):  # type: ignore[misc]
    help = "Starts Daphne for development, with the options of WS_SUPPORT."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        for action in parser._actions:
            if action.dest == "websocket_handshake_timeout":
                # In Daphne, this timeout limits the time of the application, not of the client.
                action.default = 0
                action.help = "Seconds for an application to accept or refuse (default: no limit)"

    def handle(self, *args: Any, **options: Any) -> None:
        # Options of the command line override the settings.
        self._from_command_line = {
            name: options[name]
            for name in ("websocket_max_message_size", "websocket_max_frame_size")
            if options.get(name) is not None
        }
        if "websocket_max_message_size" in self._from_command_line:
            self._from_command_line.setdefault(
                "websocket_max_frame_size", self._from_command_line["websocket_max_message_size"]
            )
        self._stop_at_hangup(options["use_reloader"])
        super().handle(*args, **options)

    def _stop_at_hangup(self, use_reloader: bool) -> None:
        """Stop in good order when the terminal is closed, unless `nohup` ignores SIGHUP."""
        for number in signal.Signals:
            if number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_DFL:
                # As Django ends the main thread of its autoreloader at SIGTERM.
                signal.signal(number, (lambda *_: sys.exit()) if use_reloader else _stop_reactor)

    def server_cls(self, **arguments: Any) -> DevelopmentServer:
        """Return the server. Daphne's command calls this when the system checks have passed."""
        options = get_options()
        size = self._from_command_line.get("websocket_max_message_size", options.max_message_size)
        self.stdout.write(summary(replace(options, max_message_size=size), unguarded()))
        return DevelopmentServer(
            stop_timeout=options.shutdown_timeout,
            **{**arguments, **configuration(options), **self._from_command_line},
        )


def _stop_reactor(*_: object) -> None:
    reactor.callFromThread(reactor.stop)  # type: ignore[misc]  # Its stubs lack self.
