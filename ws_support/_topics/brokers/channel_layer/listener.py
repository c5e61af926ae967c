"""The listener: receives what is published through a channel layer, and survives outages."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from ws_support._asyncio import cancelled, in_this_loop
from ws_support._topics.brokers.base import MOMENT, BrokerError, Receiver
from ws_support._topics.brokers.channel_layer.calls import (
    PROBE,
    PUBLISHED,
    TAKEN,
    group_of,
    send_to_group,
    within,
)
from ws_support._topics.gaps import Gaps
from ws_support._topics.messages import EXCLUDE, JSONText
from ws_support._topics.outages import Outages, Strangers, is_malformed

logger = logging.getLogger("ws_support.broadcast")

_PROBE_EVERY: Final = 3.0
"""Seconds between two probes: messages that this process sends to itself through the layer."""

_RETRY_EVERY: Final = 1.0
"""Seconds between two probes during an outage."""

_RENEW_EVERY: Final = 300.0
"""The most seconds between two renewals of all memberships."""

_TURN: Final = 2.5
"""Seconds in which the probe or another message has to come."""

_QUIET_TURNS: Final = 2
"""Turns in a row without a message after which the layer is taken to deliver none."""

_SENDS: Final = 5
"""How often the probe is sent in a turn during an outage."""

_MOST_TURNS: Final = 12
"""Turns after which the probe is taken to be lost. Other messages may still come: with several
Redis, one may have forgotten the probe."""

_REMEMBERED: Final = 256
"""Message identifiers that are remembered, since Redis may deliver a message twice."""


class Listener:
    """Receives messages on one channel of `layer`, which is in one group for each topic.

    `_memberships` holds what the layer ought to know. The layer is told with each `join()` and
    `leave()`, again after an outage (a Redis that restarts has forgotten everything), and every few
    minutes, since memberships expire. A probe, a message from this process to itself, shows if the
    layer works: redis-py may reconnect without any report.

    When more messages wait than the layer keeps, the layer takes messages and loses them. The gaps
    in their numbers show that. Messages that are lost during an outage are not counted: the log
    tells of the outage.

    A listener exists while topics are subscribed to. Publishing does not need one.
    """

    def __init__(self, layer: Any, receiver: Receiver, outages: Outages) -> None:
        self._layer = layer
        self._receiver = receiver
        self._gaps = Gaps()
        self._memberships: dict[str, _Membership] = {}
        self._probe = _Membership(f"ws_support-probe.{uuid.uuid4().hex}")
        self._probe.is_wanted = True
        self._channel: str | None = None
        self._channel_lock = asyncio.Lock()
        # A listener on channels_redis.pubsub, which alone has this method, may hear nothing of an
        # outage: the layer connects again by itself, and meanwhile reports nothing.
        hears_nothing = hasattr(type(layer), "_get_layer")
        self._outage = outages.detector(
            in_this_loop(self._lose_unless_closed) if hears_nothing else None
        )
        self._look = asyncio.Event()
        self._came_round = asyncio.Event()
        # True if a message has come since the turn began.
        self._has_taken = False
        self._remembered: dict[str, None] = {}
        self._reader = asyncio.create_task(self._read())
        self._tender = asyncio.create_task(self._tend())

    async def join(self, topic: str) -> None:
        """Join the group of `topic`.

        Returns when messages under the topic arrive here. During an outage of the layer, returns at
        once; the messages arrive once the layer is back.
        """
        membership = self._memberships.get(topic)
        if membership is None:
            membership = self._memberships[topic] = _Membership(group_of(topic))
        membership.is_wanted = True
        # The probe joins first: when Redis forgets any membership of this process, it has to forget
        # that of the probe as well, or nobody notices.
        await self._try_to_settle(self._probe)
        await self._try_to_settle(membership)

    def leave(self, topic: str) -> Coroutine[Any, Any, None]:
        """Leave the group of `topic`, unless it is joined again before what is returned has run."""
        # Now, and not with the first step: a join may come between.
        membership = self._memberships[topic]
        membership.is_wanted = False
        return self._leave(topic, membership)

    async def _leave(self, topic: str, membership: _Membership) -> None:
        await self._try_to_settle(membership)
        self._forget(topic, membership)

    async def close(self) -> None:
        """Leave all groups, and end the tasks of the listener."""
        memberships = self._all()
        # What comes from now on is dropped: the topics may be subscribed to already with another
        # listener, which gets the same messages.
        self._memberships = {}
        await cancelled(self._tender)
        for membership in memberships:
            membership.is_wanted = False
            await self._try_to_settle(membership)
        await cancelled(self._reader)
        self._outage.forget()

    async def _try_to_settle(self, membership: _Membership) -> None:
        if not self._outage.is_away:
            try:
                await self._settle(membership)
            except BrokerError as error:
                self._lose(error)

    def _forget(self, topic: str, membership: _Membership) -> None:
        """Forget `membership` if it has ended. In an outage, the layer may still have it."""
        has_ended = not membership.is_wanted and membership.asked is None
        if has_ended and self._memberships.get(topic) is membership:
            del self._memberships[topic]
            self._gaps.forget(topic)

    async def _settle(self, membership: _Membership, *, again: bool = False) -> None:
        """Tell the layer about `membership`, if the layer does not know, or `again`."""
        async with membership.lock:
            await self._tell(membership, again=again)

    async def _tell(self, membership: _Membership, *, again: bool) -> None:
        wanted = await self._get_channel() if membership.is_wanted else None
        asked = membership.asked
        if asked not in (None, wanted):
            await within(self._layer.group_discard(membership.group, asked))
            membership.asked = membership.channel = None
        if wanted is not None and (membership.channel is None or again):
            membership.asked = wanted
            await within(self._layer.group_add(membership.group, wanted))
            membership.channel = wanted

    async def _get_channel(self) -> str:
        async with self._channel_lock:
            if self._channel is not None:
                return self._channel
            channel: str = await within(self._layer.new_channel())
            self._channel = channel
            return channel

    # Messages from the layer.

    async def _read(self) -> None:
        while True:
            try:
                await self._read_until_error()
            except Exception as error:  # noqa: PERF203  # Not once a message.
                self._lose(error)
                await asyncio.sleep(_RETRY_EVERY)

    async def _read_until_error(self) -> None:
        channel = await self._get_channel()
        strangers = Strangers()
        while True:
            try:
                message = await self._layer.receive(channel)
            except Exception as error:
                if not is_malformed(error):
                    raise
                await strangers.skip(f"{type(error).__name__}: {error}")
                continue
            if _is_ours(message):
                strangers.over()
                await self._take(message)
            else:
                await strangers.skip(f"{type(message).__name__} that is no broadcast")

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == PROBE:
            self._came_round.set()
            return
        self._has_taken = True
        if message["id"] in self._remembered:
            return
        self._remembered[message["id"]] = None
        if len(self._remembered) > _REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        topic = message["topic"]
        if topic not in self._memberships:
            return
        if not self._outage.is_away and "number" in message:
            lost = self._gaps.lost_before(topic, message["publisher"], message["number"])
            if lost:
                self._receiver.miss(topic, lost, self._cause_of_loss())
        if self._receiver.deliver(topic, _content(message)):
            await asyncio.sleep(MOMENT)
        if "reply_to" in message:
            await self._reply(message["reply_to"])

    def _cause_of_loss(self) -> str:
        return (
            "More were waiting for this process than the channel layer keeps, its capacity of"
            f" {getattr(self._layer, 'capacity', 'Redis')}, or for longer than its expiry."
        )

    async def _reply(self, channel: str) -> None:
        try:
            await within(self._layer.send(channel, {"type": TAKEN}))
        except BrokerError as error:
            logger.debug("Nobody waits for an answer any more: %s", error)

    # The probe, renewals and outages.

    async def _tend(self) -> None:
        expiry = getattr(self._layer, "group_expiry", None) or _RENEW_EVERY
        renew_every = min(expiry / 3, _RENEW_EVERY)
        renewed_at = monotonic()
        while True:
            with suppress(asyncio.TimeoutError):
                every = _RETRY_EVERY if self._outage.is_away else min(_PROBE_EVERY, renew_every)
                await asyncio.wait_for(self._look.wait(), every)
            self._look.clear()
            was_away = self._outage.is_away
            try:
                if was_away or monotonic() - renewed_at > renew_every:
                    await self._renew()
                    renewed_at = monotonic()
                await self._send_round()
                await self._settle_late_ones()
            except BrokerError as error:
                self._lose(error)
            else:
                if was_away:  # An outage that began in this round is not over.
                    self._outage.find()

    async def _renew(self) -> None:
        await self._settle(self._probe, again=True)
        for topic, membership in tuple(self._memberships.items()):
            await self._settle(membership, again=True)
            self._forget(topic, membership)

    async def _settle_late_ones(self) -> None:
        """Tell the layer about topics that were subscribed to in the last round of an outage."""
        while self._outage.is_away and (late := [each for each in self._all() if each.is_late]):
            for membership in late:
                await self._settle(membership)

    async def _send_round(self) -> None:
        await self._settle(self._probe)
        self._came_round.clear()
        await self._send_probe()
        if not await self._comes_round():
            # The layer takes messages and delivers none: it has forgotten the memberships, or a
            # connection hangs.
            await cancelled(self._reader)
            self._channel = None
            self._reader = asyncio.create_task(self._read())
            raise BrokerError("messages do not come back from it")

    async def _send_probe(self) -> None:
        await send_to_group(self._layer, self._probe.group, {"type": PROBE})

    async def _comes_round(self) -> bool:
        """Wait for the probe, and return False if it is lost.

        Many messages may be in front of the probe. And a process that stood still (SIGSTOP, a
        virtual machine that was suspended) finds its time run out and its messages unread.
        """
        quiet = 0
        for _ in range(_MOST_TURNS):
            self._has_taken = False
            if await self._comes_in_a_turn():
                return True
            quiet = 0 if self._has_taken else quiet + 1
            if quiet == _QUIET_TURNS:
                break
        return False

    async def _comes_in_a_turn(self) -> bool:
        """Wait for the probe during one turn. In an outage, send it again and again meanwhile.

        When an outage ends, the connection that publishes may be back before the one that listens.
        """
        sends = _SENDS if self._outage.is_away else 1
        for left in reversed(range(sends)):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._came_round.wait(), _TURN / sends)
                return True
            if left:
                await self._send_probe()
        return False

    def _all(self) -> tuple[_Membership, ...]:
        return (self._probe, *self._memberships.values())

    def _lose_unless_closed(self, error: Exception) -> None:
        """Take part in an outage that another user of the layer has noticed."""
        if not self._tender.done():
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        if not self._outage.is_away:
            self._gaps.forget_all()
            self._look.set()
        self._outage.lose(error)


def _content(message: dict[str, Any]) -> dict[str, Any]:
    """Return the `websocket.send` in a message of the layer."""
    content: dict[str, Any] = {"type": "websocket.send"}
    if "bytes" in message:
        content["bytes"] = message["bytes"]
    else:
        content["text"] = JSONText(message["text"]) if message.get("json") else message["text"]
    if EXCLUDE in message:
        content[EXCLUDE] = message[EXCLUDE]
    return content


def _is_ours(message: Any) -> bool:
    """Return True if `message` is a probe, or a broadcast with all its fields."""
    kind = message.get("type") if isinstance(message, dict) else None
    if kind != PUBLISHED:
        return bool(kind == PROBE)
    return (
        isinstance(message.get("id"), str)
        and isinstance(message.get("topic"), str)
        and (
            isinstance(message.get("text"), str)
            if "text" in message
            else isinstance(message.get("bytes"), bytes)
        )
        and isinstance(message.get("reply_to", ""), str)
        and isinstance(message.get(EXCLUDE, ""), str)
        and isinstance(message.get("publisher", ""), str)
        and isinstance(message.get("number", 0), int)
        and ("number" in message) == ("publisher" in message)
    )


class _Membership:
    """The membership in one group: if it is wanted, and the channel that the layer has for it.

    `asked` is the channel that the layer was asked to add. When the answer was not waited for, or
    did not come, the layer may have `asked` and `channel` is `None`.
    """

    __slots__ = ("asked", "channel", "group", "is_wanted", "lock")

    def __init__(self, group: str) -> None:
        self.group = group
        self.is_wanted = False
        self.asked: str | None = None
        self.channel: str | None = None
        self.lock = asyncio.Lock()

    @property
    def is_late(self) -> bool:
        """True if the membership is wanted and the layer does not know of it yet."""
        return self.is_wanted and self.channel is None
