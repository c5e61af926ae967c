"""Connections as objects, for handlers that are functions, and for services that outlive them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, Concatenate, Final, ParamSpec, Protocol, overload

from channels.exceptions import StopConsumer
from django.core.serializers.json import DjangoJSONEncoder

from ws_support._asgi import check_accept, check_close
from ws_support._connection.connection import Connection
from ws_support._connection.database import OldConnections
from ws_support._connection.state import LOST, Close, Side
from ws_support._connection.subscribing import subscribed
from ws_support._topics.messages import checked_topic, json_of, message_of
from ws_support._topics.registry import Recovery
from ws_support.close_codes import CloseCode
from ws_support.exceptions import (
    ClientGone,
    ConnectionClosed,
    InvalidMessage,
    invalid_json,
    is_client_gone,
)
from ws_support.presence import Presence

__all__ = ["ConnectionClosed", "WebSocket", "WebSocketView", "websocket_view"]

P = ParamSpec("P")
Handler = Callable[Concatenate["WebSocket", P], Awaitable[None]]

_END_TIMEOUT: Final = 1.0
"""Seconds to wait until the server says why a connection has ended, after it refused a message."""


class WebSocketView(Protocol[P]):
    """The result of `websocket_view()`: an ASGI application for `path()`."""

    __wrapped__: Handler[P]
    """The original handler, for tests."""

    def __call__(self, scope: Any, receive: Any, send: Any) -> Coroutine[Any, Any, Any]: ...


@overload
def websocket_view(handler: Handler[P]) -> WebSocketView[P]: ...


@overload
def websocket_view(
    handler: None = None, *, cancel_on_disconnect: bool = True
) -> Callable[[Handler[P]], WebSocketView[P]]: ...


def websocket_view(handler: Any = None, *, cancel_on_disconnect: bool = True) -> Any:
    """Return an ASGI application for `path()` that calls `handler` for each connection.

    The handler is `async def handler(websocket, **url_kwargs)`:

        @websocket_view
        async def chat(websocket, room):
            await websocket.accept()
            async for message in websocket:
                await websocket.send(f"{room}: {message}")

        urlpatterns = [path("chat/<str:room>", chat)]

    When the handler returns, the connection is closed with 1000. When it raises, the connection is
    closed with 1011, and `WebSocketSupport` logs the exception; without `WebSocketSupport`, the
    server gets the exception. If the handler does not call `accept()`, the handshake is refused
    with 403. A `ConnectionClosed` that the handler does not catch is not an error.

    When the client leaves, a handler that does not wait for its `WebSocket` is cancelled within a
    second. With `cancel_on_disconnect=False`, it goes on.

    Raises `TypeError` if `handler` is not a coroutine function.
    """
    if handler is None:
        return partial(websocket_view, cancel_on_disconnect=cancel_on_disconnect)
    if not iscoroutinefunction(handler):
        name = getattr(handler, "__qualname__", repr(handler))
        raise TypeError(f"{name} has to be a coroutine function: write `async def {name}`.")

    @wraps(handler)
    async def application(
        scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] != "websocket":
            raise ValueError(
                f"{handler.__qualname__} is for WebSockets, and was called for {scope['type']!r}:"
                ' its route belongs under "websocket" in asgi.py.'
            )
        connection = _Connection(scope, receive, send, cancel_on_disconnect=cancel_on_disconnect)
        connection.websocket = websocket = WebSocket(connection, scope)
        await connection.run(partial(_handle, handler, websocket))

    return application


class WebSocket:
    """One connection. Any task of its event loop may use it, before and after its end.

    Messages are sent whole, and the messages of one task in their order. After the end, `send()`
    and `receive()` raise `ConnectionClosed`, on every server, whichever side has closed. Any number
    of tasks may send, but only one at a time may receive.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_connection",
        "_end",
        "_is_accepted",
        "_is_receiving",
        "_sending",
        "scope",
    )

    def __init__(self, connection: _Connection, scope: Any) -> None:
        self.scope: Mapping[str, Any] = scope
        """The ASGI scope of the connection, with the keys that middleware has added."""
        self._connection = connection
        self._is_accepted = False
        self._is_receiving = False
        self._sending = asyncio.Lock()
        self._end: Close | None = None
        self._closed: asyncio.Event | None = None

    def __repr__(self) -> str:
        state = f"closed with {self.close_code}" if self.closed else "open"
        return f"<WebSocket {self.scope['path']!r:.100}, {state}>"

    @property
    def user(self) -> Any:
        """The user from `AuthMiddlewareStack`.

        Raises `RuntimeError` without that middleware.
        """
        try:
            return self.scope["user"]
        except KeyError:
            raise RuntimeError(
                "There is no user: put AuthMiddlewareStack around the URLRouter in asgi.py."
            ) from None

    @property
    def url_kwargs(self) -> dict[str, Any]:
        """The values that the route has found in the path; also the handler's keyword arguments."""
        return dict(self.scope.get("url_route", {}).get("kwargs", {}))

    @property
    def subprotocols(self) -> list[str]:
        """The sub-protocols that the client offers, in the client's order."""
        return list(self.scope["subprotocols"])

    @property
    def closed(self) -> bool:
        """True if either side has closed the connection, or it was lost.

        Messages that the client sent before its close may still be received.
        """
        return self._end is not None

    @property
    def close_code(self) -> int | None:
        """The close code of the side that closed first, or `None` while the connection is open.

        The code is 1005 if that side sent none, and 1006 for a lost connection or a refused
        handshake.
        """
        return None if self._end is None else self._end.code

    @property
    def close_reason(self) -> str | None:
        """The reason that came with the code, often empty; `None` while the connection is open."""
        return None if self._end is None else self._end.reason

    # The handshake.

    async def accept(
        self,
        subprotocol: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]] | None = None,
    ) -> None:
        """Accept the handshake, with one of the `subprotocols` and with `headers` of your own.

        Raises `RuntimeError` if the handshake was accepted before, `ValueError` for a sub-protocol
        that the client did not offer (RFC 6455, section 4.2.2), and `ConnectionClosed` after the
        end.
        """
        self._check_open()
        if self._is_accepted:
            raise RuntimeError("accept() was called twice: call it once, before everything else.")
        message = {
            "type": "websocket.accept",
            "subprotocol": subprotocol,
            "headers": _encoded(headers),
        }
        check_accept(self.scope, message)
        self._is_accepted = True
        try:
            await self._connection.send(message)
        except ClientGone:
            raise await self._why_closed() from None
        except Exception:
            self._is_accepted = False
            raise

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection with `code` and `reason`.

        Before `accept()`, refuse the handshake with 403. After the end, do nothing.

        Raises `ValueError` for a code that may not be sent, or a reason of more than 123 bytes.
        """
        message = {"type": "websocket.close", "code": code, "reason": reason}
        check_close(message)
        if self.closed:
            return
        message["code"] = int(code)
        with suppress(ClientGone):
            await self._connection.send(message)

    async def wait_closed(self) -> None:
        """Wait until the connection is `closed`.

        Up to 64 messages that no task receives meanwhile are kept. With more, the client has to
        wait, and its end may go unnoticed. A handler that does not want the messages should read
        them instead: `async for _ in websocket: pass`.
        """
        if not self.closed:
            if self._closed is None:
                self._closed = asyncio.Event()
            await self._closed.wait()
        if asyncio.current_task() is self._connection.task:
            self._connection.was_told()

    # Messages.

    async def receive(self) -> str | bytes:
        """Return the next message, `str` for text and `bytes` for binary.

        Raises `ConnectionClosed` after the last message, and `RuntimeError` before `accept()` or
        while another task is receiving.
        """
        self._check_accepted("receive")
        if self._is_receiving:
            raise RuntimeError(
                "Two tasks receive from the same WebSocket: let one receive, and hand on what came."
            )
        if self._end is not None and self._end.by is not Side.CLIENT:
            # Unread messages are dropped, but not those of a client that has left.
            raise self._end_of_messages()
        self._is_receiving = True
        try:
            message = await self._connection.next_message()
        finally:
            self._is_receiving = False
        if message is None or (self._end is not None and self._end.by is not Side.CLIENT):
            raise self._end_of_messages()
        text: str | None = message.get("text")
        return message["bytes"] if text is None else text

    async def receive_text(self) -> str:
        """Return the next message, which has to be text.

        Raises `InvalidMessage` if it is binary; if uncaught, this closes the connection with 1003.
        """
        message = await self.receive()
        if not isinstance(message, str):
            raise _wrong_kind("text", "binary")
        return message

    async def receive_bytes(self) -> bytes:
        """Return the next message, which has to be binary.

        Raises `InvalidMessage` if it is text; if uncaught, this closes the connection with 1003.
        """
        message = await self.receive()
        if isinstance(message, str):
            raise _wrong_kind("binary", "text")
        return message

    async def receive_json(self) -> Any:
        """Return the value of the next message, which has to be JSON text.

        Raises `InvalidMessage`, a `ValueError`, if it is binary or not JSON; if uncaught, this
        closes the connection with 1003 or 1007.
        """
        text = await self.receive_text()
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise invalid_json(error) from error

    def __aiter__(self) -> WebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next message. The loop ends with the connection; see `close_code` for why."""
        try:
            return await self.receive()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    async def send(self, message: str | bytes) -> None:
        """Send text or binary, and wait while the client is behind with reading.

        Raises `ConnectionClosed` after the end, `RuntimeError` before `accept()`, and `TypeError`
        or `ValueError` for a message that cannot be sent.
        """
        content = message_of(message)
        self._check_accepted("send")
        self._check_open()
        try:
            async with self._sending:
                await self._connection.send_data(content)
        except OSError:
            raise await self._why_closed() from None
        except Exception:
            # Servers raise different errors when the connection was closed during the wait.
            self._check_open()
            raise

    async def send_json(
        self, value: Any, *, encoder: type[json.JSONEncoder] = DjangoJSONEncoder
    ) -> None:
        """Send `value` as JSON text. By default, it may hold dates, times, `Decimal` and `UUID`.

        Raises `ValueError` for NaN and infinity, which no browser can read.
        """
        await self.send(json_of(value, encoder))

    # Topics.

    async def subscribe(
        self, topic: str, since: str | None = None, *, positions: bool = False
    ) -> Recovery:
        """Subscribe the client to `topic`: messages that are broadcast there go to the client.

        The subscription holds from the return on until `unsubscribe()` or the end. Messages wait
        for `accept()`.

        `since`, `positions`, the result and the errors are those of
        `AsyncWebsocketConsumer.subscribe()`: with a position, what has followed it is sent first.
        """
        self._check_open()
        return await subscribed(self._connection, topic, since, positions=positions)

    @property
    def connection_id(self) -> str:
        """The id of the connection, for `broadcast(exclude=...)`."""
        return self._connection.id

    async def unsubscribe(self, topic: str) -> None:
        """Unsubscribe the client from `topic`. Without a subscription, do nothing."""
        await self._connection.unsubscribe(checked_topic(topic))

    def present(
        self, topic: str, meta: Mapping[str, Any] | None = None, *, name: str | None = None
    ) -> Presence:
        """Return an entry under `topic` for the user of the connection, if there is one.

        `async with websocket.present(topic, meta)` makes the user present until the end of the
        block, and no longer than the connection lasts. The arguments are those of
        `ws_support.presence.present()`, and `Presence` says what entering raises.

        Raises `ConnectionClosed` after the end, and `TypeError` or `ValueError` for an invalid
        argument.
        """
        self._check_open()
        user = self.scope.get("user")
        return Presence(topic, user=user, meta=meta, name=name, holder=self._connection)

    # Checks and the end.

    def _check_accepted(self, method: str) -> None:
        if not self._is_accepted:
            self._check_open()
            raise RuntimeError(
                f"{method}() was called before accept(): first `await websocket.accept()`."
            )

    def _check_open(self) -> None:
        if self.closed:
            raise self._how_closed()

    def _how_closed(self) -> ConnectionClosed:
        end = self._end or LOST
        return ConnectionClosed(end.code, end.reason)

    def _end_of_messages(self) -> ConnectionClosed:
        self._connection.was_told()
        return self._how_closed()

    async def _why_closed(self) -> ConnectionClosed:
        """Wait until the code is known, and return the exception to raise after a failed send.

        Servers say only in `receive()` why a connection has ended.
        """
        try:
            await asyncio.wait_for(self.wait_closed(), _END_TIMEOUT)
        except asyncio.TimeoutError:
            self._end_with(LOST)
        return self._how_closed()

    def _end_with(self, close: Close) -> None:
        """Note the end of the side that ends the connection first."""
        if self._end is None:
            self._end = close
            if self._closed is not None:
                self._closed.set()


