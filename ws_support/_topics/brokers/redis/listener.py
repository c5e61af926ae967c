"""The listener: receives what is published through one Redis, and survives outages."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple, TypeAlias

from redis.asyncio.connection import Connection

from ws_support._asyncio import cancelled, comes, to_the_end
from ws_support._topics.brokers.base import (
    MOMENT,
    TIMEOUT,
    BrokerError,
    BrokerUnavailable,
    Receiver,
)
from ws_support._topics.brokers.redis.address import Address, close
from ws_support._topics.brokers.redis.envelope import Kept, read
from ws_support._topics.brokers.redis.publisher import Publisher, unavailable, within
from ws_support._topics.gaps import LATE, Gaps
from ws_support._topics.outages import Outages, Strangers

_PROBE_EVERY: Final = 3.0
"""Seconds between two probes: messages that this process sends to itself through Redis."""

_RETRY_EVERY: Final = 1.0
"""Seconds between two attempts to connect during an outage."""

_TURN: Final = 2.5
"""Seconds in which the probe or another message has to come."""

_QUIET_TURNS: Final = 2
"""Turns in a row without a message after which Redis is taken to deliver none."""

_CHUNK: Final = 256
"""Channels that one command names."""

_SLICE: Final = 0.002
"""Seconds of messages in a row, after which others have their turn: what has come already is read
without a wait."""


_CAUSE: Final = (
    "Redis has ended the connection of this process meanwhile. It does so when the process is too"
    " slow for what comes (client-output-buffer-limit pubsub)."
)


class Words(NamedTuple):
    """The commands by which one subscribes, and what a message begins with."""

    subscribe: bytes
    unsubscribe: bytes
    message: bytes


class Listener:
    """Receives the messages of all topics of one Redis, over one connection.

    `_wanted` holds what Redis ought to know. It is told of the differences, and of all again on a
    new connection. A probe, a message that goes the way of all others, shows if Redis works.

    Messages that Redis has not handed to a process that was too slow show as gaps in their numbers.
    Messages that are lost during an outage are not counted: the log tells of the outage.
    """

    words = Words(b"SUBSCRIBE", b"UNSUBSCRIBE", b"message")
    gaps: type[Gaps] = Gaps

    def __init__(
        self, address: Address, receiver: Receiver, publisher: Publisher, outages: Outages
    ) -> None:
        self._address = address
        self._receiver = receiver
        self._publisher = publisher
        self._outage = outages.detector()
        self._gaps = self.gaps()
        self._strangers = Strangers()
        self._pool = address.make_pool()
        self._probe = address.probe + uuid.uuid4().hex.encode()
        # What Redis ought to have, what it was asked for, and in how many commands it was not yet
        # answered.
        self._wanted: dict[bytes, str] = {}
        self._asked: set[bytes] = set()
        self._unanswered: Counter[bytes] = Counter()
        self._changed: set[bytes] = set()
        self._has_changed = asyncio.Event()
        # Those who wait until Redis has answered, for each channel.
        self._waiting: dict[bytes, _Future] = {}
        self._ready = new_future()
        self._came_round = new_future()
        self._has_taken = False
        self._task = asyncio.create_task(self._run(), name="listener")

    def join(self, topic: str) -> Coroutine[Any, Any, None]:
        """Subscribe to `topic` now. What is returned waits until its messages come here.

        In an outage, it does not wait.
        """
        channel = self._address.channel(topic)
        if channel not in self._wanted:
            self._wanted[channel] = topic
            self._change(channel)
        return self._until_settled(channel)

    def leave(self, topic: str) -> Coroutine[Any, Any, None]:
        """Unsubscribe from `topic` now. What is returned waits until Redis has answered."""
        channel = self._address.channel(topic)
        del self._wanted[channel]
        self._gaps.forget(topic)
        self._change(channel)
        return self._until_settled(channel)

    @property
    def is_needed(self) -> bool:
        """True while something is subscribed to."""
        return bool(self._wanted)

    async def close(self) -> None:
        """End the connections, also those of the publisher."""
        await cancelled(self._task)
        self._outage.leave()

    def _change(self, channel: bytes) -> None:
        self._changed.add(channel)
        self._has_changed.set()
        if channel not in self._waiting:
            self._waiting[channel] = new_future()

    async def _until_settled(self, channel: bytes) -> None:
        future = self._waiting.get(channel)
        if future is not None and not self._outage.is_away:
            await asyncio.wait([future], timeout=TIMEOUT)

    # The connection

    async def _run(self) -> None:
        try:
            await self._stay_connected()
        finally:  # Also when the event loop ends, and with it all that runs.
            try:
                await close(self._pool)
            finally:
                await self._publisher.close()

    async def _stay_connected(self) -> None:
        while True:
            was_away = self._outage.is_away
            try:
                await self._use_a_connection()
            except BrokerError as error:
                self._lose(error)
            except Exception as error:
                self._lose(unavailable(error))
            if was_away:  # What is lost for the first time may be back at once.
                await asyncio.sleep(_RETRY_EVERY)

    async def _use_a_connection(self) -> None:
        connection = await within(self._pool.get_connection())
        self._ready = new_future()
        tasks = [
            asyncio.create_task(each, name="listener")
            for each in (self._tell(connection), self._read(connection), self._tend())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        finally:
            await to_the_end(self._give_up(connection, tasks))

    async def _give_up(self, connection: Connection, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=TIMEOUT)
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # One is enough for the log.
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)

    def _lose(self, error: Exception) -> None:
        if self._outage.is_away:
            # What was lost until Redis was away for the second time may be much, for everybody. A
            # single connection that Redis has ended is no outage for those who publish.
            self._gaps.forget_all()
        self._outage.lose(error)
        for channel in tuple(self._waiting):
            self._release(channel)

    async def _tell(self, connection: Connection) -> None:
        """Tell Redis what is subscribed to, and then each change."""
        self._asked, self._unanswered = set(), Counter()
        self._changed = {*self._wanted, *self._waiting}
        await self._tell_changes(connection)
        # The last one: when Redis has answered it, all those before it hold.
        await connection.send_command(self.words.subscribe, self._probe)
        while True:
            await self._has_changed.wait()
            await self._tell_changes(connection)

    async def _tell_changes(self, connection: Connection) -> None:
        self._has_changed.clear()
        changed, self._changed = self._changed, set()
        more = [each for each in changed if each in self._wanted and each not in self._asked]
        less = [each for each in changed if each not in self._wanted and each in self._asked]
        for command, channels in ((self.words.subscribe, more), (self.words.unsubscribe, less)):
            for at in range(0, len(channels), _CHUNK):
                chunk = channels[at : at + _CHUNK]
                self._asked.symmetric_difference_update(chunk)
                self._unanswered.update(chunk)
                await self._send(connection, command, chunk)
        for channel in changed:
            self._settle(channel)

    async def _send(self, connection: Connection, command: bytes, channels: list[bytes]) -> None:
        await connection.send_command(command, *channels)

    def _answered(self, kind: bytes, channel: bytes) -> None:
        if channel == self._probe:
            self._ready.set_result(None)
            return
        if kind == b"unsubscribe" and channel in self._wanted:
            # Messages that came before this answer are numbered, and those until the next are not
            # for us.
            self._gaps.forget(self._wanted[channel])
        self._unanswered[channel] -= 1
        if not self._unanswered[channel]:
            del self._unanswered[channel]
            self._settle(channel)

    def _settle(self, channel: bytes) -> None:
        """Release those who wait for a channel, if Redis has what it ought to have."""
        is_told = (channel in self._wanted) == (channel in self._asked)
        if is_told and channel not in self._unanswered:
            self._release(channel)

    def _release(self, channel: bytes) -> None:
        future = self._waiting.pop(channel, None)
        if future is not None:
            future.set_result(None)

    # Messages from Redis

    async def _read(self, connection: Connection) -> None:
        now, message = asyncio.get_running_loop().time, self.words.message
        since = now()
        while True:
            answer = await connection.read_response()
            kind, channel = answer[0], answer[1]
            if kind == message:
                await self._take(channel, answer[2])
                if now() - since > _SLICE:
                    await asyncio.sleep(0)
                    since = now()
            else:
                self._answered(kind, channel)

    async def _take(self, channel: bytes, data: bytes) -> None:
        if channel == self._probe:
            if not self._came_round.done():
                self._came_round.set_result(None)
            return
        self._has_taken = True
        topic = self._wanted.get(channel)
        if topic is None:
            return
        received = read(data)
        if received is None:
            await self._strangers.skip("bytes that are no broadcast")
            return
        self._strangers.over()
        if isinstance(received, Kept):
            is_filling = self._receiver.deliver_kept(
                topic, received.message, received.position, received.previous
            )
            if is_filling:
                await asyncio.sleep(MOMENT)
            return
        lost = self._gaps.lost_before(topic, received.publisher, received.number, received.base)
        if lost:
            if lost == LATE:
                return
            self._receiver.miss(topic, lost, _CAUSE)
        if self._receiver.deliver(topic, received.message):
            await asyncio.sleep(MOMENT)

    # The probe, and outages

    async def _tend(self) -> None:
        if not await comes(self._ready, TIMEOUT):
            raise BrokerUnavailable(f"no answer within {TIMEOUT:g} s")
        while True:
            await self._send_round()
            was_away = self._outage.is_away
            if was_away:
                await self._settle_late_ones()
            self._outage.find()
            if was_away:
                self._receiver.catch_up()
            await asyncio.sleep(_PROBE_EVERY)

    async def _send_round(self) -> None:
        self._came_round = new_future()
        await self._publisher.probe(self._probe)
        quiet = 0
        while quiet < _QUIET_TURNS:
            self._has_taken = False
            if await comes(self._came_round, _TURN):
                return
            # Many messages may be in front of the probe. And a process that stood still (SIGSTOP)
            # finds its time run out and its messages unread.
            quiet = 0 if self._has_taken else quiet + 1
        raise BrokerUnavailable("messages do not come back from it")

    async def _settle_late_ones(self) -> None:
        """Wait until Redis has what was subscribed to in the last moment of an outage."""
        if self._waiting:
            await asyncio.wait(self._waiting.values(), timeout=TIMEOUT)


_Future: TypeAlias = "asyncio.Future[None]"


def new_future() -> _Future:
    """Return a future of the running event loop."""
    return asyncio.get_running_loop().create_future()
