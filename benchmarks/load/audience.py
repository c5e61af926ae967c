"""Subscribers, and one connection more that has messages published to all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter_ns

from picows import WSFrame, WSMsgType, WSTransport

from benchmarks.handshake import PUBLISH
from benchmarks.load.connections import Connection, connect, goodbye, wait, wait_for_all


class Message:
    """One that not everybody has."""

    __slots__ = ("left", "sent_at", "text")

    def __init__(self, text: bytes, left: int) -> None:
        self.text = text
        self.left = left
        """How many do not have it yet."""
        self.sent_at = perf_counter_ns()


class Audience:
    """Sends numbered messages of `size` bytes to be published, and watches whether each subscriber
    gets each of them, once and in order. `failed` learns when one does not."""

    def __init__(self, size: int, failed: asyncio.Future[None]) -> None:
        self.failed = failed
        self.on_their_way: dict[int, Message] = {}
        self.times: list[int] = []
        """Nanoseconds that each message took to the last subscriber, from when it was sent to be
        published."""
        self._size = size
        self._count = 0
        self._at_once = 0
        self._stopped: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None

    async def connect(
        self,
        ports: Sequence[int],
        count: int,
        new: Callable[[Audience], Subscriber] | None = None,
    ) -> None:
        """Open `count` subscribers, made by `new`, as many on each port, and what publishes on the
        first one."""
        new = new or Subscriber
        self._subscribers = [
            subscriber
            for number, port in enumerate(ports)
            for subscriber in await connect(
                port, lambda _: new(self), len(range(number, count, len(ports))), 0
            )
        ]
        # When all have subscribed.
        (self._publisher,) = await connect(
            ports[0], lambda _: _Publisher(b"", self.failed), 1, 0, PUBLISH
        )

    @property
    def deliveries(self) -> int:
        """Until now."""
        count = len(self._subscribers)
        everywhere = self._count - len(self.on_their_way)
        return everywhere * count + sum(
            count - message.left for message in self.on_their_way.values()
        )

    def publish(self) -> None:
        """One message more, whoever has the others."""
        text = b"%08d " % self._count
        message = Message(text.ljust(self._size, b"."), len(self._subscribers))
        self.on_their_way[self._count] = message
        self._count += 1
        self._publisher.publish(message.text)

    def keep_publishing(self, at_once: int) -> None:
        """From now on, the next message whenever less than `at_once` are not everywhere."""
        self._at_once = at_once
        while len(self.on_their_way) < at_once:
            self.publish()

    async def next_everywhere(self) -> None:
        """Wait until a message has come to the last subscriber."""
        self._next = asyncio.get_running_loop().create_future()
        await wait_for_all([self._next], self.failed)

    def stop(self) -> asyncio.Future[None]:
        """Publish nothing more; done when everybody has everything."""
        self._at_once = 0
        self._stopped = asyncio.get_running_loop().create_future()
        if not self.on_their_way:
            self._stopped.set_result(None)
        return self._stopped

    def is_everywhere(self, number: int) -> None:
        self.times.append(perf_counter_ns() - self.on_their_way.pop(number).sent_at)
        if self._next is not None:
            self._next.set_result(None)
            self._next = None
        if len(self.on_their_way) < self._at_once:
            self.publish()
        elif not self.on_their_way and self._stopped is not None:
            self._stopped.set_result(None)
            self._stopped = None

    async def leave(self) -> None:
        """Say goodbye. Raises `LoadFailed` when something else comes first."""
        await goodbye([*self._subscribers, self._publisher])
        await wait(self.failed, 0)


class Subscriber(Connection):
    def __init__(self, audience: Audience) -> None:
        super().__init__(b"", audience.failed)
        self._audience = audience
        self._on_their_way = audience.on_their_way
        self._next = 0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        # This is the path of each delivery.
        message = self._on_their_way.get(self._next)
        if (
            message is None
            or frame.get_payload_as_bytes() != message.text
            or frame.msg_type is not WSMsgType.TEXT
        ):
            self._not_the_next(transport, frame)
            return
        message.left -= 1
        self.received(message)
        if not message.left:
            self._audience.is_everywhere(self._next)
        self._next += 1

    def received(self, message: Message) -> None:
        """It has come; for subclasses."""

    def _not_the_next(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            # What it says is in the super class.
            super().on_ws_frame(transport, frame)
        else:
            self.fail(
                f"A subscriber got {frame.get_payload_as_bytes()[:20]!r} when message {self._next}"
                " was to come: one was lost, came twice, or is another."
            )


class _Publisher(Connection):
    """Gets nothing: every text is published, the next one when that is done."""

    def publish(self, text: bytes) -> None:
        self.transport.send(WSMsgType.TEXT, text)

    def echoed(self) -> None:
        self.fail("What publishes got a message.")