class _Connection(Connection):
    """The connection of a `WebSocket`, whose one handler receives all messages itself."""

    __slots__ = ("_databases", "websocket")

    websocket: WebSocket
    _databases: OldConnections

    async def close_old_databases(self) -> None:
        self._databases = OldConnections.of_this_loop()
        if self._databases.are_due():
            await self._databases.close()

    async def next_message(self) -> dict[str, Any] | None:
        """Return the next message of the client, and `None` after the last one."""
        queue = self.read_ahead()
        if self.websocket.closed and not len(queue):
            return None
        if not len(queue):
            await queue.filled()
        if self._databases.are_due():
            # Done before the message is taken: a cancellation here would lose the message.
            await self._databases.close()
        message = await queue.get()
        return message if message["type"] == "websocket.receive" else None

    def was_told(self) -> None:
        """Note that the handler knows of the end, and may take any time to finish."""
        self.cancel_on_disconnect = False

    def tell(self, close: Close) -> bool:
        self.websocket._end_with(close)
        if close.by is not Side.CLIENT:
            # A task that waits for a message is told here. From the client, it gets the message.
            self.read_ahead().put(close.message)
        return True


async def _handle(
    handler: Callable[..., Awaitable[None]], websocket: WebSocket, message: dict[str, Any]
) -> None:
    """Handle `websocket.connect`: run the handler, which covers the rest of the connection."""
    if message["type"] != "websocket.connect":
        return
    websocket._connection.read_ahead()
    await websocket._connection.close_old_databases()
    try:
        await _with_its_databases(handler, websocket)
    except InvalidMessage as error:
        websocket._connection.tell(Close(error.code, error.reason, Side.APPLICATION))
        raise
    except asyncio.CancelledError:
        websocket._connection.tell(Close(CloseCode.SERVICE_RESTART, "", Side.SERVER))
        raise
    except Exception as error:
        if not websocket.closed or not is_client_gone(error):
            websocket._connection.tell(Close(CloseCode.INTERNAL_ERROR, "", Side.APPLICATION))
            if is_client_gone(error):
                # The error is from another connection. Only for its own connection a handler may
                # leave it uncaught.
                raise RuntimeError(
                    "A ConnectionClosed of another WebSocket was not caught."
                ) from error
            raise
    await websocket.close()
    raise StopConsumer


async def _with_its_databases(
    handler: Callable[..., Awaitable[None]], websocket: WebSocket
) -> None:
    try:
        await handler(websocket, **websocket.url_kwargs)
    finally:
        await websocket._connection.close_old_databases()


def _encoded(
    headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]] | None,
) -> list[tuple[bytes, bytes]]:
    """Return `headers` in the form of ASGI."""
    pairs: Any = headers.items() if isinstance(headers, Mapping) else headers or ()
    return [(_bytes(name).lower(), _bytes(value)) for name, value in pairs]


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def _wrong_kind(wanted: str, got: str) -> InvalidMessage:
    return InvalidMessage(
        f"The message is {got} where {wanted} was expected.",
        CloseCode.UNSUPPORTED_DATA,
        f"Only {wanted} is understood here",
    )
