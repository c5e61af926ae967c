"""The subscriber: sends published messages to one connection, and never delays the publisher."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Container, Coroutine
from inspect import iscoroutine
from typing import Any, ClassVar, Protocol, TypeAlias

from ws_support._asyncio import awaited, rest_of
from ws_support._protocol.frames import message_frame
from ws_support._topics.messages import EXCLUDE, wrapped
from ws_support._topics.positions import Position
from ws_support.close_codes import CloseCode

logger = logging.getLogger("ws_support.broadcast")


class Connection(Protocol):
    """The connection that a subscriber sends to."""

    @property
    def is_open(self) -> bool:
        """True until this side closes the connection."""

    @property
    def is_over(self) -> bool:
        """True once background tasks can no longer be started."""

    @property
    def direct(self) -> Any:
        """The extension `DIRECT` of the server, or `None` if `send_data()` is not its `send()`."""

    def is_known_as(self, name: str) -> bool:
        """Return True if `name`, of `exclusion_of()`, stands for it or for its user."""

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

    __slots__ = (
        "_frame",
        "_wrapped",
        "excluded",
        "for_hubs",
        "message",
        "position",
        "previous",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        message: Any,
        position: Position | None = None,
        previous: Position | None = None,
    ) -> None:
        self.topic = topic
        self.message = message
        self.position = position
        """The position in the history of the topic, if it has one."""
        self.previous = previous
        """The position before it."""
        self.excluded: str | None = None
        """Who does not get it, as `exclusion_of()` names it."""
        if EXCLUDE in message:
            self.message = {key: value for key, value in message.items() if key != EXCLUDE}
            self.excluded = message[EXCLUDE]
        self.for_hubs: Any = None
        """The same as an invocation of clients of hubs, once one of those gets it."""
        self._frame: bytes | None = None
        self._wrapped: Published | None = None

    @property
    def frame(self) -> bytes:
        if self._frame is None:
            self._frame = message_frame(self.message)
        return self._frame

    @property
    def wrapped(self) -> Published:
        """The message in a JSON text, with its topic and position."""
        if self._wrapped is None:
            text = wrapped(self.topic, self.position, self.message)
            message = {"type": "websocket.send", "text": text}
            self._wrapped = Published(self.topic, message, self.position)
            self._wrapped.excluded = self.excluded
        return self._wrapped


def hand_out(published: Published, subscribers: Collection[Any], but: Container[Any] = ()) -> bool:
    """Give a message to all subscribers but some. Return True if the next should wait."""
    chosen = tuple(subscribers)
    if but:
        chosen = tuple(each for each in chosen if each not in but)
    if published.excluded:
        chosen = tuple(each for each in chosen if not each.is_known_as(published.excluded))
    is_filling = False
    for subscriber in chosen:
        if subscriber.push(published):
            is_filling = True
    return is_filling


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

    dropped: ClassVar[int] = 0
    """Subscribers whose connection was closed with 1013, in this process until now."""

    def __init__(self, connection: Connection, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        direct = connection.direct
        # The coroutine of `send()` may be started in any task, here in that of the publisher.
        self._takes_steps = direct is not None
        self._write_frame: Callable[[bytes], bool] | None = getattr(direct, "write_frame", None)
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

    def push(self, published: Published) -> bool:
        """Send a message, or put it into the queue.

        Return True if the next message should wait for a moment: half of the queue is used. A
        client whose queue is full is too slow, and its connection is closed.
        """
        waiting = self._queue
        if waiting is not None:
            if len(waiting) >= self._limit:
                if not self._is_dropped:
                    self._drop_for_slowness(published.topic)
                return False
            waiting.append(published.message)
            return 2 * len(waiting) >= self._limit
        if self._takes_steps:
            self._send_now(published)
        else:
            self._send_later(published.message, deque())
        return False

    async def replay(self, published: Published) -> None:
        """Send a message of a history, and wait while the client is behind."""
        if published.excluded and self.is_known_as(published.excluded):
            return
        try:
            await self._connection.send_data(published.message)
        except OSError:
            pass  # The client has gone. The server is about to tell its connection.
        except Exception:
            # Servers raise different errors when the connection was closed during the wait.
            if self._connection.is_open:
                raise

    def is_known_as(self, name: str) -> bool:
        """Return True if this is who `name`, of `exclusion_of()`, stands for."""
        return self._connection.is_known_as(name)

    def miss(self) -> bool:
        """Close the connection, since messages for it were lost before they came here.

        Return True if it was open.
        """
        if not self._connection.is_open:
            return False
        self._drop("Messages were lost")
        return True

    def _drop_for_slowness(self, topic: str) -> None:
        logger.warning(
            "Closed with 1013: %d messages were waiting for a client that does not read them, topic"
            ' %.100a. To keep more, raise WS_SUPPORT["BROADCAST_QUEUE"].',
            self._limit,
            topic,
        )
        self._drop("Too slow for what is broadcast")

    def _drop(self, reason: str) -> None:
        Subscriber.dropped += 1
        self._is_dropped = True
        self._connection.give_up(CloseCode.TRY_AGAIN_LATER, reason)

    def _send_now(self, published: Published) -> None:
        write_frame = self._write_frame
        try:
            if write_frame is not None and write_frame(published.frame):
                return
            awaitable = self._connection.send_data(published.message)
            steps = awaitable if iscoroutine(awaitable) else awaited(awaitable)
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
        self._pump(awaited(rest_of(steps, waits_for)), deque())

    def _send_later(self, message: Any, waiting: deque[Any]) -> None:
        if not self._connection.is_over:
            self._pump(awaited(self._connection.send_data(message)), waiting)

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


class Wrapping:
    """The subscriptions of a connection whose messages are sent with their positions."""

    __slots__ = ("_subscriber", "topics", "topics_length")

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self.topics: set[str] = set()
        self.topics_length = 0

    def push(self, published: Published) -> bool:
        return self._subscriber.push(published.wrapped)

    async def replay(self, published: Published) -> None:
        await self._subscriber.replay(published.wrapped)

    def is_known_as(self, name: str) -> bool:
        return self._subscriber.is_known_as(name)

    def miss(self) -> bool:
        return self._subscriber.miss()


AnySubscriber: TypeAlias = Subscriber | Wrapping
