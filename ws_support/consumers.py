"""Consumers with the API of Channels: no task or thread a message, and a sure `disconnect()`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial, wraps
from inspect import isawaitable
from json import JSONEncoder
from typing import TYPE_CHECKING, Any, ClassVar

from asgiref.typing import (
    WebSocketConnectEvent,
    WebSocketDisconnectEvent,
    WebSocketReceiveEvent,
)
from channels.consumer import get_handler_name
from channels.exceptions import (
    AcceptConnection,
    DenyConnection,
    InvalidChannelLayerError,
    StopConsumer,
)
from channels.generic import websocket as generic
from channels.layers import BaseChannelLayer, get_channel_layer

from ws_support._connection.connection import Connection, NoHandler
from ws_support._connection.database import OldConnections
from ws_support._connection.groups import Groups
from ws_support._connection.subscribing import subscribed
from ws_support._topics.messages import checked_topic, json_of
from ws_support._topics.registry import Recovery
from ws_support.close_codes import CloseCode
from ws_support.exceptions import ClientGone, InvalidMessage, invalid_json
from ws_support.presence import Presence

__all__ = ["AsyncJsonWebsocketConsumer", "AsyncWebsocketConsumer", "EchoConsumer"]


class AsyncWebsocketConsumer(generic.AsyncWebsocketConsumer):
    """A consumer that replaces the one of the same name in Channels.

    One task handles all messages of the connection, one at a time, in the order in which they came.
    There is no task and no thread for each message, and middleware in front of the consumer adds no
    cost for a message.

    `disconnect(code)` is called exactly once if `connect()` has started, however the connection
    ends. The code is that of the side that closed first, 1006 for a lost connection or a refused
    handshake, 1011 after an exception, 1012 when the server cancelled the connection (the method
    then has 10 s). Groups are left and background tasks have ended before the call. Messages that
    the method sends are dropped.

    When the client leaves while a handler takes long, the handler is cancelled within a second.
    Work that the handler gave to a thread ends first, since threads cannot be cancelled.

    With a `channel_layer_alias` of `None`, the consumer uses no channel layer and saves its cost.
    """

    cancel_on_disconnect = True
    """True to cancel a handler when the client leaves. With `False`, all messages that the client
    has sent are handled first, and `disconnect()` is called after that."""

    subscriptions: Sequence[str] = ()
    """Topics to subscribe to before `connect()` is called. Messages that are broadcast before the
    accept are sent after it."""

    if TYPE_CHECKING:
        channel_layer_alias: ClassVar[str | None]  # type: ignore[assignment]

    __connection: Connection | None = None
    __replaced_send: Callable[[Any], Awaitable[None]] | None = None
    __send_data: Callable[[Any], Awaitable[None]]
    __databases: OldConnections | None = None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if isinstance(cls.subscriptions, str):
            raise TypeError(
                f"{cls.__qualname__}.subscriptions is a string: write a list of topics,"
                f" [{cls.subscriptions!r}]."
            )

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> Any:
        """Return an ASGI application with a consumer for each connection, as in Channels."""

        application = super().as_asgi(**initkwargs)
        if cls.__call__ is not AsyncWebsocketConsumer.__call__:
            return application

        # Without this, each connection would keep two coroutines for as long as it lasts.
        @wraps(application)
        async def with_one(scope: Any, receive: Any, send: Any) -> None:
            consumer = cls(**initkwargs)
            try:
                await consumer.__task(scope, receive, send)
            finally:
                consumer.__connection.adopt_context()  # type: ignore[union-attr]

        return with_one

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        try:
            await self.__task(scope, receive, send)
        finally:
            self.__connection.adopt_context()  # type: ignore[union-attr]

    def __task(self, scope: Any, receive: Any, send: Any) -> asyncio.Task[None]:
        # A task of its own: in the server's task, each message would wake up the coroutines of all
        # middleware in front of the consumer.
        return asyncio.create_task(self.__run(scope, receive, send), name=scope["path"])

    def __run(self, scope: Any, receive: Any, send: Any) -> Coroutine[Any, Any, None]:
        self.scope = scope
        connection = Connection(
            scope, receive, send, cancel_on_disconnect=self.cancel_on_disconnect
        )
        self.__connection = connection
        self.__send_data = connection.send_data
        alias: str | None = self.channel_layer_alias
        layer = None if alias is None else get_channel_layer(alias)
        self.channel_layer = layer  # type: ignore[assignment]
        if layer is None:
            return connection.run(self.dispatch, handle_data=self.__data_handler())
        return self.__run_with_layer(connection, layer)

    async def __run_with_layer(self, connection: Connection, layer: BaseChannelLayer) -> None:
        groups = Groups.of(layer)
        self.channel_name = await groups.new_channel()
        self.channel_receive = partial(groups.receive, self.channel_name)
        try:
            await connection.run(
                self.dispatch, self.channel_receive, handle_data=self.__data_handler()
            )
        finally:
            await groups.leave(self.channel_name)

    @property
    def base_send(self) -> Callable[[Any], Awaitable[None]]:
        """The function that sends messages, as in Channels. It may be replaced by a wrapper."""
        return self.__replaced_send or self.__connection.send  # type: ignore[union-attr]

    @base_send.setter
    def base_send(self, send: Callable[[Any], Awaitable[None]]) -> None:
        self.__replaced_send = self.__send_data = send

    def __data_handler(self) -> Callable[[Any], Awaitable[None]]:
        """Return the handler for messages with data: `dispatch`, or a faster equivalent.

        The faster one is used if neither `dispatch` nor `websocket_receive` was overridden.
        """
        ours = AsyncWebsocketConsumer
        if (
            getattr(self.dispatch, "__func__", None) is ours.dispatch
            and getattr(self.websocket_receive, "__func__", None) is ours.websocket_receive
        ):
            return self.__handle_data
        return self.dispatch

    def __handle_data(self, message: Any) -> Awaitable[None]:
        databases = self.__databases
        if databases is None or databases.are_due():
            return self.dispatch(message)
        return self.__call_receive(message)

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Call the method for the type of `message`. Raises `ValueError` if there is none."""
        try:
            name = get_handler_name(message)
        except ValueError as error:
            raise NoHandler(*error.args) from None
        handler = getattr(self, name, None)
        if not handler:
            raise NoHandler(f"No handler for message type {message['type']}")
        await self.__close_old_connections()
        awaitable = handler(message)
        if awaitable is None:
            raise _not_a_coroutine(self, name)
        await awaitable

    def start_background(
        self, coroutine: Coroutine[Any, Any, Any], name: str | None = None
    ) -> asyncio.Task[Any]:
        """Run `coroutine` beside the handlers, for as long as the connection lasts.

        The task is cancelled, and has ended, before `disconnect()` is called. If it raises, the
        exception is logged with the name of the task (by default, that of its function), and the
        connection is closed with 1011.

        Raises `TypeError` if `coroutine` is not a coroutine, and `RuntimeError` if the connection
        has not begun or has ended.
        """
        if not asyncio.iscoroutine(coroutine):
            raise TypeError(
                f"start_background() takes a coroutine, as in start_background(self.watch()):"
                f" got {coroutine!r}."
            )
        if self.__connection is None:
            coroutine.close()
        return self.__begun("start_background").start_background(coroutine, name)

    async def subscribe(
        self, topic: str, since: str | None = None, *, positions: bool = False
    ) -> Recovery:
        """Subscribe the client to `topic`: messages that are broadcast there go to the client.

        They are sent unchanged, and do not pass `receive()`. The subscription holds from the return
        on until `unsubscribe()` or the end of the connection, before `disconnect()` is called.

        With a position, as `broadcast()` returns it, what has followed it is sent first, without a
        hole and without a double; this waits while the client is behind. When the topic no longer
        has all of it, or it is none of its positions, nothing of it is sent, and the result is
        `recovered=False`.

        With `positions`, each message is sent as JSON text: an object with `topic`, `position` and
        the message under `json`, `text` or `bytes` (Base64). The client names the last position
        when it comes back.

        Returns also during an outage of the broker: the subscription holds once the broker is back.
        But with a position, it raises `BroadcastError`, and nothing is subscribed to. Raises
        `TypeError` if `topic` or `since` is not a string, `ValueError` for `positions` of a topic
        without history, and `RuntimeError` if the connection has not begun or has ended, and, with
        a position, before `accept()`.
        """
        connection = self.__begun("subscribe")
        return await subscribed(connection, topic, since, positions=positions)

    @property
    def connection_id(self) -> str:
        """The id of the connection, for `broadcast(exclude=...)`."""
        return self.__begun("connection_id").id

    async def unsubscribe(self, topic: str) -> None:
        """Unsubscribe the client from `topic`. Without a subscription, do nothing."""
        await self.__begun("unsubscribe").unsubscribe(checked_topic(topic))

    def present(
        self, topic: str, meta: Mapping[str, Any] | None = None, *, name: str | None = None
    ) -> Presence:
        """Return an entry under `topic` for the user of the connection, if there is one.

        `await self.present(topic, meta)` makes the user present until the connection ends, before
        `disconnect()` is called; `async with`, until the end of the block. The arguments are those
        of `ws_support.presence.present()`, and `Presence` says what entering raises.

        Raises `RuntimeError` if the connection has not begun, and `TypeError` or `ValueError` for
        an invalid argument.
        """
        holder = self.__begun("present")
        user = self.scope.get("user")
        return Presence(topic, user=user, meta=meta, name=name, holder=holder)

    def __begun(self, method: str) -> Connection:
        if self.__connection is None:
            raise RuntimeError(
                f"{method}() was called before there is a connection: call it in connect() or"
                " later."
            )
        return self.__connection

    # The same as in Channels, but an error names the method that is not a coroutine function.

    async def websocket_connect(self, message: WebSocketConnectEvent) -> None:
        await self.__for_each_group("group_add")
        for topic in self.subscriptions:
            await self.subscribe(topic)
        try:
            awaitable = self.connect()
            if awaitable is None:
                raise _not_a_coroutine(self, "connect")
            await awaitable
        except AcceptConnection:
            await self.accept()
        except DenyConnection:
            await self.close()

    async def websocket_receive(self, message: WebSocketReceiveEvent) -> None:
        await self.__call_receive(message)

    def __call_receive(self, message: WebSocketReceiveEvent) -> Awaitable[None]:
        text = message.get("text")
        if text is not None:
            awaitable: Awaitable[None] | None = self.receive(text_data=text)
        else:
            awaitable = self.receive(bytes_data=message["bytes"])
        if awaitable is None:
            raise _not_a_coroutine(self, "receive")
        return awaitable

    async def send(  # type: ignore[override]
        self, text_data: str | None = None, bytes_data: bytes | None = None, close: bool = False
    ) -> None:
        if text_data is not None:
            message: Any = {"type": "websocket.send", "text": text_data}
        elif bytes_data is not None:
            message = {"type": "websocket.send", "bytes": bytes_data}
        else:
            raise ValueError("You must pass one of bytes_data or text_data")
        try:
            await self.__send_data(message)
        except OSError as error:
            # In a loop that suppresses this error and sends again, no other task would run.
            await asyncio.sleep(0)
            raise ClientGone(*error.args) from error
        if close:
            await self.close(close)

    async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        code = message.get("code")
        try:
            await self.__for_each_group("group_discard")
        finally:
            try:
                awaitable = self.disconnect(CloseCode.NO_STATUS_RECEIVED if code is None else code)
                if awaitable is None:
                    raise _not_a_coroutine(self, "disconnect")
                await awaitable
            finally:
                await self.__close_old_connections()
        raise StopConsumer

    async def __close_old_connections(self) -> None:
        if self.__databases is None:
            self.__databases = OldConnections.of_this_loop()
        if self.__databases.are_due():
            await self.__databases.close()

    async def __for_each_group(self, what: str) -> None:
        if not self.groups:
            return
        if not hasattr(self.channel_layer, what):
            raise InvalidChannelLayerError("BACKEND is unconfigured or doesn't support groups")
        for group in self.groups:
            await getattr(self.channel_layer, what)(group, self.channel_name)


