"""Hypercorn for `manage.py runasgi`."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from functools import partial
from typing import Any, ClassVar, Final

from ws_support._asgi import remove_direct
from ws_support.conf import Options
from ws_support.exceptions import ClientGone
from ws_support.servers._run.application import Application
from ws_support.servers._run.banner import ping_interval
from ws_support.servers._run.limits import HEAD_TIMEOUT, MAX_HEAD
from ws_support.servers._run.shutdown import Stop, wake_at_signals
from ws_support.servers._run.sockets import BACKLOG
from ws_support.servers._run.supervisor import CANNOT_START, SocketServer
from ws_support.servers.base import ServeConfig

__all__ = ["Hypercorn"]

logger = logging.getLogger("ws_support.servers")

_CANCEL_INTERVAL: Final = 0.02
"""Seconds until a task is cancelled again: the last tenth of a shutdown may be short."""


class Hypercorn(SocketServer):
    name = "hypercorn"
    title = "Hypercorn"
    requirements: ClassVar = {"hypercorn": "0.17"}
    extra = "hypercorn"
    merit = "it keeps every setting but KEEP_ALIVE_TIMEOUT, and speaks HTTP/2"

    def differences(self, plan: ServeConfig) -> dict[str, str]:
        options = plan.options
        if not options.keep_alive_interval:
            return {}
        return {
            "keep-alive": (
                f"{ping_interval(options)}; Hypercorn waits for no pong: HEARTBEAT_INTERVAL finds"
                " who is gone"
            )
        }

    def websocket_options(self, options: Options) -> dict[str, Any]:
        return {
            "websocket_ping_interval": options.keep_alive_interval or None,
            "websocket_max_message_size": options.max_message_size,
        }

    def serve(
        self, application: Any, plan: ServeConfig, listener: socket.socket, stop: Stop
    ) -> None:
        from ws_support.servers.hypercorn import h2, h11, http, queue, tcp, websocket

        tcp.install()
        queue.install()
        h11.install()
        h2.install()
        http.install()
        websocket.install()
        config = tcp.ListeningConfig.from_mapping(
            bind=[f"fd://{listener.detach()}"],
            backlog=BACKLOG,
            keep_alive_max_requests=2**62,  # Over HTTP/2, WebSockets end with the 1,001st request.
            certfile=plan.certfile,
            keyfile=plan.keyfile,
            errorlog=logging.getLogger("hypercorn.error"),  # Django's LOGGING decides.
            graceful_timeout=stop.left_for_the_server,
            h11_max_incomplete_size=MAX_HEAD,
            h2_max_header_list_size=MAX_HEAD,
            ssl_handshake_timeout=HEAD_TIMEOUT,
            **self.websocket_options(plan.options),
        )
        config.per_message_deflate = plan.options.per_message_deflate  # type: ignore[attr-defined]
        Application.is_starting = True  # So that a signal before the lifespan counts.
        try:
            asyncio.run(_serve(_Application(application), config, stop))
        except Exception:
            logger.exception("Hypercorn has ended.")
            sys.exit(CANNOT_START)


class _Application:
    """The application, with a record of its requests' tasks, and WebSocket queues that drain."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self.requests: set[asyncio.Task[Any]] = set()

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] == "websocket":
            return self._websocket(scope, receive, send)
        if scope["type"] == "http":
            task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
            self.requests.add(task)
            task.add_done_callback(self.requests.discard)
        return self._application(scope, receive, send)

    async def _websocket(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._application(scope, receive, send)
        except ClientGone:
            logger.debug("Sending has ended, since its client has gone.")
        finally:
            remove_direct(scope)
            # Hypercorn 0.18 waits for room in the queue before it ends a connection: the socket
            # would stay open for ever. When Hypercorn's task is done, no more messages come.
            draining = asyncio.create_task(_drain(receive))
            task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
            task.add_done_callback(lambda _: draining.cancel())


async def _drain(receive: Any) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _serve(application: _Application, config: Any, stop: Stop) -> None:
    from hypercorn.asyncio import serve

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_handle_exception)
    has_begun = asyncio.Event()
    listening = loop.create_future()

    async def until_stop() -> None:
        listening.set_result(None)
        await has_begun.wait()

    wake_at_signals(loop)
    stop.on_signal(partial(loop.call_soon_threadsafe, has_begun.set))
    serving = loop.create_task(
        # Hypercorn calls shutdown_trigger when it has begun to listen. When that returns, Hypercorn
        # stops listening and waits for its connections.
        serve(application, config, shutdown_trigger=until_stop, mode="asgi")
    )
    begun = loop.create_task(has_begun.wait())
    await asyncio.wait([serving, begun], return_when=asyncio.FIRST_COMPLETED)
    if begun.done():
        if not Application.is_starting:
            # Hypercorn 0.18 listens on when it is cancelled while it begins to, and connections
            # that are accepted then are left when the loop is closed: tracebacks in the log.
            await asyncio.wait([serving, listening], return_when=asyncio.FIRST_COMPLETED)
        await stop.say_goodbye()
        if application.requests:
            await asyncio.wait(application.requests, timeout=stop.left_for_the_server)
        # Each WebSocket's ping task still runs: in Hypercorn 0.18 that task sleeps until the next
        # ping is due, even when the connection has ended. From Python 3.12 on, Hypercorn would wait
        # for these tasks without a limit.
        while running := _running(serving):
            # Several times, since each cancellation ends one wait: Hypercorn's wait for its
            # connections, and their wait for the end of TLS, 30 s when a client is gone.
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=_CANCEL_INTERVAL)
        if not serving.cancelled():
            # Marks the exception as retrieved. Hypercorn 0.18 raises InvalidStateError here, since
            # it reads the result of a task that is not done.
            serving.exception()
        return
    begun.cancel()
    await serving


def _running(serving: asyncio.Task[None]) -> list[asyncio.Task[Any]]:
    """Return the tasks of Hypercorn and of its connections, which have no public name."""
    return [
        task
        for task in asyncio.all_tasks()
        if task is serving or "_server_callback" in getattr(task.get_coro(), "__qualname__", "")
    ]


def _handle_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log one line for a connection that fails, or none, where asyncio would log a traceback.

    Hypercorn 0.18 leaves such errors to asyncio: for a connection that is cancelled, for a client
    that does not finish its TLS handshake, and for some malformed requests.
    """
    error = context.get("exception")
    if context["message"].startswith("socket.accept() out of system resource"):
        return  # `watch_open_files()` logs this once.
    if isinstance(error, (asyncio.CancelledError, ssl.SSLError)):
        return
    # Reported by asyncio.start_server(), whose callback is Hypercorn's protocol, not project code.
    if error is not None and "client_connected_cb" in context["message"]:
        logger.warning("A connection was cut off: %.500r", _innermost(error))
        return
    loop.default_exception_handler(context)


def _innermost(error: Any) -> Any:
    """Return the first exception that is in `error`, which may be an exception group."""
    while exceptions := getattr(error, "exceptions", ()):
        error = exceptions[0]
    return error
