"""An ASGI application that runs in the process of a test."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

__all__ = ["RunningApplication", "websocket_scope"]

Application = Callable[[Any, Any, Any], Awaitable[Any]]
Headers = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]

_Self = TypeVar("_Self", bound="RunningApplication")

TIMEOUT: Final = 10.0
"""Seconds for whatever a test waits for, unless it says otherwise."""
CANCEL_TIMEOUT: Final = 1.0
"""Seconds for an application to end after its cancellation, or when the test has failed already."""
_MAX_WAITING: Final = 1000
"""Messages that wait in each direction. The side that sends one more waits, as with a socket."""


def websocket_scope(
    path: str,
    *,
    headers: Headers = (),
    origin: str | None = None,
    cookies: Mapping[str, Any] | None = None,
    subprotocols: Iterable[str] = (),
    user: Any = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the ASGI scope of a handshake. The arguments are those of `Peer`."""
    url = urlsplit(path)
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    lines = [(_bytes_of(name).lower(), _bytes_of(value)) for name, value in pairs]
    if not any(name == b"host" for name, _ in lines):
        lines.insert(0, (b"host", b"testserver"))
    if origin is not None:
        lines.append((b"origin", origin.encode()))
    if cookies:
        # Django's test client holds each as a `Morsel`.
        each = (f"{name}={getattr(value, 'value', value)}" for name, value in cookies.items())
        lines.append((b"cookie", "; ".join(each).encode()))
    scope = {
        "type": "websocket",
        "http_version": "1.1",
        "scheme": "ws",
        "path": unquote(url.path),
        "raw_path": url.path.encode(),
        "query_string": url.query.encode(),
        "root_path": "",
        "headers": lines,
        "client": ("127.0.0.1", 50_000),
        "server": ("testserver", 80),
        "subprotocols": list(subprotocols),
        "extensions": {"websocket.http.response": {}},
    }
    if user is not None:
        scope["user"] = user
    return scope | more


def _bytes_of(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


class RunningApplication:
    """Run an ASGI application in a task, with a test in the place of the server.

    It takes and returns the messages of ASGI as they are, for scopes of every type; for WebSockets,
    `Peer` is more convenient. Use it as an asynchronous context manager. At its end the application
    is cancelled if it still runs, and its exception is raised unless the test has read it already.

    Each wait ends after `timeout` seconds with `TimeoutError`, and at once when the application
    raises: with its exception. What the application has sent before is read first.
    """

    def __init__(
        self,
        application: Application,
        scope: Mapping[str, Any],
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        self.scope = dict(scope)
        self.timeout = timeout
        self._application = application
        self._input: deque[Mapping[str, Any]] = deque()
        self._output: deque[Mapping[str, Any]] = deque()
        self._send_error: BaseException | None = None
        # What servers raise, and take for no failure when it comes back to them.
        self._gone = OSError("The client has gone")
        self._has_left = False
        self._is_reading = True
        self._is_raised = False
        self._started: asyncio.Task[None] | None = None
        # Set when something has happened that the application, or the test, may wait for.
        self._for_application = asyncio.Event()
        self._for_test = asyncio.Event()

    async def __aenter__(self: _Self) -> _Self:
        self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._cancel()
        self._raise_unread()

    async def send_input(self, message: Mapping[str, Any]) -> None:
        """Send a message of ASGI to the application."""
        if not await self._wait_for(lambda: len(self._input) < _MAX_WAITING, self.timeout):
            raise TimeoutError(
                f"The application has left {len(self._input)} messages unread for"
                f" {self.timeout:g} s"
            )
        self._raise_error()
        self._has_left = self._has_left or message["type"].endswith(".disconnect")
        self._input.append(message)
        self._for_application.set()

    async def receive_output(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message of ASGI that the application sends."""
        seconds = self.timeout if timeout is None else timeout
        if not await self._wait_for(lambda: bool(self._output), seconds):
            self._raise_error()
            if self._task.done():
                raise EOFError("The application has ended and sends nothing more")
            raise TimeoutError(f"The application has sent nothing within {seconds:g} s")
        message = self._output.popleft()
        self._for_application.set()
        return dict(message)

    async def receive_nothing(self, duration: float = 0.1) -> bool:
        """Return True if the application sends nothing for `duration` seconds."""
        is_sent = await self._wait_for(lambda: bool(self._output), duration)
        self._raise_unread()
        return not is_sent

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until the application has ended. Raises what it raises."""
        seconds = self.timeout if timeout is None else timeout
        if not await self._wait_for(self._task.done, seconds):
            raise TimeoutError(f"The application has not ended within {seconds:g} s")
        self._raise_error()

    def pause_reading(self) -> None:
        """Be a client that reads nothing: from now on, each `send` of the application waits."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """Read again, after `pause_reading()`."""
        self._is_reading = True
        self._for_application.set()

    def fail_sends(self, error: BaseException | None) -> None:
        """Raise `error` from each `send` of the application, as a server does that cannot send.

        `None` ends that.
        """
        self._send_error = error
        self._for_application.set()

    def cancel(self) -> None:
        """Cancel the application, as a server does that stops."""
        self._task.cancel()

    @property
    def was_cancelled(self) -> bool:
        """True if the application has ended with its cancellation."""
        return self._task.cancelled()

    @property
    def unread(self) -> int:
        """The number of messages that the application has not read yet."""
        return len(self._input)

    async def serve_receive(self) -> dict[str, Any]:
        """Be the `receive` of the application. Override it to be a server that does otherwise."""
        while not self._input:
            self._for_application.clear()
            await self._for_application.wait()
        message = self._input.popleft()
        self._for_test.set()
        return dict(message)

    async def serve_send(self, message: Mapping[str, Any]) -> None:
        """Be the `send` of the application. Override it to be a server that does otherwise."""
        while self._is_full() and not self._has_left and self._send_error is None:
            self._for_application.clear()
            await self._for_application.wait()
        if self._send_error is None and self._is_full():
            self.fail_sends(self._gone)
        if self._send_error is not None:
            raise self._send_error
        self._output.append(message)
        self._for_test.set()

    def _start(self) -> None:
        # As under a server, the application has no context variables of the test.
        self._started = contextvars.Context().run(asyncio.create_task, self._run())
        self._started.add_done_callback(lambda _: self._for_test.set())

    @property
    def _task(self) -> asyncio.Task[None]:
        if self._started is None:
            name = type(self).__name__
            raise RuntimeError(
                f"The application of this {name} does not run. Use it in a block:"
                f" async with {name}(...) as peer: ..."
            )
        return self._started

    async def _run(self) -> None:
        await self._application(self.scope, self.serve_receive, self.serve_send)

    def _is_full(self) -> bool:
        return not self._is_reading or len(self._output) >= _MAX_WAITING

    async def _wait_for(self, is_so: Callable[[], bool], timeout: float) -> bool:
        """Return True when `is_so()`, and False after `timeout`, or when the application ends."""
        now = asyncio.get_running_loop().time
        deadline = now() + timeout
        while not is_so() and not self._task.done() and (left := deadline - now()) > 0:
            self._for_test.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._for_test.wait(), left)
        return is_so()

    def _raise_error(self) -> None:
        """Raise what the application has raised, if it has ended."""
        if not self._task.done() or self._task.cancelled():
            return
        error = self._task.exception()
        if error is not None and error is not self._gone:
            self._is_raised = True
            raise error

    def _raise_unread(self) -> None:
        """Raise what the application has raised, unless the test has it already."""
        if not self._is_raised:
            self._raise_error()

    async def _cancel(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task], timeout=CANCEL_TIMEOUT)
