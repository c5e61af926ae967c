"""Hypercorn."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Final

from ws_support.conf import Options
from ws_support.servers._run.banner import ping_interval
from ws_support.servers._run.limits import HEAD_TIMEOUT, MAX_HEAD
from ws_support.servers._run.queued_text import packed, size, unpacked
from ws_support.servers._run.shutdown import Stop
from ws_support.servers._run.sockets import BACKLOG
from ws_support.servers._run.supervisor import CANNOT_START, SocketServer
from ws_support.servers.base import Plan

__all__ = ["Hypercorn"]

logger = logging.getLogger("ws_support.servers")

_QUEUE: Final = 10
"""Messages that wait for a consumer. Hypercorn's default."""

_CANCEL_INTERVAL: Final = 0.02
"""Seconds until what was cancelled is cancelled again: the last tenth of a stop may be short."""

_LARGE: Final = 2**16
"""Characters or bytes of a message behind which no other waits: ten of the largest are 10 MiB."""


class Hypercorn(SocketServer):
    name = "hypercorn"
    title = "Hypercorn"
    requirements: ClassVar = {"hypercorn": "0.17"}
    extra = "hypercorn"
    merit = "it keeps every setting but KEEP_ALIVE_TIMEOUT, and speaks HTTP/2"

    def differences(self, plan: Plan) -> dict[str, str]:
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

    def serve(self, application: Any, plan: Plan, listener: socket.socket, stop: Stop) -> None:
        from ws_support.servers.hypercorn import h2, h11, http, tcp, websocket

        tcp.install()
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
        try:
            asyncio.run(_serve(_Application(application), config, stop))
        except Exception:
            logger.exception("Hypercorn has ended.")
            sys.exit(CANNOT_START)


class _Application:
    """Knows in which tasks it answers requests, and leaves no message of a WebSocket unread."""

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
            return self._request(scope, receive, send)
        return self._application(scope, receive, send)

    async def _request(self, scope: Any, receive: Any, send: Any) -> None:
        from ws_support.servers.hypercorn.websocket import ClientHasGone

        try:
            await self._application(scope, receive, send)
        except ClientHasGone:
            logger.debug("Sending has ended, since its client has gone.")

    async def _websocket(self, scope: Any, receive: Any, send: Any) -> None:
        from ws_support.servers.hypercorn.websocket import ClientHasGone

        # Hypercorn's setting counts messages, and holds for requests as well: one whose body is not
        # read has its chunks in there, and gets no further when they and its end do not fit.
        with suppress(AttributeError):
            queue = receive.__self__  # Of asyncio.Queue.get
            queue.full = partial(_is_full, queue._queue)
            queue._put, queue._get = partial(_put, queue._queue), partial(_get, queue._queue)
        try:
            await self._application(scope, receive, send)
        except ClientHasGone:
            logger.debug("Sending has ended, since its client has gone.")
        finally:
            # Hypercorn 0.18 waits until there is room for what still comes, and ends nothing
            # meanwhile: the socket would be open for ever. When its task is done, nothing comes.
            draining = asyncio.create_task(_drain(receive))
            task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
            task.add_done_callback(lambda _: draining.cancel())


def _is_full(messages: Sequence[dict[str, Any]]) -> bool:
    if not messages or len(messages) >= _QUEUE:
        return bool(messages)
    last = messages[-1]
    return size(last) > _LARGE


def _put(messages: deque[dict[str, Any]], message: dict[str, Any]) -> None:
    messages.append(packed(message))


def _get(messages: deque[dict[str, Any]]) -> dict[str, Any]:
    return unpacked(messages.popleft())


async def _drain(receive: Any) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _serve(application: _Application, config: Any, stop: Stop) -> None:
    from hypercorn.asyncio import serve

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_handle_exception)
    has_begun = asyncio.Event()
    stop.on_signal(partial(loop.call_soon_threadsafe, has_begun.set))
    serving = loop.create_task(
        # When the trigger returns, Hypercorn stops listening and waits for its connections.
        serve(application, config, shutdown_trigger=has_begun.wait, mode="asgi")
    )
    begun = loop.create_task(has_begun.wait())
    await asyncio.wait([serving, begun], return_when=asyncio.FIRST_COMPLETED)
    if begun.done():
        await stop.say_goodbye()
        if application.requests:
            await asyncio.wait(application.requests, timeout=stop.left_for_the_server)
        # The task of each WebSocket is still there: Hypercorn 0.18 sends the pings in one that
        # sleeps until the next is due, whether there is somebody to send it to or not. From Python
        # 3.12 on, it would wait without a limit.
        while running := _running(serving):
            # More than once, since each cancels one wait: Hypercorn's for its connections, and
            # theirs for the end of TLS, of which a client that is gone says nothing for 30 s.
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=_CANCEL_INTERVAL)
        if not serving.cancelled():
            serving.exception()  # InvalidStateError: it looks at what it has not waited for.
        return
    begun.cancel()
    await serving


def _running(serving: asyncio.Task[None]) -> list[asyncio.Task[Any]]:
    """Hypercorn and its connections, whose tasks have no public name."""
    return [
        task
        for task in asyncio.all_tasks()
        if task is serving or "_server_callback" in getattr(task.get_coro(), "__qualname__", "")
    ]


def _handle_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio would log a traceback for each connection that is cancelled, for each client that
    does not finish its TLS handshake, and for some malformed ones (Hypercorn 0.18)."""
    error = context.get("exception")
    if context["message"].startswith("socket.accept() out of system resource"):
        return  # `watch_open_files()` says so, once.
    if isinstance(error, (asyncio.CancelledError, ssl.SSLError)):
        return
    # By asyncio.start_server(), which runs Hypercorn's protocol and nothing of the project.
    if error is not None and "client_connected_cb" in context["message"]:
        logger.warning("A connection was cut off: %.500r", _innermost(error))
        return
    loop.default_exception_handler(context)


def _innermost(error: Any) -> Any:
    """Of groups with one exception, as task groups raise them."""
    while exceptions := getattr(error, "exceptions", ()):
        error = exceptions[0]
    return error
