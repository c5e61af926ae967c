"""One message to every subscriber, and the next when they have it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from picows import WSFrame, WSMsgType, WSTransport

from benchmarks.load.connections import Connection, connect, goodbye, wait, wait_until
from benchmarks.load.dialects import DIALECTS, Dialect
from benchmarks.usage import Meter


async def fanout(
    port: int,
    processes: list[int],
    *,
    other_ports: Sequence[int] = (),
    subscribers: int,
    message_size: int,
    at_once: int,
    warm_up: float,
    seconds: float,
    least: int,
    dialect: str = "text",
) -> dict[str, float]:
    """Measure deliveries for `seconds`, after `warm_up` seconds of the same, with `at_once`
    messages that not everybody has.

    Some deliver in bursts: it is measured from the end of one message to that of another, and for
    so long that there are `least` of them.

    At no time more is on its way than any of them has room for: nothing may be lost. Raises
    `Failed` when a subscriber does not get every message, once and in order.
    """
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    audience = Audience(message_size, failed, DIALECTS[dialect])
    await audience.connect([port, *other_ports], subscribers)
    audience.keep_publishing(at_once)
    await wait(failed, warm_up)
    await audience.next_everywhere()
    meter, count = Meter(processes), audience.deliveries
    messages = audience.everywhere + least
    await wait(failed, seconds)
    await audience.next_everywhere()
    while audience.everywhere < messages:
        await audience.next_everywhere()
    figures = meter.figures(audience.deliveries - count)
    await audience.leave()
    return figures


@dataclass(slots=True)
class _Message:
    """One that not everybody has."""

    delivery: bytes
    left: int
    """How many do not have it yet."""


class Audience:
    """Subscribers, and one connection more that has numbered messages of `size` bytes published.

    `failed` learns when a subscriber does not get each of them, once and in order.
    """

    def __init__(self, size: int, failed: asyncio.Future[None], dialect: Dialect) -> None:
        self.failed = failed
        self._dialect = dialect
        self.on_their_way: dict[int, _Message] = {}
        self.everywhere = 0
        """The number of messages that every subscriber has."""
        self._size = size
        self._count = 0
        self._at_once = 0
        self._is_everywhere = asyncio.Event()

    async def connect(self, ports: Sequence[int], count: int) -> None:
        """Open `count` subscribers, as many on each port, and what publishes on the first one."""
        self._subscribers = [
            subscriber
            for number, port in enumerate(ports)
            for subscriber in await connect(
                port,
                lambda _: _Subscriber(self),
                len(range(number, count, len(ports))),
                0,
                self._dialect.subscribers,
                self._dialect,
            )
        ]
        # When all have subscribed.
        [self._publisher] = await connect(
            ports[0], lambda _: Connection(b"", self.failed), 1, 0, self._dialect.publisher
        )

    @property
    def deliveries(self) -> int:
        """Until now."""
        left = sum(message.left for message in self.on_their_way.values())
        return self._count * len(self._subscribers) - left

    def keep_publishing(self, at_once: int) -> None:
        """From now on, publish the next message whenever less than `at_once` are not everywhere."""
        self._at_once = at_once
        while len(self.on_their_way) < at_once:
            text = f"{self._count:08d} ".ljust(self._size, ".")
            delivery = self._dialect.delivery(text)
            self.on_their_way[self._count] = _Message(delivery, len(self._subscribers))
            self._count += 1
            self._publisher.transport.send(WSMsgType.TEXT, self._dialect.published(text))

    async def next_everywhere(self) -> None:
        """Wait until a message has come to the last subscriber."""
        self._is_everywhere.clear()
        await wait_until(self._is_everywhere.wait(), self.failed)

    async def leave(self) -> None:
        """Publish nothing more, wait until everybody has everything, and say goodbye.

        Raises `Failed` when something else comes first.
        """
        self._at_once = 0
        while self.on_their_way:
            await self.next_everywhere()
        await goodbye([*self._subscribers, self._publisher])
        await wait(self.failed, 0)

    def is_everywhere(self, number: int) -> None:
        """Take note that the last subscriber has this message."""
        del self.on_their_way[number]
        self.everywhere += 1
        self._is_everywhere.set()
        self.keep_publishing(self._at_once)


class _Subscriber(Connection):
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
            or frame.get_payload_as_bytes() != message.delivery
            or frame.msg_type is not WSMsgType.TEXT
        ):
            # It is a close, or one was lost, came twice, or is another.
            super().on_ws_frame(transport, frame)
            return
        message.left -= 1
        if not message.left:
            self._audience.is_everywhere(self._next)
        self._next += 1
