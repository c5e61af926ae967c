"""The broker on a channel layer: receives what other processes publish, and survives outages."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import uuid
from collections.abc import Awaitable
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

from ws_support._topics.gaps import Gaps
from ws_support._topics.outages import Strangers, is_away, is_malformed

logger = logging.getLogger("ws_support.broadcast")

Result = TypeVar("Result")

TIMEOUT: Final = 5.0
"""Seconds that one call of the channel layer may take: Redis may accept it and never answer."""

_PROBE_EVERY: Final = 3.0
"""Seconds between two probes: messages that this process sends to itself through the layer."""

_RETRY_EVERY: Final = 1.0
"""Seconds between two probes during an outage."""

_CANCEL_EVERY: Final = 1.0
"""Seconds between two cancellations of a task that has to end."""

_RENEW_EVERY: Final = 300.0
"""The most seconds between two renewals of all memberships."""

MOMENT: Final = 0.001
"""Seconds between two messages while queues fill up. A stalled client delays the others by 32 of
these, and only once: then its queue is full."""

_REMEMBERED: Final = 256
"""Message identifiers that are remembered, since Redis may deliver a message twice."""

PUBLISHED: Final = "ws_support.published"
_TAKEN: Final = "ws_support.taken"
_PROBE: Final = "ws_support.probe"


class LayerError(Exception):
    """A call of the channel layer has failed."""


class LayerOutage(LayerError):
    """The channel layer cannot be used at present."""


class Receiver(Protocol):
    """The receiver of the messages that a broker gets."""

    def deliver(self, topic: str, message: Any) -> bool:
        """Take a `websocket.send`. Return True if the next one should wait for a moment."""

    def miss(self, topic: str, count: int) -> None:
        """Note that `count` messages under `topic` were lost."""


class ChannelLayerBroker:
    """Receives messages on one channel of `layer`, which is in one group for each topic.

    `_memberships` holds what the layer ought to know. The layer is told with each `join()` and
    `leave()`, again after an outage (a Redis that restarts has forgotten everything), and every few
    minutes, since memberships expire. A probe, a message from this process to itself, shows if the
    layer works: redis-py may reconnect without any report.

    When more messages wait than the layer keeps, the layer takes messages and loses them. The gaps
    in their numbers show that. Messages that are lost during an outage are not counted: the log
    tells of the outage.

    A broker exists while there are topics with subscribers. Publishing does not need one.
    """

    def __init__(self, layer: Any, receiver: Receiver) -> None:
        self._layer = layer
        self._receiver = receiver
        self._gaps = Gaps()
        self._memberships: dict[str, _Membership] = {}
        self._probe = _Membership(f"ws_support-probe.{uuid.uuid4().hex}")
        self._probe.is_wanted = True
        self._channel: str | None = None
        self._channel_lock = asyncio.Lock()
        self._is_lost = False
        self._look = asyncio.Event()
        self._came_round = asyncio.Event()
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

    async def leave(self, topic: str) -> None:
        """Leave the group of `topic`."""
        membership = self._memberships[topic]
        membership.is_wanted = False
        await self._try_to_settle(membership)
        if not membership.is_wanted and self._memberships.get(topic) is membership:
            del self._memberships[topic]
            self._gaps.forget(topic)

    async def close(self) -> None:
        """Leave all groups, and end the tasks of the broker."""
        await cancelled(self._tender)
        for membership in (self._probe, *self._memberships.values()):
            membership.is_wanted = False
            await self._try_to_settle(membership)
        await cancelled(self._reader)

    async def _try_to_settle(self, membership: _Membership) -> None:
        if not self._is_lost:
            try:
                await self._settle(membership)
            except LayerError as error:
                self._lose(error)

    async def _settle(self, membership: _Membership, *, again: bool = False) -> None:
        """Tell the layer about `membership`, if the layer does not know, or `again`."""
        async with membership.lock:
            await self._tell(membership, again=again)

    async def _tell(self, membership: _Membership, *, again: bool) -> None:
        wanted = await self._get_channel() if membership.is_wanted else None
        known = membership.channel
        if known not in (None, wanted):
            await within(self._layer.group_discard(membership.group, known))
            known = membership.channel = None
        if wanted is not None and (known is None or again):
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
        if message["type"] == _PROBE:
            self._came_round.set()
            return
        if message["id"] in self._remembered:
            return
        self._remembered[message["id"]] = None
        if len(self._remembered) > _REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        topic = message["topic"]
        if not self._is_lost and topic in self._memberships and "number" in message:
            lost = self._gaps.lost_before(topic, message["publisher"], message["number"])
            if lost:
                self._receiver.miss(topic, lost)
        form = "text" if "text" in message else "bytes"
        if self._receiver.deliver(topic, {"type": "websocket.send", form: message[form]}):
            await asyncio.sleep(MOMENT)
        if "reply_to" in message:
            await self._reply(message["reply_to"])

    async def _reply(self, channel: str) -> None:
        try:
            await within(self._layer.send(channel, {"type": _TAKEN}))
        except LayerError as error:
            logger.debug("Nobody waits for an answer any more: %s", error)

    # The probe, renewals and outages.

    async def _tend(self) -> None:
        expiry = getattr(self._layer, "group_expiry", None) or _RENEW_EVERY
        renew_every = min(expiry / 3, _RENEW_EVERY)
        renewed_at = monotonic()
        while True:
            with suppress(asyncio.TimeoutError):
                every = _RETRY_EVERY if self._is_lost else min(_PROBE_EVERY, renew_every)
                await asyncio.wait_for(self._look.wait(), every)
            self._look.clear()
            try:
                if self._is_lost or monotonic() - renewed_at > renew_every:
                    for membership in (self._probe, *self._memberships.values()):
                        await self._settle(membership, again=True)
                    renewed_at = monotonic()
                await self._send_round()
            except LayerError as error:
                self._lose(error)
            else:
                self._find()

    async def _send_round(self) -> None:
        await self._settle(self._probe)
        self._came_round.clear()
        await send_to_group(self._layer, self._probe.group, {"type": _PROBE})
        try:
            await within(self._came_round.wait())
        except LayerError:
            # The layer takes messages and delivers none: it has forgotten the memberships, or a
            # connection hangs.
            await cancelled(self._reader)
            self._channel = None
            self._reader = asyncio.create_task(self._read())
            raise LayerError("messages do not come back from it") from None

    def _lose(self, error: Exception) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._gaps.forget_all()
            self._look.set()
            logger.error(
                "The channel layer is away: %s. What is broadcast is lost until it comes back;"
                " connections stay open.",
                str(error).rstrip("."),
            )

    def _find(self) -> None:
        if self._is_lost:
            self._is_lost = False
            logger.warning(
                "The channel layer is back, with all that was subscribed to here (topics: %d).",
                len(self._memberships),
            )


def _is_ours(message: Any) -> bool:
    """Return True if `message` is a probe, or a broadcast with all its fields."""
    kind = message.get("type") if isinstance(message, dict) else None
    if kind != PUBLISHED:
        return bool(kind == _PROBE)
    return (
        isinstance(message.get("id"), str)
        and isinstance(message.get("topic"), str)
        and (
            isinstance(message.get("text"), str)
            if "text" in message
            else isinstance(message.get("bytes"), bytes)
        )
        and isinstance(message.get("reply_to", ""), str)
        and isinstance(message.get("publisher", ""), str)
        and isinstance(message.get("number", 0), int)
        and ("number" in message) == ("publisher" in message)
    )


class _Membership:
    """The membership in one group: if it is wanted, and the channel that the layer has for it."""

    __slots__ = ("channel", "group", "is_wanted", "lock")

    def __init__(self, group: str) -> None:
        self.group = group
        self.is_wanted = False
        self.channel: str | None = None
        self.lock = asyncio.Lock()


# Calls of the layer.


async def send_to_group(layer: Any, group: str, message: dict[str, Any]) -> None:
    """Send `message` to `group`. Raises `LayerError`."""
    await within(layer.group_send(group, message))


def group_of(topic: str) -> str:
    """Return the name of the group for `topic`.

    Layers accept names of letters, digits and three signs, up to 99 characters. For a topic that
    does not fit, the name holds its digest.
    """
    if _PLAIN.fullmatch(topic):
        return f"ws_support.{topic}"
    digest = hashlib.sha256(topic.encode("utf-8", "surrogatepass")).hexdigest()
    return f"ws_support-sha256.{digest}"


async def within(awaitable: Awaitable[Result]) -> Result:
    """Wait for a call of the layer, and return its result.

    Raises `LayerOutage` when the error reports an outage or the call takes longer than `TIMEOUT`,
    and `LayerError` for any other error.
    """
    try:
        return await asyncio.wait_for(awaitable, TIMEOUT)
    except asyncio.TimeoutError:
        raise LayerOutage(f"no answer within {TIMEOUT:g} s") from None
    except Exception as error:
        kind = LayerOutage if is_away(error) else LayerError
        raise kind(f"{type(error).__name__}: {error}".rstrip(".")) from error


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel `task`, and wait until it has ended, for at most `TIMEOUT`: Redis may not answer.

    The task is cancelled more than once: `asyncio.wait_for()` of Python 3.11 and older loses a
    cancellation that comes together with the result of what it waits for.
    """
    end = monotonic() + TIMEOUT
    while not task.done() and monotonic() < end:
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_EVERY)


_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