class AsyncJsonWebsocketConsumer(AsyncWebsocketConsumer, generic.AsyncJsonWebsocketConsumer):
    """A consumer that replaces the one of the same name in Channels, based on this module's.

    A message that is not JSON closes the connection: with 1003 if it is binary, else with 1007. A
    `ValueError` is raised, as in Channels; `WebSocketSupport` logs it in one line.
    """

    if TYPE_CHECKING:
        channel_layer_alias: ClassVar[str | None]  # type: ignore[assignment]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        if text_data is None:
            raise InvalidMessage(
                "No text section for incoming WebSocket frame!",
                CloseCode.UNSUPPORTED_DATA,
                "Only text is understood here",
            )
        try:
            content = await self.__awaitable(self.decode_json(text_data), "decode_json")
        except (ValueError, RecursionError) as error:
            raise invalid_json(error) from error
        awaitable = self.receive_json(content, **kwargs)
        if awaitable is None:
            raise _not_a_coroutine(self, "receive_json")
        await awaitable

    async def send_json(
        self,
        content: Any,
        close: bool = False,
        *,
        encoder: type[JSONEncoder] | None = None,
    ) -> None:
        """Send `content` as JSON, encoded by `encode_json()`, or by `encoder` if that is given."""
        if encoder is None:
            text = await self.__awaitable(self.encode_json(content), "encode_json")
        else:
            text = json_of(content, encoder)
        await super().send(text_data=text, close=close)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        """Return `content` as JSON. It may hold dates, times, `Decimal` and `UUID`.

        Raises `ValueError` for NaN and infinity, which no browser can read.
        """
        return json_of(content)

    def __awaitable(self, result: Any, method: str) -> Awaitable[Any]:
        if not isawaitable(result):
            raise _not_a_coroutine(self, method)
        return result


class EchoConsumer(AsyncWebsocketConsumer):
    """Sends each message back unchanged: text as text, binary as binary, empty as empty.

    The consumer accepts the first sub-protocol that the client offers, since browsers fail a
    connection whose server accepts none.
    """

    channel_layer_alias = None

    async def connect(self) -> None:
        await self.accept(subprotocol=next(iter(self.scope["subprotocols"]), None))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


def _not_a_coroutine(consumer: object, method: str) -> TypeError:
    name = f"{type(consumer).__qualname__}.{method}"
    return TypeError(f"{name}() has to be a coroutine function: write `async def {method}`.")
