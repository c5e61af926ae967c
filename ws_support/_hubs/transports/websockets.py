"""The transport over a WebSocket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from inspect import iscoroutine
from typing import Any, Final

from ws_support import _logging
from ws_support._asgi import direct_of
from ws_support._asyncio import awaited, cancelled_by_others, rest_of
from ws_support._connection.lifecycle import Lifecycle
from ws_support._hubs.connection import HubConnection
from ws_support._hubs.ends import End
from ws_support._hubs.protocols.base import HubProtocol
from ws_support._hubs.published import Published
from ws_support._protocol.frames import binary_frame, text_frame
from ws_support.close_codes import CloseCode
from ws_support.exceptions import is_client_gone

logger = logging.getLogger("ws_support.hubs")

_LOSSES: Final = (None, CloseCode.NO_STATUS_RECEIVED, CloseCode.ABNORMAL_CLOSURE)
"""Close codes with which servers report a WebSocket that was lost: see docs/servers.md."""

_CLOSE_TIMEOUT: Final = 0.5
"""Seconds that sending the close frame may take."""


class WebSocketTransport:
    """Carries a connection over one WebSocket.

    Each frame to the client ends with a message: Microsoft's client demands that. Frames of the
    client may hold any part of messages, and their type is not looked at.
    """

    __slots__ = (
        "_connection",
        "_drained",
        "_end",
        "_idle",
        "_is_gone",
        "_is_interrupted",
        "_is_leaving",
        "_pump",
        "_receive",
        "_said_goodbye",
        "_scope",
        "_send",
        "_send_data",
        "_takes_steps",
        "_task",
        "_tells_losses",
        "_timer",
        "_write_frame",
    )

    def __init__(
        self,
        connection: HubConnection,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._scope = scope
        self._receive = receive
        self._send = self._send_data = send
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        self._is_interrupted = False
        self._is_gone = False
        self._end: End | None = None
        self._pump: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None
        loop = asyncio.get_running_loop()
        self._is_leaving = False
        self._drained: asyncio.Future[None] = loop.create_future()
        self._said_goodbye: asyncio.Future[None] = loop.create_future()
        self._takes_steps = False
        self._write_frame: Callable[[bytes], bool] | None = None
        self._tells_losses = False

    async def run(self) -> None:
        """Accept the handshake, and carry the connection until it ends."""
        lifecycle = Lifecycle.behind(self._scope, self._receive)
        if lifecycle is not None:
            self._receive, send = lifecycle.make_way(self)
            # Not if a middleware in between has wrapped it.
            if self._send == lifecycle.send:
                self._send_data = send
        direct = direct_of(self._scope, self._send_data)
        self._takes_steps = direct is not None
        self._write_frame = getattr(direct, "write_frame", None)
        # Our own protocols tell a close frame without a code (1005) from a loss (1006).
        self._tells_losses = self._write_frame is not None
        connection = self._connection
        is_resumed = connection.is_resumable
        if not is_resumed:
            connection.attach(self)
        try:
            await self._send({"type": "websocket.accept", "subprotocol": None, "headers": []})
            if is_resumed:
                if not connection.is_resumable:  # pragma: no cover  # It has ended meanwhile.
                    await self._send({"type": "websocket.close", "code": 1000, "reason": ""})
                    return
                connection.resume(self)
            await self._read(lifecycle)
        except asyncio.CancelledError:
            if not self._is_interrupted or cancelled_by_others(self._task):
                if connection.transport is self:  # pragma: no branch  # Else it has been replaced.
                    connection.end(End(allow_reconnect=True, is_restart=True))
                raise
        except Exception as error:
            self._is_lost(error)
            if not is_client_gone(error):
                raise
        finally:
            self._is_leaving = True
            if connection.transport is self:
                await asyncio.wait([self._drained])
                self._write_frame = None
                await self._say_goodbye()
                await connection.wait_closed()
            else:
                self._stop()
                if self._is_interrupted:
                    # Another WebSocket has replaced this one. Granian may leave it open, else.
                    await self._close(CloseCode.NORMAL_CLOSURE)

    async def _read(self, lifecycle: Lifecycle | None) -> None:
        connection = self._connection
        while not connection.is_ending:
            message = await self._receive()
            if message["type"] == "websocket.receive":
                if connection.transport is not self:
                    return  # Another WebSocket has taken its place.
                text = message.get("text")
                connection.feed(message["bytes"] if text is None else text.encode())
                if connection.is_full:
                    await connection.room()
            elif message["type"] == "websocket.disconnect":
                if lifecycle is not None:
                    lifecycle.heard(message)
                code = message.get("code")
                if code == CloseCode.NO_STATUS_RECEIVED and self._tells_losses:
                    code = CloseCode.NORMAL_CLOSURE
                self._is_lost(may_return=code in _LOSSES)
                return
        await asyncio.wait([self._drained])

    # What goes down

    def notify(self) -> None:
        if self._pump is None and not self._is_gone:
            self._write(self._connection.take())

    def write_shared(self, published: Published, protocol: HubProtocol) -> bool:
        return (
            self._write_frame is not None
            and self._pump is None
            and self._write_frame(published.frames[protocol])
        )

    def _write(self, data: bytes) -> None:
        """Send bytes, without a task if that needs no wait."""
        is_binary = self._connection.is_binary
        if self._write_frame is not None and self._write_frame(
            binary_frame(data) if is_binary else text_frame(data)
        ):
            return
        message = _message(data, is_binary=is_binary)
        if not self._takes_steps:
            self._start(self._send_first(message))
            return
        awaitable = self._send_data(message)
        steps: Any = awaitable if iscoroutine(awaitable) else awaited(awaitable)
        try:
            waits_for = steps.send(None)
        except StopIteration:
            return
        except Exception as error:
            self._failed(error)
            return
        self._start(awaited(rest_of(steps, waits_for)))

    async def _send_first(self, message: Any) -> None:
        await self._send_data(message)

    def _start(self, first: Coroutine[Any, Any, None]) -> None:
        self._pump = asyncio.create_task(self._send_all(first))
        # For a task that is cancelled before its first step.
        self._pump.add_done_callback(lambda _: first.close())

    async def _send_all(self, first: Coroutine[Any, Any, None]) -> None:
        connection = self._connection
        timeout = connection.options.transport_send_timeout
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(timeout, self._is_stuck, timeout)
        try:
            await first
            while connection.has_output and not self._is_gone:
                self._timer.cancel()
                self._timer = loop.call_later(timeout, self._is_stuck, timeout)
                await self._send_data(
                    _message(connection.take(), is_binary=self._connection.is_binary)
                )
        except Exception as error:
            self._failed(error)
        finally:
            self._timer.cancel()
            self._pump = None
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)

    def _is_stuck(self, timeout: float) -> None:
        logger.info(
            "Given up: a write has waited %g s for the client, path %.200a. To wait longer, raise"
            ' WS_SUPPORT["HUBS"]["TRANSPORT_SEND_TIMEOUT"].',
            timeout,
            self._scope["path"],
            extra=_logging.fields(self._scope),
        )
        error = TimeoutError(f"A write has waited {timeout:g} s for the client.")
        self._connection.end(End("Connection closed with an error.", True, error))
        self._pump.cancel()  # type: ignore[union-attr]  # It has set this timer.

    def _failed(self, error: Exception) -> None:
        # Servers raise different errors for a client that has gone.
        logger.debug("Not sent: %r", error, extra=_logging.fields(self._scope))
        self._is_lost()

    def _is_lost(self, error: Exception | None = None, *, may_return: bool = True) -> None:
        """Note that the client has gone. With a stateful reconnect it may come back."""
        self._is_gone = True
        self._write_frame = None
        if not (may_return and self._connection.detach(self)):
            self._connection.lost(error)

    # The end

    async def finish(self, end: End) -> None:
        self._end = end
        try:
            while not self._is_gone and (self._pump is not None or self._connection.has_output):
                if self._pump is None:
                    self._connection.flush()
                else:
                    self._idle = asyncio.get_running_loop().create_future()
                    await asyncio.wait([self._idle])
        finally:
            if self._pump is not None:
                self._pump.cancel()
            self._drained.set_result(None)
            if not self._is_leaving:
                # Granian 2.8 sends no close frame while a task waits in `receive()`.
                self._is_interrupted = True
                self._task.cancel()
        await asyncio.wait([self._said_goodbye])

    async def _say_goodbye(self) -> None:
        try:
            if not self._is_gone:
                await self._close(CloseCode.NORMAL_CLOSURE if self._end is None else self._end.code)
        finally:
            self._said_goodbye.set_result(None)

    async def _close(self, code: int) -> None:
        close = {"type": "websocket.close", "code": int(code), "reason": ""}
        # Full buffers of a client would block it for ever.
        with suppress(Exception):
            await asyncio.wait_for(self._send(close), _CLOSE_TIMEOUT)

    def drop(self) -> None:
        self._is_gone = True
        self._stop()
        if not self._is_leaving:  # pragma: no branch  # It may be on its way out already.
            self._is_interrupted = True
            self._task.cancel()

    def _stop(self) -> None:
        self._write_frame = None
        if self._pump is not None:
            self._pump.cancel()

    # For the lifecycle

    @property
    def is_reading(self) -> bool:
        return not self._connection.is_full

    def give_up(self, code: int, reason: str) -> None:
        """End the connection of a client that is silent, as a `Heartbeat` of the route finds."""
        self._connection.end(
            End("Connection closed with an error.", True, TimeoutError(f"{reason} ({code})"))
        )

    async def close(self, code: int, reason: str) -> None:
        """End the connection, since the server stops."""
        await self._connection.drain(code, reason)


def _message(data: bytes, *, is_binary: bool) -> dict[str, Any]:
    if is_binary:
        return {"type": "websocket.send", "bytes": data}
    return {"type": "websocket.send", "text": data.decode()}
