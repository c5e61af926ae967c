"""Uvicorn for `manage.py runasgi`."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, ClassVar, Final

from ws_support.conf import Options
from ws_support.servers._run.limits import HEAD_TIMEOUT
from ws_support.servers._run.shutdown import Stop
from ws_support.servers._run.sockets import BACKLOG
from ws_support.servers._run.supervisor import SocketServer
from ws_support.servers.base import ServeConfig, how_to_install, lack

__all__ = ["Uvicorn"]

_LAST_WORDS: Final = 1.0
"""Seconds that the data sent last has to reach the clients."""


_PICOWS: Final = "picows"
_SANSIO: Final = "websockets-sansio"

_REQUIREMENTS: Final = {
    _PICOWS: {"picows": "2.3"},
    _SANSIO: {"websockets": "15"},  # Sends pings from Uvicorn 0.45 on.
}
"""Requirements of each parser of frames, in addition to those of the server."""

_HANDSHAKE: Final = '%s - "WebSocket %s" '
"""The beginning of Uvicorn's log lines about handshakes, whose second argument is the target."""

_KNOWN_PICOWS: Final = "2.3."
"""The series of picows on whose internals `ws_support.servers.picows.parser` depends."""


class Uvicorn(SocketServer):
    name = "uvicorn"
    title = "Uvicorn"
    requirements: ClassVar = {
        "uvicorn": "0.45",
        "httptools": "0.6.3",  # For `uvicorn/http.py`: Uvicorn's h11 protocol has no time limits.
    }
    extra = "fast"
    merit = "the fastest, and it keeps every setting"
    protocols = (_PICOWS, _SANSIO)

    def missing(self) -> str | None:
        return super().missing() or (_lack_of_sansio() if _lack_of_picows() else None)

    def refusals(self, plan: ServeConfig) -> Iterator[str]:
        yield from super().refusals(plan)
        if plan.protocol == _PICOWS and plan.options.per_message_deflate:
            yield (
                "picows does not compress WebSocket messages. Set"
                f' WS_SUPPORT["PER_MESSAGE_DEFLATE"] to False, or use --ws {_SANSIO}.'
            )
        is_sansio = _protocol(plan) == _SANSIO
        if lacking := _lack_of_sansio() if is_sansio else _lack_of_picows():
            yield lacking

    def differences(self, plan: ServeConfig) -> dict[str, str]:
        if _protocol(plan) == _PICOWS:
            line = f"{_PICOWS} {version(_PICOWS)}; for Uvicorn's own: --ws {_SANSIO}"
        elif _lack_of_picows():
            line = f"{_SANSIO}. To be faster: {how_to_install('fast')}"
        elif plan.protocol is None:
            line = f"{_SANSIO}, since picows does not compress"
        else:
            line = _SANSIO
        return {"frames": line}

    def websocket_options(self, options: Options) -> dict[str, Any]:
        return {
            "ws_ping_interval": options.keep_alive_interval or None,
            "ws_ping_timeout": options.keep_alive_timeout,
            "ws_max_size": options.max_message_size,
            "ws_per_message_deflate": options.per_message_deflate,
        }

    def serve(
        self, application: Any, plan: ServeConfig, listener: socket.socket, stop: Stop
    ) -> None:
        import uvicorn
        from uvicorn.logging import TRACE_LOG_LEVEL

        from ws_support.servers.uvicorn.http import HTTPProtocol

        if _protocol(plan) == _PICOWS:
            from ws_support.servers.picows.protocol import PicowsProtocol as Protocol
        else:
            from ws_support.servers.uvicorn.websocket import Protocol  # type: ignore[assignment]

        class Server(uvicorn.Server):
            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                # Uvicorn's own method raises the signal again after the shutdown, so the exit code
                # would be -15.
                stop.on_signal(self.begin_to_stop)
                yield

            def begin_to_stop(self) -> None:
                self.should_exit = True
                if self.starting is not None:
                    self.starting.get_loop().call_soon_threadsafe(self.cancel_start)

            starting: asyncio.Task[Any] | None = None

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                # Uvicorn 0.54 waits for the lifespan's start, even after a signal to stop.
                self.starting = asyncio.current_task()
                if self.should_exit:
                    # The signal came before there was a task to cancel.
                    self.starting = None
                    return
                if plan.certfile is not None:
                    # asyncio waits 60 s for a TLS handshake, and Uvicorn has no setting for that.
                    loop: Any = asyncio.get_running_loop()
                    loop.create_server = partial(
                        loop.create_server, ssl_handshake_timeout=HEAD_TIMEOUT
                    )
                try:
                    await super().startup(sockets)
                except asyncio.CancelledError:
                    self.should_exit = True
                finally:
                    self.starting = None

            def cancel_start(self) -> None:
                if self.starting is not None:  # pragma: no branch  # It may be done by now.
                    self.starting.cancel()

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                for server in self.servers:
                    server.close()
                for each in sockets or ():
                    each.close()
                await stop.say_goodbye()
                # Uvicorn passes this to asyncio.wait_for(), which also takes fractions.
                self.config.timeout_graceful_shutdown = stop.left_for_the_server  # type: ignore[assignment]
                cutting = asyncio.create_task(self.cut_off_silent_ones())
                await super().shutdown(sockets)
                cutting.cancel()

            async def cut_off_silent_ones(self) -> None:
                """Abort the TLS connections that are left when all applications have ended.

                asyncio waits 30 s for the end of TLS, which a client that is gone never confirms,
                and Uvicorn waits for asyncio.
                """
                await asyncio.gather(*self.server_state.tasks, return_exceptions=True)
                await asyncio.sleep(_LAST_WORDS)
                transports = [each.transport for each in self.server_state.connections]
                for transport in [each for each in transports if each.get_extra_info("ssl_object")]:
                    transport.abort()

        log = logging.getLogger("uvicorn.error")
        log.addFilter(_log_in_one_line)
        log.addFilter(_log_no_query)
        if log.getEffectiveLevel() <= TRACE_LOG_LEVEL:
            log.setLevel(logging.DEBUG)  # With TRACE, Uvicorn logs each scope and its query.
        config = uvicorn.Config(
            application,
            interface="asgi3",
            http=HTTPProtocol,
            ws=Protocol,
            log_config=None,  # Django's LOGGING decides.
            access_log=False,
            proxy_headers=False,  # ProxyHeaders does that on every server.
            backlog=BACKLOG,
            ssl_certfile=plan.certfile,
            ssl_keyfile=plan.keyfile,
            **self.websocket_options(plan.options),
        )
        Server(config).run(sockets=[listener])


