"""Sharded publish and subscribe: the listener and the publisher of one node of a cluster."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from redis.asyncio.connection import Connection
from redis.crc import key_slot
from redis.exceptions import ResponseError

from ws_support._asyncio import comes
from ws_support._topics.brokers.base import TIMEOUT, BrokerError, BrokerUnavailable, Receiver
from ws_support._topics.brokers.redis.cluster import Node, moved_to
from ws_support._topics.brokers.redis.envelope import Envelope
from ws_support._topics.brokers.redis.listener import Listener, Words, new_future
from ws_support._topics.brokers.redis.publisher import Publisher
from ws_support._topics.brokers.redis.scripts import Call, Script
from ws_support._topics.gaps import GapsInOrder


class ShardPublisher(Publisher):
    """Sends commands to one node. What it publishes reaches the subscribers of its shard.

    A replica hands what it gets to its whole shard, so nobody looks if the node has become one.
    """

    async def call(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Any:
        return await super().call(script.sharded, keys, arguments)

    def _words(
        self, words: Envelope | Call | tuple[bytes, ...], numbers: dict[str, int]
    ) -> tuple[bytes, ...]:
        first, *others = super()._words(words, numbers)
        return (b"SPUBLISH" if first == b"PUBLISH" else first, *others)

    def _is_check_due(self) -> bool:
        return False


class ShardListener(Listener):
    """Receives the messages of all topics of one node.

    A slot may leave the node. Redis then ends the subscriptions to its channels, and answers
    commands for them with "MOVED". Such channels are gone, until their topics are at another
    listener, or `again()` asks for them once more. `on_trouble` is called when there is something
    to do: a channel is gone, or the node cannot be used.
    """

    words = Words(b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"smessage")
    # After a failover, what the old master still takes comes by way of the new one, but later than
    # what that has taken itself. The log has told of it: such messages are dropped.
    gaps = GapsInOrder

    def __init__(
        self,
        node: Node,
        receiver: Receiver,
        publisher: Publisher,
        on_trouble: Callable[[], None],
    ) -> None:
        self.node = node
        self._on_trouble = on_trouble
        # The channels that the node was asked for, by slot.
        self._by_slot: defaultdict[int, set[bytes]] = defaultdict(set)
        self._gone: set[bytes] = set()
        self._is_probe_told = True
        super().__init__(node, receiver, publisher, node.outages())

    @property
    def is_lost(self) -> bool:
        """True while something that is wanted may not come here."""
        return self._outage.is_away or bool(self._gone)

    def again(self) -> list[Coroutine[Any, Any, None]]:
        """Ask the node once more for what is gone. What is returned waits until it has answered."""
        gone, self._gone = self._gone, set()
        if self._probe in gone:
            self._renew_probe()
        wanted = [each for each in gone if each in self._wanted]
        for channel in wanted:
            self._change(channel)
        return [self._until_settled(each) for each in wanted]

    def _renew_probe(self) -> None:
        self._probe = self.node.probe + uuid.uuid4().hex.encode()
        self._is_probe_told = False
        self._has_changed.set()

    def _lose_probe(self) -> None:
        if self._ready.done():
            self._ready = new_future()
        self._lose_channel(self._probe)

    def _lose_channel(self, channel: bytes) -> None:
        self._gone.add(channel)
        self._on_trouble()

    def _lose(self, error: Exception) -> None:
        super()._lose(error)
        self._on_trouble()

    async def _tell(self, connection: Connection) -> None:
        self._by_slot.clear()
        self._gone.clear()
        self._renew_probe()
        self._is_probe_told = True  # As the last of all.
        await super()._tell(connection)

    async def _tell_changes(self, connection: Connection) -> None:
        await super()._tell_changes(connection)
        if not self._is_probe_told:
            self._is_probe_told = True
            await connection.send_command(self.words.subscribe, self._probe)

    async def _send(self, connection: Connection, command: bytes, channels: list[bytes]) -> None:
        # One command names only channels of one slot.
        by_slot = defaultdict(list)
        for channel in channels:
            by_slot[key_slot(channel)].append(channel)
        for slot, those in by_slot.items():
            self._by_slot[slot].update(those)
        commands = [(command, *those) for those in by_slot.values()]
        await connection.send_packed_command(connection.pack_commands(commands))

    async def _read(self, connection: Connection) -> None:
        while True:
            await self._read_until_refused(connection)

    async def _read_until_refused(self, connection: Connection) -> None:
        try:
            await super()._read(connection)
        except ResponseError as error:
            moved = moved_to(error)
            if moved is None:
                raise
            self._refused(*moved)

    def _refused(self, slot: int, name: str) -> None:
        """Forget what the node was asked for of a slot that it does not have."""
        self.node.cluster.note(slot, name, self.node)
        if key_slot(self._probe) == slot:
            self._lose_probe()
        for channel in self._by_slot.pop(slot, ()):
            self._unanswered.pop(channel, None)
            self._ended(channel)
            self._settle(channel)

    def _answered(self, kind: bytes, channel: bytes) -> None:
        if channel == self._probe:
            if kind == b"sunsubscribe":
                self._lose_probe()
            else:
                self._ready.set_result(None)
            return
        if self._unanswered[channel]:
            super()._answered(kind[1:], channel)
        elif kind == b"sunsubscribe":
            self._ended(channel)
        if channel not in self._asked and channel not in self._unanswered:
            self._by_slot[key_slot(channel)].discard(channel)

    def _ended(self, channel: bytes) -> None:
        self._asked.discard(channel)
        topic = self._wanted.get(channel)
        if topic is not None:
            self._gaps.forget(topic)
            self._lose_channel(channel)

    async def _send_round(self) -> None:
        while True:
            if not await comes(self._ready, TIMEOUT):
                raise BrokerUnavailable(f"no answer within {TIMEOUT:g} s")
            try:
                await super()._send_round()
            except BrokerError as error:
                if self.node.cluster.heed(error, self.node) is None:
                    raise
                self._lose_probe()
            else:
                return
