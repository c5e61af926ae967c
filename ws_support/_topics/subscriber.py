"""One connection as topics see it: what is published goes to it, and nobody waits for that."""

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
"""Packages whose `send()` does not ask in which task it runs."""


FILLING: Final = 1
FULL: Final = 2


class Connection(Protocol):
    """Where it goes."""

    @property
    def is_open(self) -> bool:
        """Whether this side has not closed it."""

    @property
    def is_over(self) -> bool:
        """Whether nothing can be run in the background any more."""

    @property
    def server(self) -> Any:
        """The server's side of it, when `send_data()` is the server's own, else `None`."""

    def send_data(self, message: Any) -> Awaitable[None]:
        """Send a `websocket.send`."""

    def start_background(
        self, coroutine: Coroutine[Any, Any, Any], name: str | None
    ) -> asyncio.Task[Any]:
        """Run something until the connection ends."""

    def fail(self, error: Exception) -> None:
        """End it for an error of the server's."""

    def give_up(self, code: int, reason: str) -> None:
        """End it, whether the client reads that or not."""


class Published:
    """A `websocket.send` that goes to many, and its frame, which is put together once."""

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
    """Sends what it is given in order, at once where that is possible, and keeps what is not.

    A message to a client that keeps up takes no task and no queue. Our protocols for Uvicorn write
    a frame that is ready; of other servers' `send()`, the first step, which is the only one then,
    is taken right here. When there is a second step, the client is behind: a task takes it, and
    what comes meanwhile waits, up to `limit` messages. With one more, the connection is closed with
    1013.
    """

    __slots__ = (
        "_connection",
        "_is_dropped",
        "_limit",
        "_queue",
        "_takes_steps",
        "_write_frame",
        "topics",
    )

    def __init__(self, connection: Connection, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        server = connection.server
        # A step of `send()` may be taken in a task of somebody else's.
        self._takes_steps = server is not None
        self._write_frame: Callable[[bytes], bool] | None = getattr(server, "write_frame", None)
        self._is_dropped = False
        # What waits, while something is in front of it: at first, the handshake.
        self._queue: deque[Any] | None = deque()
        self.topics: set[str] = set()

    def begin(self) -> None:
        """From now on, send: the connection is accepted."""
        waiting, self._queue = self._queue, None
        if waiting:
            self._send_later(waiting.popleft(), waiting)

    def push(self, published: Published) -> int:
        """Send it. `FILLING` when half of what may wait does, and `FULL` when this was one
        too many, once; otherwise 0."""
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
        """Whether this side has not closed the connection."""
        return self._connection.is_open

    def miss(self) -> None:
        """Close the connection of a client that was not sent everything."""
        self._is_dropped = True
        self._connection.give_up(CloseCode.TRY_AGAIN_LATER, "Messages were lost")

    def _send_now(self, published: Published) -> None:
        write_frame = self._write_frame
        try:
            is_written = (
                write_frame is not None
                and self._connection.is_open
                and write_frame(published.frame)
            )
            if is_written:
                return
            awaitable = self._connection.send_data(published.message)
            steps = awaitable if iscoroutine(awaitable) else _awaited(awaitable)
            waits_for = steps.send(None)
        except StopIteration:
            return
        except OSError:
            return  # The client has gone, as its connection is about to hear.
        except Exception as error:
            self._connection.fail(error)
            return
        if self._connection.is_over:
            steps.close()  # It drops the message, and no task may be started for that.
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
            waiting.clear()  # The client has gone, as its connection is about to hear.
        except Exception:
            # Servers differ in what they raise when it was closed while this was waiting.
            if self._connection.is_open:
                raise
        self._queue = None


def server_of(send: Callable[[Any], Awaitable[None]]) -> Any:
    """The server's side of a connection, when `send` is its own, else `None`. What a middleware has
    put around may, for example, set a timeout for the task in which it runs."""
    while isinstance(send, partial):
        send = send.func
    owner = getattr(send, "__self__", None)
    return owner if type(owner).__module__.partition(".")[0] in _SERVERS else None


async def _awaited(awaitable: Awaitable[None]) -> None:
    await awaitable


@coroutine
def _rest_of(steps: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """What is left to await of a coroutine that has taken its first step, and waits."""
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
