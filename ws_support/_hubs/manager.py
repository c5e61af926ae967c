"""The manager of a hub: its connections in this process, and what goes to them from anywhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import lru_cache
from time import monotonic
from typing import Any, Final, cast

import msgspec

from ws_support._asyncio import PerLoop
from ws_support._connection.database import OldConnections
from ws_support._connection.lifecycle import report_end, report_start
from ws_support._connection.registry import open_connections
from ws_support._hub_options import HubOptions
from ws_support._hubs import tokens
from ws_support._hubs.calls import Calls, result_of
from ws_support._hubs.connection import HubConnection
from ws_support._hubs.ends import End
from ws_support._hubs.errors import HubException, InvalidName, InvalidNameType, PublishError
from ws_support._hubs.forwarding import Forwarding
from ws_support._hubs.invocations import Invocations, Limits
from ws_support._hubs.letters import Kind, Letter, encode, read_letter
from ws_support._hubs.messages import Invocation
from ws_support._hubs.pings import Pings
from ws_support._hubs.protocols import PROTOCOLS
from ws_support._hubs.published import Published
from ws_support._topics.brokers import is_between_processes
from ws_support._topics.brokers.base import BrokerError
from ws_support._topics.messages import check_subscriptions, check_text
from ws_support._topics.registry import TopicRegistry
from ws_support._topics.subscriber import Subscriber
from ws_support.conf import get_options

logger = logging.getLogger("ws_support.hubs")


_LONGEST_NAME: Final = 9_000
"""Characters of the name of a group or a user. Topics have 10,000, with the name of the hub."""


class Audience:
    """The connections of this process that belong to one topic: the topic's only subscriber."""

    def __init__(self) -> None:
        self.connections: dict[HubConnection, None] = {}
        self.topics: set[str] = set()
        self.topics_length = 0

    def push(self, published: Any) -> bool:
        """Send what was published to all connections. Return True if the next should wait."""
        message = _read(published)
        if message is None:
            return False
        is_filling, excluded = False, message.excluded
        for connection in tuple(self.connections):
            if not excluded or connection.id not in excluded:
                is_filling |= connection.deliver(message)
        return is_filling

    def miss(self) -> bool:
        """End all connections, since a message for them was lost. Return True if there are some."""
        for connection in tuple(self.connections):
            connection.miss()
        return bool(self.connections)


class Mailbox:
    """What other processes send to single connections of this one."""

    def __init__(self, manager: HubManager) -> None:
        self._manager = manager
        self.topics: set[str] = set()
        self.topics_length = 0

    def push(self, published: Any) -> bool:
        letter = read_letter(published.message.get("bytes") or b"")
        if letter is not None:
            self._manager.receive(letter)
        return False

    def miss(self) -> bool:
        logger.error("Messages of other processes for single clients of a hub were lost.")
        self._manager.forwarding.miss()
        return False


class _Broadcast(msgspec.Struct, array_like=True):
    data: dict[str, bytes]
    excluded: list[str]


_broadcasts: Final = msgspec.msgpack.Decoder(_Broadcast)


def _read(published: Any) -> Published | None:
    """Return what a topic has carried, or None if it was not published by a hub."""
    try:
        broadcast = _broadcasts.decode(published.message.get("bytes") or b"")
    except msgspec.DecodeError:
        return None
    return Published(broadcast.data, broadcast.excluded)