def _protocol(plan: ServeConfig) -> str:
    """Return the parser of frames that `plan` names, or the fastest one that is usable."""
    if plan.protocol is not None:
        return plan.protocol
    return _SANSIO if plan.options.per_message_deflate or _lack_of_picows() else _PICOWS


def _lack_of_picows() -> str | None:
    advice = how_to_install("fast")
    if missing := lack(f"--ws {_PICOWS}", _REQUIREMENTS[_PICOWS], advice):
        return missing
    found = version(_PICOWS)
    if found.startswith(_KNOWN_PICOWS):
        return None
    return f"--ws {_PICOWS} knows picows {_KNOWN_PICOWS}x, and {found} is installed. {advice}"


def _lack_of_sansio() -> str | None:
    return lack(f"--ws {_SANSIO}", _REQUIREMENTS[_SANSIO], how_to_install("uvicorn"))


def _log_no_query(record: logging.LogRecord) -> bool:
    """Remove the query from Uvicorn's log lines about handshakes: it may hold a token (0.54)."""
    if str(record.msg).startswith(_HANDSHAKE) and isinstance(record.args, tuple):
        client, target, *rest = record.args
        record.args = client, f"{str(target).partition('?')[0]:.200}", *rest
    return True


def _log_in_one_line(record: logging.LogRecord) -> bool:
    """Replace the traceback of an error that a client can cause by sending invalid UTF-8.

    Uvicorn 0.54 logs a traceback for each such message.
    """
    if record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError):
        record.msg, record.args = "%s %.500r", (record.getMessage(), record.exc_info[1])
        record.exc_info = None
    return True
