"""An ASGI client in the process of the test: no server, no socket, no port."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from ws_support._asgi import check_accept, check_close
from ws_support.close_codes import CloseCode
from ws_support.exceptions import ConnectionClosed

__all__ = ["HandshakeRefused", "Peer", "RunningApplication", "websocket_scope"]

Application = Callable[[Any, Any, Any], Awaitable[Any]]
Header = tuple[str | bytes, str | bytes]
Headers = Mapping[str, str] | Iterable[Header]

_Self = TypeVar("_Self", bound="RunningApplication")

_TIMEOUT: Final = 10.0
"""Seconds for whatever a test waits for, unless it says otherwise."""
_CANCEL_TIMEOUT: Final = 1.0
"""Seconds for an application to end after its cancellation, or when the test has failed already."""
_MAX_WAITING: Final = 1000
"""Messages that wait in each direction. The side that sends one more waits, as with a socket."""


class HandshakeRefused(Exception):
    """The application has not accepted the handshake.

    `status` (int) is that of the HTTP response, `reason` (str) its body without the line break at
    the end, and `headers` its headers. An application that closes instead of sending a response
    gives `code` and maybe `reason`; the status is 403 then, as on servers. `code` is None
    otherwise.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        headers: Iterable[tuple[bytes, bytes]] = (),
        code: int | None = None,
    ) -> None:
        super().__init__(
            f"The handshake was refused with {status}" + (f": {reason}" if reason else "")
        )
        self.status = status
        self.reason = reason
        self.headers = list(headers)
        self.code = code


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
        timeout: float = _TIMEOUT,
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
        self._task = contextvars.Context().run(asyncio.create_task, self._run())
        self._task.add_done_callback(lambda _: self._for_test.set())

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
        await asyncio.wait([self._task], timeout=_CANCEL_TIMEOUT)


