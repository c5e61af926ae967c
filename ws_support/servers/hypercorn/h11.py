"""HTTP/1.1 in Hypercorn (0.18): limits of a head, and the requests that open a WebSocket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import h11 as parser
import hypercorn.protocol
from hypercorn.events import Closed
from hypercorn.protocol import h11
from hypercorn.protocol.events import Request

from ws_support._protocol.handshake import elements, origin_form
from ws_support.servers._run.limits import HEAD_TIMEOUT, MAX_HEAD, MAX_HEADERS
from ws_support.servers.hypercorn import websocket
from ws_support.servers.hypercorn.http import HTTPStream

logger = logging.getLogger("ws_support.servers")


def install() -> None:
    hypercorn.protocol.H11Protocol = H11Protocol  # type: ignore[attr-defined]


_LINGER: Final = 0.5
"""Seconds that a client whose head is too large has to send the rest and to read the answer."""


class H11Protocol(h11.H11Protocol):
    """A connection that treats every request for a WebSocket as one, to accept or to refuse it.

    Hypercorn 0.18 looks at the last line of `Connection` only, takes `get` for GET, and hands every
    other request for a WebSocket to the application as an HTTP request. Trailers have the same
    time limit as a head.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connection = _Connection(parser.SERVER, max_incomplete_event_size=MAX_HEAD)
        self.connection.watch = self._watch
        self._limit: asyncio.TimerHandle | None = None

    def _watch(self, is_waiting: bool) -> None:
        if not is_waiting:
            self._stop_waiting()
        elif self._limit is None and self.stream is not None:
            self._limit = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self._give_up)

    def _stop_waiting(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _give_up(self) -> None:
        logger.info("Closed: no request within %g s from %s.", HEAD_TIMEOUT, self.client)
        self.task_group.spawn(self.send, Closed())

    async def _close_stream(self) -> None:
        self._stop_waiting()
        await super()._close_stream()

    async def _create_stream(self, request: Any) -> None:
        headers = list(request.headers)
        # h11 limits only the size of an incomplete head, which may double with the last read.
        size = sum(len(name) + len(value) + 4 for name, value in headers) + len(request.target)
        if len(headers) > MAX_HEADERS or size > MAX_HEAD:
            await self._send_error_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            await self.send(Closed())
            return
        target, headers = origin_form(request.target, headers)
        stream_class: Any = HTTPStream
        if _asks_for(headers, b"connection", b"upgrade") and _asks_for(
            headers, b"upgrade", b"websocket"
        ):
            stream_class = websocket.WSStream
            self.connection = h11.H11WSConnection(self.connection)  # type: ignore[arg-type]
        self.stream = stream_class(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            h11.STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=h11.STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def _send_error_response(self, status_code: int) -> None:
        await super()._send_error_response(status_code)
        # Closing TCP while data is unread resets the connection, and the answer may be lost. Up to
        # 128 KiB are read during this wait.
        await asyncio.sleep(_LINGER)


class _Connection(parser.Connection):
    """A parser that calls `watch` with True while it waits for the rest of trailers."""

    watch: Callable[[bool], None]

    def next_event(self) -> Any:
        event = super().next_event()
        # h11 (0.16) has no public name for this state.
        is_in_trailers = getattr(self._reader, "_reading_trailer", False)
        self.watch(event is parser.NEED_DATA and is_in_trailers)
        return event


def _asks_for(headers: list[tuple[bytes, bytes]], name: bytes, token: bytes) -> bool:
    return token in map(bytes.lower, elements(headers, name))
