"""The subscriber: sends published messages to one connection, and never delays the publisher."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from inspect import iscoroutine
from types import coroutine
from typing import Any, Final, Protocol

from ws_support._protocol.frames import message_frame
from ws_support.close_codes import CloseCode

logger = logging.getLogger("ws_support.broadcast")

_SERVERS: Final = frozenset({"daphne", "granian", "hypercorn", "uvicorn", "ws_support"})
"""Packages of servers whose `send()` may run in any task."""


FILLING: Final = 1
"""At least half of the queue is used."""

FULL: Final = 2
"""The queue had no room for the message."""


class Connection(Protocol):
    """The connection that a subscriber sends to."""

    @property
    def is_open(self) -> bool:
        """True until this side closes the connection."""

    @property
    def is_over(self) -> bool:
        """True once background tasks can no longer be started."""

    @property
    def server(self) -> Any:
        """The server's object for the connection, or `None` if `send_data()` is not its method."""

    def send_data(self, message: Any) -> Awaitable[None]:
        """Send a `websocket.send`."""

    def start_background(
        self, coroutine: Coroutine[Any, Any, Any], name: str | None
    ) -> asyncio.Task[Any]:
        """Run `coroutine` as a task, until the connection ends."""

    def fail(self, error: Exception) -> None:
        """End the connection because of an error that the server has raised."""

    def give_up(self, code: int, reason: str) -> None:
        """End the connection, whether or not the client reads the close frame."""


class Published:
    """A `websocket.send` for many subscribers, and its frame, which is built only once."""

    __slots__ = ("_frame", "message")

    def __init__(self, message: Any) -> None:
        self.message = message
        self._frame: bytes | None = None

    @property
    def frame(self) -> bytes:
        if self._frame is None:
            self._frame = message_frame(self.message)
        return self._frame


class Subscriber:
    """Sends published messages to one connection, in order.

    A message to a client that keeps up needs no task and no queue. Our protocols for Uvicorn write
    the finished frame. For other servers, the coroutine of `send()` is started right here; if the
    client keeps up, it ends without waiting. If it waits, the client is behind: a task finishes it,
    and later messages wait in a queue of up to `limit` messages. With one more, the connection is
    closed with 1013.
    """

    __slots__ = (
        "_connection",
        "_is_dropped",
        "_limit",
        "_queue",
        "_takes_steps",
        "_write_frame",
        "topics",
        "topics_length",
    )

    def __init__(self, connection: Connection, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        server = connection.server
        # The coroutine of a server's own `send()` may be started in any task, here the publisher's.
        self._takes_steps = server is not None
        self._write_frame: Callable[[bytes], bool] | None = getattr(server, "write_frame", None)
        self._is_dropped = False
        # The messages that wait, or None when nothing is in front of the next one. At first, they
        # wait for the end of the handshake.
        self._queue: deque[Any] | None = deque()
        self.topics: set[str] = set()
        # In characters. Summed up anew for each, 10,000 topics would take seconds.
        self.topics_length = 0

    def begin(self) -> None:
        """Start to send: the connection is accepted."""
        waiting, self._queue = self._queue, None
        if waiting:
            self._send_later(waiting.popleft(), waiting)

    def end(self) -> None:
        """Write no more frames: this side has closed the connection, which drops what is sent."""
        self._write_frame = None

    def push(self, published: Published) -> int:
        """Send a message, or put it into the queue.

        Return `FILLING` if half of the queue is used, `FULL` if it had no room for this message
        (not again after `drop()`), and otherwise 0.
        """
        waiting = self._queue
        if waiting is not None:
            if len(waiting) >= self._limit:
                return 0 if self._is_dropped else FULL
            waiting.append(published.message)
            return FILLING if 2 * len(waiting) >= self._limit else 0
        if self._takes_steps:
            self._send_now(published)
        else:
            self._send_later(published.message, deque())
        return 0

    def drop(self, topic: str) -> None:
        """Close the connection of a client that is too slow."""
        self._is_dropped = True
        logger.warning(
            "Closed with 1013: %d messages were waiting for a client that does not read them, topic"
            ' %.100a. To keep more, raise WS_SUPPORT["BROADCAST_QUEUE"].',
            self._limit,
            topic,
        )
        self._connection.give_up(CloseCode.TRY_AGAIN_LATER, "Too slow for what is broadcast")

    @property
    def is_open(self) -> bool:
        """True until this side closes the connection."""
        return self._connection.is_open

    def miss(self) -> None:
        """Close the connection, since messages for it were lost before they came here."""
        self._is_dropped = True
        self._connection.give_up(CloseCode.TRY_AGAIN_LATER, "Messages were lost")

    def _send_now(self, published: Published) -> None:
        write_frame = self._write_frame
        try:
            if write_frame is not None and write_frame(published.frame):
                return
            awaitable = self._connection.send_data(published.message)
            steps = awaitable if iscoroutine(awaitable) else _awaited(awaitable)
            waits_for = steps.send(None)
        except StopIteration:
            return
        except OSError:
            return  # The client has gone. The server is about to tell its connection.
        except Exception as error:
            self._connection.fail(error)
            return
        if self._connection.is_over:
            steps.close()  # The message is dropped: no task may be started to finish it.
            return
        self._pump(_awaited(_rest_of(steps, waits_for)), deque())

    def _send_later(self, message: Any, waiting: deque[Any]) -> None:
        if not self._connection.is_over:
            self._pump(_awaited(self._connection.send_data(message)), waiting)

    def _pump(self, first: Coroutine[Any, Any, None], waiting: deque[Any]) -> None:
        self._queue = waiting
        self._connection.start_background(self._send_all(first, waiting), "broadcast")

    async def _send_all(self, first: Coroutine[Any, Any, None], waiting: deque[Any]) -> None:
        try:
            await first
            while waiting:
                await self._connection.send_data(waiting.popleft())
        except OSError:
            waiting.clear()  # The client has gone. The server is about to tell its connection.
        except Exception:
            # Servers raise different errors when the connection was closed during the wait.
            if self._connection.is_open:
                raise
        self._queue = None


def server_of(send: Callable[[Any], Awaitable[None]]) -> Any:
    """Return the server's object for a connection if `send` is its own method, else `None`.

    A `send` that a middleware has wrapped may depend on its task, for example for a timeout.
    """
    while isinstance(send, partial):
        send = send.func
    owner = getattr(send, "__self__", None)
    return owner if type(owner).__module__.partition(".")[0] in _SERVERS else None


async def _awaited(awaitable: Awaitable[None]) -> None:
    await awaitable


@coroutine
def _rest_of(steps: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Await the rest of a coroutine that was started by hand and now waits for `waits_for`."""
    while True:
        try:
            yield waits_for
        except BaseException as error:
            step: Callable[[], Any] = partial(steps.throw, error)
        else:
            step = partial(steps.send, None)
        try:
            waits_for = step()
        except StopIteration:
            return