class Peer(RunningApplication):
    """Be a WebSocket client of an ASGI application, for a test::

        async with Peer(application, "/ws/chat", origin="https://client.com") as peer:
            await peer.send_json({"text": "hello"})
            assert await peer.receive_json() == {"text": "hello"}

    The block begins when the application has accepted; `HandshakeRefused` is raised if it does not.
    At the end of the block the client leaves with 1000, unless the connection has been closed, and
    the application has `timeout` seconds to end. What the application raises is raised in the test,
    by whatever the test awaits, or at the end of the block.

    - `path`: with the query string, if any.
    - `headers`: a dictionary, or pairs, whose names may be repeated.
    - `origin`: the header `Origin`. There is none by default, as from clients that are no browsers,
      and `WebSocketSupport` refuses those unless `ALLOW_MISSING_ORIGIN` is set.
    - `cookies`: a dictionary, or the `cookies` of a test client of Django.
    - `subprotocols`: those that the client offers.
    - `user`: what the application finds as `scope["user"]`. Channels' `AuthMiddleware` leaves it.
    - `scope`: further entries of the ASGI scope, or others than the usual ones.
    - `timeout`: seconds for each wait.

    The scope has no entry `"asgi"` by default. By that `WebSocketSupport` knows a test, in which
    exceptions are raised; with a server, it closes with 1011 instead.
    """

    def __init__(
        self,
        application: Application,
        path: str,
        *,
        headers: Headers = (),
        origin: str | None = None,
        cookies: Mapping[str, Any] | None = None,
        subprotocols: Iterable[str] = (),
        user: Any = None,
        scope: Mapping[str, Any] | None = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        usual = websocket_scope(
            path,
            headers=headers,
            origin=origin,
            cookies=cookies,
            subprotocols=subprotocols,
            user=user,
        )
        super().__init__(application, usual | dict(scope or {}), timeout=timeout)
        self.subprotocol: str | None = None
        """The sub-protocol that the application has accepted."""
        self.response_headers: list[tuple[bytes, bytes]] = []
        """The headers that the application has added to its answer."""
        self.close_code: int | None = None
        """The close code of the side that closed first; None while the connection is open."""
        self.close_reason = ""
        self._is_accepted = False

    async def __aenter__(self: _Peer) -> _Peer:
        self._start()
        try:
            await self.send_input({"type": "websocket.connect"})
            await self._open()
        except BaseException:
            await self._cancel()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A test that has failed already waits no longer than necessary.
        timeout = self.timeout if error is None else min(self.timeout, _CANCEL_TIMEOUT)
        self._leave(CloseCode.NORMAL_CLOSURE, "")
        has_ended = await self._wait_for(self._task.done, timeout)
        await self._cancel()
        self._raise_unread()
        if error is None and not has_ended:
            raise TimeoutError(
                f"The application has not ended within {timeout:g} s after the connection"
            )

    async def send(self, message: str | bytes) -> None:
        """Send a text, or a binary message for `bytes`.

        Raises `ConnectionClosed` if the connection has ended.
        """
        self._raise_error()
        if self.close_code is not None:
            raise self._closed()
        kind = "text" if isinstance(message, str) else "bytes"
        await self.send_input({"type": "websocket.receive", kind: message})

    async def send_json(self, content: Any) -> None:
        """Send `content` as JSON, in a text."""
        await self.send(json.dumps(content))

    async def receive(self, timeout: float | None = None) -> str | bytes:
        """Return the next message of the application, as `str` or as `bytes`.

        Raises `ConnectionClosed` with code and reason if the application closes instead, and
        `TimeoutError` if nothing comes within `timeout` seconds.
        """
        if self.close_code is not None and not self._output:
            raise self._closed()
        try:
            message = await self.receive_output(timeout)
        except EOFError:
            raise self._closed() from None
        if message["type"] == "websocket.close":
            raise self._closed()
        text, data = message.get("text"), message.get("bytes")
        if isinstance(text, str) and data is None:
            return text
        if isinstance(data, bytes) and text is None:
            return data
        raise AssertionError(f"The application has sent neither a text nor bytes: {message!r}")

    async def receive_json(self, timeout: float | None = None) -> Any:
        """Return what the next message holds, a text in JSON. Raises as `receive()` does."""
        message = await self.receive(timeout)
        if not isinstance(message, str):
            raise AssertionError(f"The application has sent bytes, and not a text: {message!r}")
        return json.loads(message)

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection, and wait until the application has ended. Raises what it raises.

        Does not close a connection that has been closed already.
        """
        self._leave(code, reason)
        await self.wait()

    async def drop(self) -> None:
        """Be a client that is lost, without a close frame, and wait for the application's end.

        The application hears of it with 1006, and whatever it sends raises an `OSError`.
        """
        self.fail_sends(self._gone)
        self._leave(CloseCode.ABNORMAL_CLOSURE, "")
        await self.wait()

    async def wait_closed(self, timeout: float | None = None) -> int:
        """Wait until the application closes, and return the code.

        What it has sent before can still be read. Raises `TimeoutError` if it does not close within
        `timeout` seconds.
        """
        seconds = self.timeout if timeout is None else timeout
        await self._wait_for(lambda: self.close_code is not None, seconds)
        if self.close_code is not None:
            return self.close_code
        self._raise_error()
        raise TimeoutError(
            f"The application has not closed within {seconds:g} s."
            f" Of its messages, {len(self._output)} are unread"
        )

    async def _open(self) -> None:
        """Wait for the answer to the handshake."""
        try:
            answer = await self.receive_output()
        except EOFError as error:
            raise HandshakeRefused(
                HTTPStatus.INTERNAL_SERVER_ERROR, "The application has ended without an answer"
            ) from error
        if answer["type"] == "websocket.accept":
            self.subprotocol = answer.get("subprotocol")
            self.response_headers = [(bytes(n), bytes(v)) for n, v in answer.get("headers") or ()]
            return
        if answer["type"] == "websocket.close":
            refused = HandshakeRefused(
                HTTPStatus.FORBIDDEN,
                answer.get("reason") or "",
                code=answer.get("code") or CloseCode.NORMAL_CLOSURE,
            )
        elif answer["type"] == "websocket.http.response.start":
            body = await self._body()
            refused = HandshakeRefused(
                answer["status"],
                body.decode(errors="replace").removesuffix("\n"),
                headers=answer.get("headers") or (),
            )
        else:
            raise AssertionError(f"The application has answered the handshake with {answer!r}")
        self._leave(CloseCode.ABNORMAL_CLOSURE, "")
        await self.wait()
        raise refused

    async def _body(self) -> bytes:
        pieces, is_more = [], True
        while is_more:
            part = await self.receive_output()
            pieces.append(part.get("body", b""))
            is_more = part.get("more_body", False)
        return b"".join(pieces)

    def _closed(self) -> ConnectionClosed:
        return ConnectionClosed(self.close_code or CloseCode.NORMAL_CLOSURE, self.close_reason)

    async def serve_send(self, message: Mapping[str, Any]) -> None:
        """Be the `send` of the application, and check what it says about the connection."""
        kind = message["type"]
        if kind == "websocket.accept":
            check_accept(self.scope, message)
        elif kind == "websocket.close":
            check_close(message)
        await super().serve_send(message)
        if kind == "websocket.accept":
            self._is_accepted = True
        elif kind == "websocket.close" and self._is_accepted:
            self._leave(
                message.get("code") or CloseCode.NORMAL_CLOSURE, message.get("reason") or ""
            )

    async def _run(self) -> None:
        await super()._run()
        # An application that returns without closing is closed with 1000 by its server.
        if self.close_code is None and self._is_accepted:
            self.close_code = int(CloseCode.NORMAL_CLOSURE)

    def _leave(self, code: int, reason: str) -> None:
        """End the connection, once: the application hears of it behind what was sent before."""
        if self.close_code is None and not self._task.done():
            self.close_code, self.close_reason = int(code), reason
            self._has_left = True
            self._input.append(
                {"type": "websocket.disconnect", "code": int(code), "reason": reason}
            )
            self._for_application.set()


_Peer = TypeVar("_Peer", bound=Peer)
