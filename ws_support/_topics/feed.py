"""The feed of a topic with history: its messages in one event loop, none missing and none twice."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from random import uniform
from typing import Any, Final

from ws_support._asyncio import Backoff, comes
from ws_support._topics.brokers.base import MOMENT, Broker, BrokerError, BrokerUnavailable, Log
from ws_support._topics.brokers.memory import KEEP_BEGINNING, KEEP_POSITION
from ws_support._topics.positions import Position, offset_of
from ws_support._topics.subscriber import Published, hand_out

logger = logging.getLogger("ws_support.broadcast")

_CHUNK: Final = 256
"""Messages that are read from a history at once."""

_TAIL: Final = 256
"""Messages that are remembered while somebody recovers. Who is slower reads the history again."""

_PENDING: Final = 64
"""Messages that are remembered while the feed itself catches up. After more, it reads again."""

_MOVE: Final = 1.0
"""Seconds for what a reader has found in the history to come here. Then the feed reads it, too."""

_READS: Final = 3
"""How often a feed reads at least in the time for which a position is known, so that its position
stays known while nothing is published."""

_MOVES: Final = 5
"""How often that is waited for."""


class Feed:
    """The messages of one topic, in order, for the subscribers in this event loop.

    Each message names the position before it. When that is not the position of the feed, messages
    are missing, or came twice: the feed catches up from the history, and hands on what it has found
    before anything newer. It also does so at its beginning, and after an outage. When the history
    does not reach back, `tell_gap` is called with the position at which the feed goes on.

    A subscriber with a position of its own is held while it recovers: it reads the history for
    itself, and then what the feed has handed out meanwhile.
    """

    def __init__(
        self,
        topic: str,
        broker: Broker,
        subscribers: dict[Any, bool],
        tell_gap: Callable[[str, Position], None],
    ) -> None:
        self._topic = topic
        self._broker = broker
        self._subscribers = subscribers
        self._tell_gap = tell_gap
        self.position: Position | None = None
        """That of the last message that was handed out; None until it is known."""
        self._held: dict[Any, int] = {}
        # Messages with their positions: those that were handed out, and those that wait.
        self._tail: deque[tuple[Position, Published]] = deque(maxlen=_TAIL)
        self._pending: deque[tuple[Position, Published]] = deque(maxlen=_PENDING)
        self._read: set[Position] = set()
        """The positions that the feed has read last."""
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._backoff = Backoff()
        self._moving: list[asyncio.Future[None]] = []

    def deliver(self, message: Any, position: Position, previous: Position) -> bool:
        """Take a message. Return True if the next should wait for a moment."""
        published = Published(self._topic, message, position, previous)
        if self._task is None and previous == self.position:
            return self._pass_on(position, published)
        self._pending.append((position, published))
        self.catch_up()
        return False

    def _pass_on(self, position: Position, published: Published) -> bool:
        self.position = position
        if self._held:
            self._tail.append((position, published))
        self._moved()
        return hand_out(published, self._subscribers, self._held)

    # Messages that the feed itself has missed

    def catch_up(self) -> asyncio.Task[None]:
        """Read from the history what has not come, in the task that is returned."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._task is None:
            self._task = asyncio.create_task(self._catch_up(), name="history")
        return self._task

    def end(self) -> None:
        """Stop: nobody subscribes any more."""
        for each in (self._task, self._retry):
            if each is not None:
                each.cancel()

    async def until_known(self) -> None:
        """Wait until the position is known, or the broker has failed."""
        if self.position is None:
            await asyncio.wait([self.catch_up()])

    async def _catch_up(self) -> None:
        try:
            while not await self._read_on():
                pass
            self._keep_known()
        except BrokerError as error:
            if not isinstance(error, BrokerUnavailable):
                logger.error("The history of %.100a could not be read: %s.", self._topic, error)
            self._catch_up_in(self._backoff.next())
        finally:
            self._task = None

    def _keep_known(self) -> None:
        self._backoff = Backoff()
        # Not all feeds at the same time.
        self._catch_up_in(self._time_known() / _READS * uniform(0.5, 1))  # noqa: S311

    def _catch_up_in(self, seconds: float) -> None:
        if self._subscribers:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(seconds, self.catch_up)

    def _time_known(self) -> float:
        """Return for how many seconds the history knows the position after it was read."""
        position = self.position
        has_begun = position is not None and offset_of(position) > 0
        return KEEP_POSITION if has_begun else KEEP_BEGINNING

    async def _read_on(self) -> bool:
        """Hand on what follows in the history. Return True if that was all."""
        since = self.position
        log = await self._broker.read(self._topic, since, 0 if since is None else _CHUNK)
        end = log.position
        if since is None:
            if self._pending:  # What has come already is new, though it is in the history by now.
                end = self._pending[0][1].previous or end
            self.position = end
            self._moved()
        elif not log.is_complete:
            self.position = log.position
            self._moved()
            self._tell_gap(self._topic, log.position)
        self._read = {end, *(each.position for each in log.entries)}
        for position, message in log.entries:
            published = Published(self._topic, message, position, self.position)
            if self._pass_on(position, published):
                await asyncio.sleep(MOMENT)
        if since is not None and self.position != log.position:
            self.position = log.position  # What is in between cannot be read.
            self._moved()
        return not log.has_more and self._pass_on_pending()

    def _pass_on_pending(self) -> bool:
        """Hand on what has come meanwhile. Return False if something before it is missing."""
        pending = list(self._pending)
        self._pending.clear()
        for position, published in pending:
            if published.previous == self.position:
                self._pass_on(position, published)
            elif position not in self._read:
                return False
        return True

    # Messages that a subscriber has missed

    def hold(self, subscriber: Any) -> None:
        """Hand nothing to a subscriber until it is released."""
        self._held[subscriber] = self._held.get(subscriber, 0) + 1

    def release(self, subscriber: Any) -> None:
        """Hand new messages to a subscriber again."""
        self._held[subscriber] -= 1
        if not self._held[subscriber]:
            del self._held[subscriber]
        if not self._held:
            self._tail.clear()

    def is_held_once(self, subscriber: Any) -> bool:
        """Return True if a subscriber recovers once, and not several times at once."""
        return self._held[subscriber] == 1

    async def recover(self, subscriber: Any, since: Position) -> tuple[bool, Position]:
        """Send to a subscriber what follows `since`, up to the position of the feed.

        Return True and that position; then it has to be released before anything else happens. When
        the history does not reach back, nothing is sent: return False, and the position from which
        on it gets messages. Raises `BrokerError` when the history cannot be read.
        """
        position = since
        while position != self.position and subscriber in self._subscribers:
            if known := self._known_after(position):
                await self._replay(subscriber, [published for _, published in known])
                position = known[-1][0]
                continue
            before = self.position
            log = await self._broker.read(self._topic, position, _CHUNK)
            if self.position is None:
                self._begin_after(log)
            if not log.is_complete:
                return False, self.position or log.position
            if log.position == position and self.position == before:
                await self._until_moved()
            missed = [Published(self._topic, message, at) for at, message in log.entries]
            await self._replay(subscriber, missed)
            position = log.position  # Somebody else may have written the last ones.
        return True, position

    def _begin_after(self, log: Log) -> None:
        """Begin where the history ends, as the first subscriber has read it, or read for that."""
        if self._task is not None or self._pending or log.has_more:
            self.catch_up()
            return
        self.position = log.position
        self._read = {log.position, *(each.position for each in log.entries)}
        if self._retry is not None:
            self._retry.cancel()
        self._keep_known()
        self._moved()

    async def _replay(self, subscriber: Any, missed: Iterable[Published]) -> None:
        for published in missed:
            if subscriber in self._subscribers:  # It may unsubscribe meanwhile.
                await subscriber.replay(published)

    def _known_after(self, position: Position) -> list[tuple[Position, Published]]:
        tail = list(self._tail)
        starts = (at for at, (_, published) in enumerate(tail) if published.previous == position)
        return tail[next(starts, len(tail)) :]

    async def _until_moved(self) -> None:
        """Wait for what is in the history, and has not come here yet."""
        for _ in range(_MOVES):
            moving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._moving.append(moving)
            if await comes(moving, _MOVE):
                return
            self.catch_up()
        raise BrokerUnavailable("messages do not come from it")

    def _moved(self) -> None:
        moving, self._moving = self._moving, []
        for future in moving:
            future.set_result(None)
