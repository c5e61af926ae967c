"""A WebSocket client in the process of the test: no server, no socket, no port."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, TypeVar

from ws_support._asgi import check_accept, check_close
from ws_support.close_codes import CloseCode
from ws_support.exceptions import ConnectionClosed
from ws_support.testing.application import (
    CANCEL_TIMEOUT,
    TIMEOUT,
    Application,
    Headers,
    RunningApplication,
    websocket_scope,
)

__all__ = ["HandshakeRefused", "Peer"]


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
        timeout: float = TIMEOUT,
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
        timeout = self.timeout if error is None else min(self.timeout, CANCEL_TIMEOUT)
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
