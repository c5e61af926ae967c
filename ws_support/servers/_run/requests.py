"""The registry of this process's HTTP requests, and their end at a shutdown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from ws_support.exceptions import is_client_gone
from ws_support.servers._run.leftovers import Leftovers

logger = logging.getLogger("ws_support.servers")

_UNTIL_CANCELLED: Final = 1.0
"""Seconds between `http.disconnect` and the cancellation of an application that goes on."""

_ENDLESS: Final = (b"text/event-stream", b"multipart/x-mixed-replace")
"""Media types of responses that have no end of their own."""

_TURN: Final = 64
"""Messages that are sent in a row, before other tasks get a turn of the event loop.

`send()` never waits for a client that reads fast enough. Nor does it for a client that has gone or
has sent HEAD: nothing is sent to those (Uvicorn 0.54, Hypercorn 0.18, Granian 2.8)."""

_UNAVAILABLE: Final = b"The server is stopping.\n"

_Send = Callable[[Any], Awaitable[None]]
_Receive = Callable[[], Awaitable[Any]]


class Requests:
    """Registry of the requests that are being answered in this process, in one event loop.

    An endless response (an event stream) is ended as soon as the server stops: its application gets
    `http.disconnect`, as if the client had left, and is cancelled when it goes on. Other requests
    have until `give_up()`.
    """

    def __init__(self) -> None:
        self._requests: set[_Request] = set()
        self.is_stopping = False

    async def serve(self, application: Any, scope: Any, receive: _Receive, send: _Send) -> None:
        """Let `application` answer a request, and keep the request in the registry meanwhile."""
        request = _Request(self, receive, send)
        self._requests.add(request)
        try:
            await request.answer(application, scope)
        finally:
            self._requests.discard(request)

    def stop(self) -> None:
        """End endless responses: those that have begun, and those that begin from now on."""
        self.is_stopping = True
        for request in self._requests:
            if request.is_endless and not request.is_ended:
                request.end()

    def give_up(self, within: float = _UNTIL_CANCELLED) -> None:
        """End all other requests, and cancel those that are not done after `within` seconds."""
        late = [request for request in self._requests if not request.is_ended]
        if late:
            logger.error(
                "%d requests have not been answered in time and are cancelled. To give them more"
                ' time, raise WS_SUPPORT["SHUTDOWN_TIMEOUT"].',
                len(late),
            )
        for request in late:
            request.end(min(within, _UNTIL_CANCELLED))


class _Request:
    def __init__(self, requests: Requests, receive: _Receive, send: _Send) -> None:
        self._requests = requests
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        self._has_all_of_it = False
        self._has_started = False
        self._is_complete = False
        self._is_cancelled = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._is_receiving = False
        self._ahead: asyncio.Future[Any] | None = None
        self._unread: Any = None
        self._sent = 0
        self._leftovers = Leftovers()
        self._timer: asyncio.TimerHandle | None = None
        self.is_endless = False

    async def answer(self, application: Any, scope: Any) -> None:
        try:
            await application(scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self._is_cancelled:
                raise
        except Exception as error:
            if not is_client_gone(error):
                raise
        finally:
            if self._ahead is not None:
                self._ahead.cancel()
            if self._timer is not None:
                self._timer.cancel()
        if self.is_ended and not self._is_complete:
            # Servers log an error for a response that is not complete.
            with suppress(Exception):
                await self._complete()

    @property
    def is_ended(self) -> bool:
        return self._ended.done()

    def end(self, within: float = _UNTIL_CANCELLED) -> None:
        """Send the application `http.disconnect`, and cancel it after `within` seconds."""
        self._ended.set_result(None)
        self._timer = self._loop.call_later(within, self._cancel)

    async def receive(self) -> Any:
        if self._unread is not None:
            message, self._unread = self._unread, None
            return message
        if self._ahead is None and not self._has_all_of_it:
            self._is_receiving = True
            try:
                return self._received(await self._receive())
            finally:
                self._is_receiving = False
        # After the whole body, this waits for `http.disconnect`, as Django does during a view.
        ahead = self._ahead = self._ahead or asyncio.ensure_future(self._receive())
        await asyncio.wait([ahead, self._ended], return_when=asyncio.FIRST_COMPLETED)
        if not ahead.done():
            return {"type": "http.disconnect"}
        message = ahead.result()
        if message["type"] == "http.request":
            self._ahead = None
        return self._received(message)

    def _received(self, message: Any) -> Any:
        self._has_all_of_it = not message.get("more_body", False)
        return message

    def _read_ahead(self) -> None:
        """Receive in place of an application that only sends, to learn that its client has gone.

        One message of the body is kept at most, until the application receives it.
        """
        if self._ahead is not None and self._ahead.done() and self._unread is None:
            self._unread = self._received(self._ahead.result())
            self._ahead = None
        if self._ahead is None and (self._unread is None or self._has_all_of_it):
            self._ahead = asyncio.ensure_future(self._receive())

    def send(self, message: Any) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self._has_started = True
            self.is_endless = _is_endless(message)
            if self.is_endless and self._requests.is_stopping and not self.is_ended:
                self.end()
        else:
            self._is_complete = not message.get("more_body", False)
        self._sent += 1
        return self._send(message) if self._sent < _TURN else self._give_way_and_send(message)

    async def _give_way_and_send(self, message: Any) -> None:
        if self._is_left:
            await self._leftovers.drop()
            return
        if not self._is_receiving:
            self._read_ahead()
        await asyncio.sleep(0)
        await self._send(message)
        # After the client has left, every message takes this way.
        self._sent = _TURN if self._is_left else 0

    @property
    def _is_left(self) -> bool:
        """Return True if the client is known to have gone."""
        ahead = self._ahead
        if ahead is None or not ahead.done() or ahead.cancelled():
            return False
        return bool(ahead.result()["type"] == "http.disconnect")

    def _cancel(self) -> None:
        self._is_cancelled = True
        self._task.cancel()

    async def _complete(self) -> None:
        body = b""
        if not self._has_started:
            body = _UNAVAILABLE
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
            await self._send({"type": "http.response.start", "status": 503, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _is_endless(start: Any) -> bool:
    return any(
        name.lower() == b"content-type" and value.lower().startswith(_ENDLESS)
        for name, value in start.get("headers", ())
    )


here: Final = Requests()
"""The registry of this process."""
