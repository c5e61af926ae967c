"""The channel-layer groups of consumers: renewed, restored after an outage, and always left."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from ws_support._asyncio import Backoff, PerLoop, cancelled
from ws_support._topics.brokers.base import TIMEOUT, BrokerError, BrokerUnavailable
from ws_support._topics.brokers.channel_layer.calls import within
from ws_support._topics.outages import Outages, Strangers, is_away, is_idle, is_malformed

logger = logging.getLogger("ws_support.channel_layer")

_LOOK_EVERY: Final = 3.0
"""Seconds between two checks if Redis has lost its data. During an outage the interval is 1."""

_RENEW_EVERY: Final = 300.0
"""The most seconds between two renewals."""

_ROUND: Final = 0.1
"""Seconds that a message to ourselves may take, before it is sent again."""

_CALM: Final = 15.0
"""Seconds without an error after which a layer is back: longer than the longest `Backoff`."""

_LANES: Final = 16
"""The most calls of the layer at the same time: each takes a connection to Redis, whose pool has
100 by default, and many clients may come or go at once."""

_MAX_LEFT: Final = 10_000
"""The most memberships to end after an outage. Further ones expire by themselves."""

_OURS: Final = ".ws"
"""The end of the names of our channels. A channel of a consumer that has gone is known by it."""


class Groups:
    """The groups of our consumers in `layer`.

    A membership expires after the layer's `group_expiry`, and a Redis that restarts has forgotten
    it. Therefore `group_add()` and `group_discard()` of the layer are replaced by methods of this
    class, which remember the memberships of our consumers. During an outage they do not raise for
    these consumers: the change is made once the layer is back.
    """

    @classmethod
    def of(cls, layer: Any) -> Groups:
        """Return the groups of `layer`; the first call replaces its two methods."""
        groups: Groups | None = vars(layer).get("_ws_support_groups")
        if groups is None:
            groups = layer._ws_support_groups = cls(layer)
        return groups

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._add, self._discard = layer.group_add, layer.group_discard
        layer.group_add, layer.group_discard = self.add, self.discard
        self._live: set[str] = set()
        # For each channel its groups; the value is True if the layer knows of the membership.
        self._joined: dict[str, dict[str, bool]] = {}
        self._left: dict[tuple[str, str], None] = {}
        self._outage = Outages.of(layer).detector(self._take_part)
        self._failed_at = float("-inf")
        self._tender: asyncio.Task[None] | None = None
        self._strangers = Strangers()
        # Only channels_redis.core has this method. It keeps groups in Redis, queues in the process.
        self._is_core = hasattr(type(layer), "_group_key")
        if self._is_core:
            layer.receive_buffer = _Buffers(layer.receive_buffer, self._live)
        # Only channels_redis.pubsub has this method. Its connections subscribe to names.
        self._is_pubsub = hasattr(type(layer), "_get_layer")
        self._is_unsettled = False
        self._probe = f"ws_support-probe.{uuid.uuid4().hex}"
        self._lanes = PerLoop(partial(asyncio.Semaphore, _LANES))

    # Methods for consumers.

    async def new_channel(self) -> str:
        """Return the name of a new channel for a consumer."""
        if self._is_pubsub:
            channel = f"{self._layer.prefix}specific.{uuid.uuid4().hex}"
            self._live.add(channel)
            await self._open(channel)
            return channel
        channel = str(await self._layer.new_channel())
        if self._is_core:
            channel += _OURS
        self._live.add(channel)
        return channel

    async def _open(self, channel: str) -> None:
        # The same as new_channel() of channels_redis 4.3. When that cannot subscribe, it raises and
        # returns no name, but keeps the queue.
        self._layer.channels[channel] = asyncio.Queue()
        if not await self._tell(self._layer._get_shard(channel).subscribe, channel):
            self._is_unsettled = True
            self._start()

    async def _next(self, channel: str) -> Any:
        if not self._is_pubsub:
            return await self._layer.receive(channel)
        # When receive() of channels_redis 4.3 is cancelled, it unsubscribes for good, and during an
        # outage of Redis it logs a traceback for each channel.
        queue = self._layer.channels.setdefault(channel, asyncio.Queue())
        return self._layer.deserialize(await queue.get())

    async def receive(self, channel: str) -> Any:
        """Return the next message that can be read, if need be after an outage of the layer."""
        backoff: Backoff | None = None
        while True:
            began_at = time.monotonic()
            try:
                message = await self._next(channel)
            except Exception as error:
                if is_malformed(error):
                    await self._strangers.skip(f"{type(error).__name__}: {error}")
                elif not is_away(error):
                    raise
                elif not is_idle(error, time.monotonic() - began_at):
                    backoff = backoff or Backoff()
                    self._failed_at = time.monotonic()
                    self._lose(error)
                    self._start()
                    await asyncio.sleep(backoff.next())
            else:
                self._strangers.over()
                return message

    async def add(self, group: str, channel: str) -> None:
        """Add `channel` to `group`, in place of `group_add()` of the layer."""
        if channel not in self._live:
            await self._add(group, channel)
            return
        groups = self._joined.setdefault(channel, {})
        groups[group] = False
        self._left.pop((group, channel), None)
        try:
            groups[group] = await self._tell(self._add, group, channel)
        except Exception:
            self._forget(group, channel)
            raise
        self._start()

    async def discard(self, group: str, channel: str) -> None:
        """Remove `channel` from `group`, in place of `group_discard()` of the layer."""
        if channel not in self._live:
            await self._discard(group, channel)
            return
        self._forget(group, channel)
        try:
            is_told = await self._tell(self._discard, group, channel)
        except asyncio.CancelledError:
            self._leave_later(group, channel)
            raise
        if not is_told:
            self._leave_later(group, channel)

    async def _tell(self, method: Callable[..., Awaitable[None]], *arguments: str) -> bool:
        """Call a method of the layer, at most `_LANES` at a time. Return False in an outage."""
        async with self._lanes.get():
            if self._outage.is_away:
                return False
            try:
                await asyncio.wait_for(method(*arguments), TIMEOUT)
            except Exception as error:
                if not is_away(error):
                    raise
                self._lose(error)
                return False
            return True

    def _leave_later(self, group: str, channel: str) -> None:
        if len(self._left) < _MAX_LEFT:
            self._left[group, channel] = None
            self._start()

    async def leave(self, channel: str) -> None:
        """Leave all groups of a consumer that has ended, and drop the messages that wait for it."""
        try:
            for group in tuple(self._joined.get(channel, ())):
                try:
                    await self.discard(group, channel)
                except Exception:  # noqa: PERF203  # Its cost is small here.
                    self._is_unsettled = self._is_pubsub
                    self._leave_later(group, channel)
        finally:
            # Some groups remain here if the server has cancelled the consumer meanwhile.
            for group in self._joined.pop(channel, ()):
                self._leave_later(group, channel)
            self._live.discard(channel)
            self._drop_queue(channel)
        if self._is_pubsub:
            await self._close(channel)
        is_done = not self._is_at_work() and not self._outage.is_away
        if is_done and self._tender is not None:
            tender, self._tender = self._tender, None
            await cancelled(tender)
            await self._unmark()

    def _drop_queue(self, channel: str) -> None:
        if self._is_core:
            self._layer.receive_buffer.pop(channel, None)
        else:
            # The in-memory layer creates a queue even for a consumer that has gone.
            getattr(self._layer, "channels", {}).pop(channel, None)

    async def _close(self, channel: str) -> None:
        is_told = False
        # The consumer has ended, so no error is its own.
        with suppress(Exception):
            is_told = await self._tell(self._layer._get_shard(channel).unsubscribe, channel)
        if not is_told:
            self._is_unsettled = True
            self._start()

    def _forget(self, group: str, channel: str) -> None:
        groups = self._joined.get(channel, {})
        groups.pop(group, None)
        if not groups:
            self._joined.pop(channel, None)

    def _lose(self, error: Exception) -> None:
        self._outage.lose(error)
        self._is_unsettled = self._is_pubsub

    def _take_part(self, error: Exception) -> None:
        """Take part in an outage that another user of the layer has noticed.

        Our own calls may succeed in it: see `_send_round()`.
        """
        if self._is_pubsub and self._live:
            self._lose(error)
            self._start()

    # The task that repairs and renews memberships.

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._tender is None or self._tender.done() or self._tender.get_loop() is not loop:
            self._tender = loop.create_task(self._tend())

    async def _tend(self) -> None:
        expiry = getattr(self._layer, "group_expiry", None) or _RENEW_EVERY
        renew_every = min(expiry / 3, _RENEW_EVERY)
        renewed_at = time.monotonic()
        while self._is_at_work():
            was_away = self._outage.is_away
            try:
                await self._look()
                if time.monotonic() - renewed_at >= renew_every:
                    await self._renew()
                    renewed_at = time.monotonic()
            except Exception as error:
                self._lose(error)
            else:
                # Other layers have nothing to look at while nobody is in a group.
                is_calm = self._is_core or time.monotonic() - self._failed_at > _CALM
                if was_away and is_calm:  # An outage that began in this round is not over.
                    self._outage.find()
            await asyncio.sleep(1 if self._outage.is_away else min(_LOOK_EVERY, renew_every))
            if not self._joined and not self._left:
                await self._unmark()
        self._outage.forget()

    def _is_at_work(self) -> bool:
        """Return True if there is something to renew, to repair, or to wait for."""
        is_waiting = self._outage.is_away and self._live
        return bool(self._joined or self._left or self._is_unsettled or is_waiting)

    async def _look(self) -> None:
        for index, connection, key in self._marks():
            is_marked = await within(connection.zscore(key, "")) is not None
            if not is_marked:
                # Also the first time: Redis may have restarted since somebody has joined.
                self._has_forgotten(index)
            # During an outage always: a replica can be read from, and takes no messages.
            if not is_marked or self._outage.is_away:
                await self._mark(connection, key)
        for channel, groups in tuple(self._joined.items()):
            for group in [each for each, is_known in groups.items() if not is_known]:
                # The consumer may have left the group meanwhile.
                if await self._is_done(self._add, group, channel) and group in groups:
                    groups[group] = True
                else:
                    self._forget(group, channel)
        for group, channel in tuple(self._left):
            await self._is_done(self._discard, group, channel)
            self._left.pop((group, channel), None)
        if self._is_pubsub:
            for shard in self._layer._shards:
                if self._outage.is_away:
                    await self._send_round(shard)
                await within(self._settle(shard))
            self._is_unsettled = False

    async def _send_round(self, shard: Any) -> None:
        """Wait until a message comes back over `shard`, or raise `BrokerError`.

        That a call succeeds says little: redis-py 8 sends a subscription also over a connection
        whose password Redis is about to refuse, and channels_redis 4.3 connects once a second.
        """
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._layer.channels[self._probe] = queue
        try:
            await within(shard.subscribe(self._probe))
            await within(self._publish_until_heard(shard, queue))
        finally:
            # `_settle()` unsubscribes from a name without a queue.
            del self._layer.channels[self._probe]

    async def _publish_until_heard(self, shard: Any, queue: asyncio.Queue[bytes]) -> None:
        while True:
            await shard.publish(self._probe, b"")
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(queue.get(), _ROUND)
                return

    async def _settle(self, shard: Any) -> None:
        """Make the subscriptions of `shard` match the channels that are in use here.

        Channels that were created during an outage are subscribed to. Names that nobody uses are
        unsubscribed from: channels_redis 4.3 forgets a name when its unsubscription fails, and
        redis-py 8 subscribes to it again when the unsubscription has not arrived.
        """
        layer = self._layer
        async with shard._lock:
            known = shard._subscribed_to
            again = shard._pubsub.channels if shard._pubsub is not None else ()
            wanted = {name for name in self._live if layer._get_shard(name) is shard} - known
            unwanted = known.union(name.decode() for name in again)
            unwanted.difference_update(layer.channels, layer.groups)
            if wanted or unwanted:
                shard._ensure_redis()
                shard._ensure_receiver()
            for name in wanted:
                await shard._pubsub.subscribe(name)
                known.add(name)
            for name in unwanted:
                await shard._pubsub.unsubscribe(name)
                known.discard(name)

    @staticmethod
    async def _is_done(
        method: Callable[[str, str], Awaitable[None]], group: str, channel: str
    ) -> bool:
        """Call `method` of the layer. Return False if the layer refuses, and would refuse again."""
        try:
            await within(method(group, channel))
        except BrokerUnavailable:
            raise
        except BrokerError as error:
            logger.error("The layer refuses a change of the group %.100a: %s.", group, error)
            return False
        return True

    async def _renew(self) -> None:
        for _, connection, key in self._marks():
            await self._mark(connection, key)
        for channel, groups in tuple(self._joined.items()):
            for group in tuple(groups):
                if self._is_core:
                    await self._prolong(group, channel)
                else:
                    await self._is_done(self._add, group, channel)

    async def _prolong(self, group: str, channel: str) -> None:
        """Renew a membership, unless another process has ended it."""
        layer = self._layer
        connection = layer.connection(layer.consistent_hash(group))
        key = layer._group_key(group)
        await within(connection.zadd(key, {channel: time.time()}, xx=True))
        await within(connection.expire(key, layer.group_expiry))

    # A mark in each Redis: when it is missing, Redis has lost its data.

    def _marks(self) -> Iterator[tuple[int, Any, bytes]]:
        if self._is_core:
            key = self._layer._group_key(f"ws_support-mark.{self._layer.client_prefix}")
            for index in range(self._layer.ring_size):
                yield index, self._layer.connection(index), key

    async def _mark(self, connection: Any, key: bytes) -> None:
        await within(connection.zadd(key, {"": time.time()}))
        await within(connection.expire(key, self._layer.group_expiry))

    async def _unmark(self) -> None:
        with suppress(BrokerError):
            for _, connection, key in self._marks():
                await within(connection.delete(key))

    def _has_forgotten(self, index: int) -> None:
        for groups in self._joined.values():
            for group in groups:
                if self._layer.consistent_hash(group) == index:
                    groups[group] = False


class _Buffers(defaultdict[str, Any]):
    """The queues of channels. A message for a consumer of ours that has gone is dropped."""

    def __init__(self, buffers: defaultdict[str, Any], live: set[str]) -> None:
        super().__init__(buffers.default_factory, buffers)
        self._live = live

    def __missing__(self, channel: str) -> Any:
        if channel.endswith(_OURS) and channel not in self._live:
            return self.default_factory()  # type: ignore[misc]  # The layer has set one.
        return super().__missing__(channel)