class HubManager:
    """The connections of one hub in one event loop, and the way to those elsewhere.

    `hub` is a description of the hub's class.
    """

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._prefix = f"ws_support.hubs.{hub.name}"
        self.topic_of_all = f"{self._prefix}:all"
        self._of_all = frozenset([self.topic_of_all])
        self.worker = _workers.get()
        self.connections: dict[str, HubConnection] = {}
        self._audiences: dict[str, Audience] = {}
        self._mailbox = Mailbox(self)
        self._adopted: dict[str, Mailbox] = {}
        """Mailboxes of connections whose ids were made by other processes."""
        self._open_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._calls = Calls(self.worker, self.open_mailbox, self._post, self._post_to_worker)
        self.forwarding = Forwarding(
            self.worker,
            self.open_mailbox,
            self._close_mailbox,
            self._post_to_worker,
            hub.serve_forwarded,
        )
        self._pings: dict[float, Pings] = {}
        self._reported: dict[str, float] = {}
        """Since when the signals know of connections over HTTP, by their ids."""
        self._used: dict[str, float] = {}
        """Ids of connections that are over, while their tokens are still fresh."""

    @property
    def options(self) -> HubOptions:
        return cast(HubOptions, self._hub.options)

    # Connections of this process

    def create(
        self, connection_id: str, scope: Any, transport_name: str, *, may_resume: bool = False
    ) -> HubConnection:
        """Return a new connection, to which a transport can be attached."""
        identifier = self._hub.user_identifier(scope)  # It may raise.
        connection = HubConnection(
            self, connection_id, scope, self.options, transport_name, may_resume=may_resume
        )
        connection.user_identifier = identifier
        self.connections[connection_id] = connection
        open_connections.add(connection)
        return connection

    def is_used(self, connection_id: str) -> bool:
        """Return True if the connection of this id is over. It may not come back."""
        return self._used.get(connection_id, 0) > asyncio.get_running_loop().time()

    def begin(self, connection: HubConnection) -> Invocations:
        return Invocations(
            connection.protocol,
            self._hub.methods,
            self._hub.maker(connection),
            connection.post,
            answer=connection.answer,
            limits=_limits_of(connection.options),
            may_invoke=self._hub.checker(connection),
            filtered=self._hub.filtered,
            make_way=connection.read_on,
            flush=connection.flush,
        )

    def keep_alive(self, connection: HubConnection) -> None:
        interval = connection.options.keep_alive_interval
        if interval not in self._pings:
            self._pings[interval] = Pings(interval)
        self._pings[interval].add(connection)

    async def on_connected(self, connection: HubConnection) -> None:
        await self._join(connection, self.topic_of_all)
        if connection.user_identifier:  # An empty one is none.
            await self._join(connection, self.topic_of_user(connection.user_identifier))
        await self._take_letters(connection)
        open_connections.accepted(connection)
        if connection.transport_name != "WebSockets":  # Those are reported as any WebSocket.
            self._reported[connection.id] = monotonic()
            await report_start(connection.scope)
        await self._close_old_databases()
        connection.has_begun = True
        await self._hub.on_connected(connection)

    async def on_disconnected(self, connection: HubConnection, error: Exception | None) -> None:
        await self._close_old_databases()
        await self._hub.on_disconnected(connection, error)

    @staticmethod
    async def _close_old_databases() -> None:
        databases = OldConnections.of_this_loop()
        if databases.are_due():
            await databases.close()

    async def forget(self, connection: HubConnection, end: End) -> None:
        del self.connections[connection.id]
        self._remember(connection.id)
        try:
            if (since := self._reported.pop(connection.id, None)) is not None:
                await report_end(connection.scope, int(end.code), "", monotonic() - since)
        finally:
            open_connections.remove(connection)
            await self._let_go(connection)

    async def _let_go(self, connection: HubConnection) -> None:
        if (pings := self._pings.get(connection.options.keep_alive_interval)) is not None:
            pings.discard(connection)
        registry = TopicRegistry.of_this_loop()
        mailbox = self._adopted.pop(connection.id, None)
        if mailbox is not None:
            await registry.leave_all(cast(Subscriber, mailbox))
        if connection.follower is not None:
            await connection.follower.end()
        for topic in tuple(connection.topics):
            await self._leave(connection, topic)
        if not self.connections:
            await self._close_mailbox()

    def _remember(self, connection_id: str) -> None:
        now = asyncio.get_running_loop().time()
        # Not a copy of it: there may be one for each connection of the last seconds.
        while self._used and self._used[old := next(iter(self._used))] <= now:
            del self._used[old]
        # Tickets are fresh for twice as long as tokens.
        self._used[connection_id] = now + 2 * self.options.disconnect_timeout + 1

    # Topics

    def topic_of_group(self, name: str) -> str:
        """Return the topic of a group. Raises `InvalidName` and `InvalidNameType`."""
        return f"{self._prefix}:group:{_name(name, 'The name of a group')}"

    def topic_of_user(self, identifier: str) -> str:
        """Return the topic of a user. Raises the same errors."""
        return f"{self._prefix}:user:{_name(identifier, 'The identifier of a user')}"

    def topic_of_worker(self, connection_id: str) -> str:
        """Return the topic under which the owner of a connection is reached."""
        return f"{self._prefix}:worker:{connection_id[: tokens.WORKER_LENGTH]}"

    def topic_of_client(self, connection_id: str) -> str:
        """Return the topic of a connection whose id does not name its owner."""
        return f"{self._prefix}:client:{connection_id}"

    async def _join(self, connection: HubConnection, topic: str) -> None:
        if topic not in connection.topics:
            only = topic == self.topic_of_all and not connection.topics
            connection.topics = self._of_all if only else connection.topics | {topic}
        audience = self._audiences.setdefault(topic, Audience())
        audience.connections[connection] = None
        await self._subscribe(topic, audience)

    async def _subscribe(self, topic: str, receiver: Any) -> None:
        await TopicRegistry.of_this_loop().subscribe(topic, cast(Subscriber, receiver))

    async def _leave(self, connection: HubConnection, topic: str) -> None:
        connection.topics -= {topic}
        audience = self._audiences.get(topic)
        if audience is None:
            return
        audience.connections.pop(connection, None)
        if not audience.connections:
            del self._audiences[topic]
            await TopicRegistry.of_this_loop().unsubscribe(topic, cast(Subscriber, audience))

    # Letters of other processes

    async def open_mailbox(self, seconds: float = 0) -> None:
        """Take letters of other processes, for so many seconds or as long as there is a reason."""
        loop = asyncio.get_running_loop()
        self._open_until = max(self._open_until, loop.time() + seconds)
        if seconds and self._timer is None:
            self._timer = loop.call_later(seconds, self._look_at_mailbox)
        await self._subscribe(self.topic_of_worker(self.worker), self._mailbox)

    def _look_at_mailbox(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        if (left := self._open_until - loop.time()) > 0:
            self._timer = loop.call_later(left, self._look_at_mailbox)
        else:
            self._closing = loop.create_task(self._close_mailbox())

    async def _close_mailbox(self) -> None:
        """Take no more letters, unless there is a reason."""
        is_used = bool(self.connections) or not self._calls.is_idle or not self.forwarding.is_idle
        if not is_used and self._open_until <= asyncio.get_running_loop().time():
            # Not `leave_all()`, which begins a turn later: a reason may come up until then.
            await TopicRegistry.of_this_loop().unsubscribe(
                self.topic_of_worker(self.worker), cast(Subscriber, self._mailbox)
            )

    async def forward(
        self, token: tokens.Token, scope: Any, first: Any, receive: Any, send: Any
    ) -> bool:
        """Let the owner of a connection answer a request. Return False if there is none."""
        if not is_between_processes():
            return False
        return await self.forwarding.forward(token.worker, scope, first, receive, send)

    async def _take_letters(self, connection: HubConnection) -> None:
        await self.open_mailbox()
        if not connection.id.startswith(self.worker):
            # Another process has made the id, and may have gone since.
            self._adopted[connection.id] = mailbox = Mailbox(self)
            await self._subscribe(self.topic_of_client(connection.id), mailbox)

    # Groups

    async def add_to_group(self, connection_id: str, name: str) -> None:
        """Add a connection, here or elsewhere, to a group."""
        topic = self.topic_of_group(name)
        connection = self.connections.get(connection_id)
        if connection is None:
            await self._post(connection_id, Letter(Kind.ADD, connection_id, text=name))
        elif not connection.is_ending:
            length = sum(map(len, connection.topics))
            limit = get_options().max_subscriptions
            try:
                check_subscriptions(connection.topics, length, topic, limit)
            except ValueError:
                raise InvalidName(
                    f"A connection may be in {limit} groups, with names of some 200,000 characters"
                    ' together. To allow more, raise WS_SUPPORT["MAX_SUBSCRIPTIONS"].'
                ) from None
            await self._join(connection, topic)

    async def remove_from_group(self, connection_id: str, name: str) -> None:
        """Remove a connection, here or elsewhere, from a group."""
        topic = self.topic_of_group(name)
        connection = self.connections.get(connection_id)
        if connection is None:
            await self._post(connection_id, Letter(Kind.REMOVE, connection_id, text=name))
        else:
            await self._leave(connection, topic)

    # Messages for clients

    async def publish(
        self, topics: Iterable[str], target: str, arguments: list[Any], excluded: Collection[str]
    ) -> None:
        """Send an invocation to all connections of some topics, except for those with some ids."""
        published = Published.of(target, arguments, excluded)
        data = encode(_Broadcast(published.by_protocol, list(excluded)))
        for topic in topics:
            await self._publish(topic, data)

    async def send_to(self, ids: Iterable[str], target: str, arguments: list[Any]) -> None:
        """Send an invocation to single connections, here or elsewhere."""
        published = Published.of(target, arguments)
        for id_ in ids:
            connection = self.connections.get(id_)
            if connection is not None:
                connection.deliver(published)
            else:
                await self._post(id_, Letter(Kind.SEND, id_, data=published.by_protocol))

    async def invoke(
        self, connection_id: str, target: str, arguments: list[Any], type_: Any
    ) -> Any:
        """Invoke a method of one client, and return its answer. Raises `HubException`."""
        invocation_id = self._calls.next_id()
        message = Invocation(target, arguments, invocation_id)
        connection = self.connections.get(connection_id)
        if connection is not None:
            if not connection.is_open:  # Before the handshake, there is no protocol.
                raise HubException(f"Connection '{connection_id}' does not exist.")
            completion = await connection.ask(invocation_id, connection.protocol.write(message))
            return result_of((completion, connection.protocol), type_)
        data = {name: each.write(message) for name, each in PROTOCOLS.items()}
        try:
            return result_of(await self._calls.ask(connection_id, invocation_id, data), type_)
        finally:
            await self._close_mailbox()

    async def _post(self, connection_id: str, letter: Letter) -> None:
        """Send a letter to whoever owns a connection."""
        if not isinstance(connection_id, str):
            raise TypeError(f"The id of a connection is a string: got {connection_id!r:.100}.")
        data = encode(letter)
        if not connection_id.startswith(self.worker):
            await self._publish(self.topic_of_worker(connection_id), data)
        # Another process may have taken over a connection that this one has offered.
        await self._publish(self.topic_of_client(connection_id), data)

    async def _post_to_worker(self, worker: str, letter: Letter) -> None:
        await self._publish(self.topic_of_worker(worker), encode(letter))

    async def _publish(self, topic: str, data: bytes) -> None:
        broker = TopicRegistry.of_this_loop().broker
        try:
            await broker.publish(topic, {"type": "websocket.send", "bytes": data})
        except BrokerError as error:
            raise PublishError(
                f"A message of the hub {self._hub.name} was not taken by {broker.title}: {error}."
            ) from error

    def receive(self, letter: Letter) -> None:
        """Do what another process has asked for."""
        if letter.kind is Kind.FORGET:
            self._calls.forget(letter)
        elif letter.kind >= Kind.OPEN:
            self.forwarding.take(letter)
        elif letter.kind in (Kind.TAKEN, Kind.RESULT):
            if not self._calls.take(letter):
                self.forwarding.take(letter)
        elif (connection := self.connections.get(letter.id)) is None or not connection.is_open:
            pass
        elif letter.kind is Kind.SEND:
            connection.deliver(Published(letter.data))
        elif letter.kind is Kind.ADD:
            connection.spawn(_logged(self.add_to_group, letter.id, letter.text))
        elif letter.kind is Kind.REMOVE:
            connection.spawn(_logged(self.remove_from_group, letter.id, letter.text))
        else:
            task = connection.spawn(_logged(self._calls.answer, connection, letter))
            self._calls.note_answering(letter, task)


def _name(given: object, what: str) -> str:
    """Return a name. Clients may have sent it, so that no error has it in its text."""
    if not isinstance(given, str):
        raise InvalidNameType(f"{what} is a text, not {type(given).__name__}.")
    if not given:
        raise InvalidName(f"{what} is empty.")
    if len(given) > _LONGEST_NAME:
        raise InvalidName(f"{what} has up to {_LONGEST_NAME} characters, not {len(given)}.")
    try:
        check_text(given, what)
    except ValueError as error:
        raise InvalidName(str(error)) from None
    return given


async def _logged(work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Do what another process has asked for. Nobody here waits for it to hear of an error."""
    try:
        await work(*arguments)
    except (PublishError, ValueError) as error:
        logger.error("What another process has asked for was not done: %s", error)


@lru_cache
def _limits_of(options: HubOptions) -> Limits:
    """Return the limits of invocations: one object for all connections."""
    return Limits(
        parallel=options.maximum_parallel_invocations_per_client,
        stream_buffer=options.stream_buffer_capacity,
        tasks=options.maximum_streams_per_client,
        detailed_errors=options.enable_detailed_errors,
    )


_workers: Final = PerLoop(tokens.new_worker)
"""The name of each event loop, for the ids of its connections."""
