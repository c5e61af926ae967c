"""The record of one hub connection, which outlives the requests that carry it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Collection, Iterator, Mapping
from enum import IntEnum
from typing import Any, Final, Protocol

from ws_support import _logging
from ws_support._asyncio import is_being_cancelled
from ws_support._hub_options import HubOptions
from ws_support._hubs import errors
from ws_support._hubs.ends import End, Missed, Silent, TooSlow, Unread
from ws_support._hubs.errors import HubException
from ws_support._hubs.invocations import Invocations
from ws_support._hubs.messages import Ack, Close, Completion, Invocation, Message, Ping, Sequence
from ws_support._hubs.protocols import handshake
from ws_support._hubs.protocols.base import HubProtocol, ProtocolError, Splitter
from ws_support._hubs.protocols.json import SEPARATOR
from ws_support._hubs.published import Published
from ws_support._hubs.resume import ACK_INTERVAL, MessageBuffer, is_counted
from ws_support._hubs.transport import Transport

logger = logging.getLogger("ws_support.hubs")

_END_TIMEOUT: Final = 5.0
"""Seconds in which cancelled methods, and `on_connected()`, have to end."""

_MOST_UNACKNOWLEDGED: Final = 1024 * 1024
"""Bytes of broadcasts that wait for an Ack: clients send one a second only."""

_MOST_PIECES: Final = 64
"""Pieces that wait to be read, before they are put together: they are taken out one by one."""

_MOST_AT_ONCE: Final = 500
"""Messages of a client that are read in a row, before others have their turn. A frame of a
WebSocket may hold some 100,000."""

_MOST_AHEAD: Final = 10_000
"""Messages that are read behind one that waits: the smallest ones take 50 times their bytes."""

_HELD_INTERVALS: Final = 3
"""How many times `CLIENT_TIMEOUT_INTERVAL` a client may be silent for longer while what it has sent
waits for its methods. Nobody else would notice that it is lost: where so much waits that nothing is
read, Hypercorn, Daphne and Granian do not."""

_MOST_ASKED: Final = 1000
"""Invocations that one client has to answer at the same time."""

_GRACE: Final = 5.0
"""Seconds in which methods may finish that have begun before the end. .NET sets no limit."""

_NO_LIMIT: Final = 2**31 - 1
"""The largest message that MessagePack's framing allows."""


class State(IntEnum):
    """The state of a connection. If a transport is attached is another question."""

    CONNECTING = 0
    """The handshake request has not come yet, or not whole."""
    OPEN = 1
    """Messages go both ways."""
    CLOSING = 2
    """The end is decided: nothing more is read, and what waits is written."""
    CLOSED = 3
    """`on_disconnected()` has returned, and the id is unknown."""


class Life(Protocol):
    """What a connection needs of its hub: the class, and who else is connected to it."""

    def begin(self, connection: HubConnection) -> Invocations:
        """Return what runs the methods, when the protocol is known."""

    def keep_alive(self, connection: HubConnection) -> None:
        """Call `connection.ping()` now and then, until its end."""

    async def on_connected(self, connection: HubConnection) -> None: ...

    async def on_disconnected(self, connection: HubConnection, error: Exception | None) -> None: ...

    async def forget(self, connection: HubConnection, end: End) -> None:
        """Remove the connection from all groups, and report its end."""


class HubConnection:
    """The record of one connection. It knows no ASGI: transports are attached to it.

    Whatever happens, `end()` decides the end once, and `on_disconnected()` runs once for each
    `on_connected()` that has returned.
    """

    __slots__ = (
        "__weakref__",
        "_ack",
        "_ahead",
        "_buffer",
        "_closed",
        "_frames",
        "_handshake",
        "_has_connected",
        "_heard_at",
        "_invocations",
        "_is_flush_due",
        "_life",
        "_loop",
        "_may_resume",
        "_next_turn",
        "_opening",
        "_outbox",
        "_outbox_size",
        "_posting",
        "_results",
        "_room",
        "_silence",
        "_splitter",
        "_state",
        "_takes_binary",
        "_tasks",
        "_timer",
        "_unread",
        "_unread_size",
        "_waiting",
        "_writers",
        "follower",
        "has_begun",
        "id",
        "items",
        "options",
        "posts",
        "protocol",
        "scope",
        "topics",
        "transport",
        "transport_name",
        "user_identifier",
    )

    protocol: HubProtocol
    """Known from the handshake on."""

    def __init__(
        self,
        life: Life,
        connection_id: str,
        scope: Mapping[str, Any],
        options: HubOptions,
        transport_name: str,
        *,
        may_resume: bool = False,
    ) -> None:
        self._life = life
        self.id = connection_id
        self.scope = scope
        self.options = options
        self.transport_name = transport_name
        self.transport: Transport | None = None
        self.items: dict[Any, Any] = {}
        self.user_identifier: str | None = None
        self.topics: frozenset[str] = frozenset()
        """Never changed in place: those who are in no group share one set."""
        self.follower: Any = None
        """The subscriptions of its client to topics, if there are any."""
        self._posting: asyncio.Lock | None = None
        self.posts = 0
        """How many requests with bytes of the client there are."""
        self._takes_binary = transport_name != "ServerSentEvents"
        self._loop = asyncio.get_running_loop()
        self._state = State.CONNECTING
        self._closed: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

        self._handshake: bytes | None = b""
        self._frames: Iterator[bytes] | None = None
        self._unread: list[bytes] = []
        self._unread_size = 0
        self._ahead: deque[tuple[Message, int]] | None = None
        """Messages that have been read behind one that waits, and their sizes, if there are any."""
        self._room: asyncio.Future[None] | None = None
        self._next_turn: asyncio.Handle | None = None
        """Set while others have their turn, and more can be read."""
        # From the handshake on.
        self._splitter: Splitter = None  # type: ignore[assignment]
        self._invocations: Invocations = None  # type: ignore[assignment]
        self._waiting: Collection[Message] = ()
        self._opening: asyncio.Task[None] | None = None
        self._has_connected = False
        self.has_begun = False
        """True once `on_connected()` of the hub runs, or has."""
        self._results: dict[str, asyncio.Future[Completion]] = {}

        self._may_resume = may_resume
        self._buffer: MessageBuffer | None = None
        """What has to be repeated on the next WebSocket; None without a stateful reconnect."""
        self._ack: asyncio.TimerHandle | None = None

        self._outbox: list[bytes] = []
        self._outbox_size = 0
        self._writers: asyncio.Future[None] | None = None
        self._is_flush_due = False

        self._heard_at = self._loop.time()
        self._silence: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(
            options.handshake_timeout, self._handshake_is_late
        )

    @property
    def is_open(self) -> bool:
        """True from the handshake to the end: what is sent reaches the client."""
        return self._state is State.OPEN

    @property
    def is_ending(self) -> bool:
        """True once the end is decided."""
        return self._state >= State.CLOSING

    @property
    def is_before_handshake(self) -> bool:
        return self._state is State.CONNECTING

    @property
    def is_binary(self) -> bool:
        """True if what is sent is binary. The answer to a refused handshake is text."""
        protocol: HubProtocol | None = getattr(self, "protocol", None)
        return protocol is not None and protocol.is_binary

    @property
    def posting(self) -> asyncio.Lock:
        """The lock with which requests with bytes of the client take their turns."""
        if self._posting is None:
            self._posting = asyncio.Lock()
        return self._posting

    def release_slot(self) -> None:
        """Let the next invocation begin: the method that runs waits for a client."""
        if self._invocations is not None:
            self._invocations.release_slot()

    async def wait_closed(self) -> None:
        """Wait until `on_disconnected()` has run."""
        if self._state is not State.CLOSED:
            if self._closed is None:
                self._closed = self._loop.create_future()
            await asyncio.wait([self._closed])

    # Transports

    def attach(self, transport: Transport) -> None:
        """Let `transport` carry the connection from now on."""
        self.transport = transport
        if self._outbox:
            transport.notify()

    @property
    def is_resumable(self) -> bool:
        """True if another WebSocket may carry the connection on."""
        return self._buffer is not None and self._state is State.OPEN

    def resume(self, transport: Transport) -> None:
        """Let another WebSocket carry the connection on. Nothing of the one before counts."""
        before, self.transport = self.transport, None
        if before is not None:
            before.drop()
        self._stop_timer()
        self._unread.clear()
        self._unread_size = sum(size for _, size in self._ahead or ())
        self._frames = None
        self._splitter.take()
        number, messages = self._buffer.resume()  # type: ignore[union-attr]  # It is resumable.
        self._outbox = [self.protocol.write(Sequence(number)), *messages]
        self._outbox_size = sum(map(len, self._outbox))
        self.attach(transport)

    def detach(self, transport: Transport) -> bool:
        """Take a WebSocket off that was lost. Return False if the connection ends with it."""
        if self.transport is not transport:
            return True
        if not self.is_resumable:
            return False
        self.transport = None
        self._outbox = []
        self._outbox_size = 0
        self._wait_for_client()
        return True

    def is_left(self) -> None:
        """Note that a poll has been answered: the next one has to come in time."""
        if self._state is State.OPEN:
            self._wait_for_client()

    def _wait_for_client(self) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(self.options.disconnect_timeout, self._is_abandoned)

    def is_back(self) -> None:
        """Note that a poll has come."""
        if self._state is State.OPEN:
            self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_abandoned(self) -> None:
        self.end(End(is_told=False, is_lost=True))

    # Bytes of the client

    def feed(self, data: bytes) -> None:
        """Take bytes of the client. While `is_full`, no more should come."""
        self._heard_at = self._loop.time()
        if self._state >= State.CLOSING:
            return
        self._unread.append(data)
        self._unread_size += len(data)
        if len(self._unread) > _MOST_PIECES:
            # The first one may be half read.
            self._unread[1:] = [b"".join(self._unread[1:])]
        self.read_on()

    @property
    def is_full(self) -> bool:
        """True if so much waits to be read that no more should be fed."""
        most = self.options.application_max_buffer_size
        if self._buffer is not None:
            # An Ack for which a method waits may be behind all that the client may send without
            # one of ours.
            most += self.options.stateful_reconnect_buffer_size
        return self._unread_size > most or self._next_turn is not None

    async def room(self) -> bool:
        """Wait until the connection is not full. Return False if it has ended instead."""
        longest = (1 + _HELD_INTERVALS) * self.options.client_timeout_interval
        # A client that polls no more is noticed in any case.
        timeout = None if self.transport_name == "LongPolling" else longest
        while self.is_full and self._state < State.CLOSING:
            if self._room is None:
                self._room = self._loop.create_future()
            before = self._what_waits
            done, _ = await asyncio.wait([self._room], timeout=timeout)
            if not done and before is not None and self._what_waits is before:
                self._is_stuck(longest)
        return self._state < State.CLOSING

    @property
    def _what_waits(self) -> object:
        """The message that is next, or what it waits for. While methods end, it changes."""
        return next(iter(self._waiting), self._opening)

    def _is_stuck(self, seconds: float) -> None:
        """End a connection of which nothing can be read: nobody would notice that it is lost."""
        logger.warning(
            "Closed: no method of the client has ended for %g s, and no more of what it has sent"
            " can be read, path %.200a. To allow more, raise"
            ' WS_SUPPORT["HUBS"]["CLIENT_TIMEOUT_INTERVAL"], a quarter of that.',
            seconds,
            self.scope["path"],
            extra=_logging.fields(self.scope),
        )
        self.end(End("Connection closed with an error.", True, Unread(seconds)))

    @property
    def _is_holding(self) -> bool:
        """True while the next message has to wait."""
        return self._opening is not None or bool(self._waiting)

    def read_on(self) -> None:
        """Read what has come, as far as no message has to wait."""
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        try:
            # The path of each message: every line here costs time.
            for _ in range(_MOST_AT_ONCE):
                if self._opening is not None or self._state >= State.CLOSING:
                    break
                if self._waiting:
                    if self._buffer is None or not self._read_ahead():
                        break
                elif self._ahead:
                    message, size = self._ahead.popleft()
                    self._unread_size -= size
                    if not self._ahead:
                        self._ahead = None
                        self._acknowledge()
                    self._handle(message)
                elif self._frames is None:
                    if not self._unread:
                        break
                    self._begin_to_read(self._unread[0])
                elif (frame := next(self._frames, None)) is not None:
                    parsed = self._parse(frame)
                    if parsed is not None:
                        self._handle(parsed)
                else:
                    self._frames = None
                    self._unread_size -= len(self._unread.pop(0))
            else:
                self._next_turn = self._loop.call_soon(self.read_on)
        except ProtocolError as error:
            self._fail(error)
        if self._room is not None and not (self.is_full and self._state < State.CLOSING):
            self._heard_at = self._loop.time()  # What the client has sent meanwhile comes now.
            self._room.set_result(None)
            self._room = None

    def _read_ahead(self) -> bool:
        """Read one message behind one that waits. Return False if there is none, or too many.

        A method may wait for the Ack of what it has sent, with the slot for which that message
        waits. .NET reads no further, and both wait for ever.
        """
        if self._ahead is not None and len(self._ahead) >= _MOST_AHEAD:
            return False
        if self._frames is None:
            if not self._unread:
                return False
            self._begin_to_read(self._unread[0])
        elif (frame := next(self._frames, None)) is not None:
            message = self._parse(frame)
            if isinstance(message, Ack):
                self._handle(message)
            elif message is not None:
                if self._ahead is None:
                    self._ahead = deque()  # 0.6 KiB, even when it is empty.
                self._ahead.append((message, len(frame)))
                self._unread_size += len(frame)
        else:
            self._frames = None
            self._unread_size -= len(self._unread.pop(0))
        return True

    def _begin_to_read(self, data: bytes) -> None:
        if self._handshake is None:
            self._frames = self._splitter.feed(data)
            return
        most = self.options.maximum_receive_message_size or _NO_LIMIT
        request, separator, rest = (self._handshake + data).partition(SEPARATOR)
        if len(request) >= most:
            self._refuse("Handshake was canceled.")
        elif not separator:
            self._handshake = request
            self._unread_size -= len(self._unread.pop(0))
        else:
            self._handshake = None
            self._unread_size += len(rest) - len(data)
            self._unread[0] = rest
            self._shake_hands(request)

    def _parse(self, frame: bytes) -> Message | None:
        """Return a message, or None if it is to be ignored."""
        message = self.protocol.parse(frame)
        if self._buffer is not None and message is not None and not self._count(message, frame):
            return None
        return message

    def _handle(self, message: Message) -> None:
        if message.__class__ is Invocation:
            self._invocations.take(message)
            return
        match message:
            case Ping():
                if self._silence is None:
                    self._watch_silence()
            case Close(error):
                exception = HubException(error) if error is not None else None
                self.end(End(exception=exception))
            case Completion(id) if id in self._results:
                result = self._results[id]
                if not result.done():
                    result.set_result(message)
            case Ack(number):
                if self._buffer is not None:
                    self._buffer.acknowledge(number)
                    self._release_writers()
            case Sequence():
                pass
            case _:
                self._invocations.take(message)

    def _count(self, message: Message, frame: bytes) -> bool:
        """Count a message for a stateful reconnect. Return False if it has come before."""
        buffer: MessageBuffer = self._buffer  # type: ignore[assignment]
        is_new = buffer.takes(message, len(frame))
        if buffer.is_ack_due:
            self._acknowledge()
        elif self._ack is None:
            self._ack = self._loop.call_later(ACK_INTERVAL, self._acknowledge)
        return is_new

    def _acknowledge(self) -> None:
        if self._ack is not None:
            self._ack.cancel()
            self._ack = None
        # Not what waits: behind what it may send without an Ack, the client sends its own.
        waiting = sum(is_counted(message) for message, _ in self._ahead or ())
        number = self._buffer.next_ack(waiting)  # type: ignore[union-attr]
        if number is not None and self.transport is not None:
            self.write(self.protocol.write(Ack(number)))

    def _fail(self, error: ProtocolError) -> None:
        logger.warning(
            "A client has broken the protocol of hubs: %.200a, path %.200a.",
            str(error),
            self.scope["path"],
            extra=_logging.fields(self.scope),
        )
        text = "Connection closed with an error."
        if self.options.enable_detailed_errors:
            text += f" InvalidDataException: {error}"
        self.end(End(text, True, error))

    # The handshake

    def _shake_hands(self, frame: bytes) -> None:
        try:
            request = handshake.read_request(frame)
            self.protocol = handshake.choose(request, takes_binary=self._takes_binary)
        except handshake.HandshakeRefused as refused:
            self._refuse(str(refused))
            return
        except ProtocolError as error:
            text = "An unexpected error occurred during connection handshake."
            if self.options.enable_detailed_errors:
                text += f" InvalidDataException: {error}"
            self._refuse(text)
            return
        most = self.options.maximum_receive_message_size or _NO_LIMIT
        self._splitter = self.protocol.splitter(most)
        self._stop_timer()
        self._state = State.OPEN
        self._invocations = self._life.begin(self)
        self._waiting = self._invocations.waiting
        self.write(handshake.write_response())
        if self._may_resume and request.version >= handshake.NEWEST:
            # The client counts from the next frame on.
            self.flush()
            self._buffer = MessageBuffer()
        if self.transport_name == "LongPolling":
            self.is_left()  # Until the next poll; one that waits is answered now.
        else:
            self._life.keep_alive(self)
        self._opening = self.spawn(self._open())

    def _refuse(self, text: str) -> None:
        """Answer the handshake with an error, and end."""
        self.write(handshake.write_response(text))
        self.end(End(is_told=False))

    def _handshake_is_late(self) -> None:
        self._refuse("Handshake was canceled.")

    async def _open(self) -> None:
        try:
            await self._life.on_connected(self)
            self._has_connected = True
        except asyncio.CancelledError as error:
            if self._state >= State.CLOSING or is_being_cancelled():
                self._has_connected = self.has_begun  # If so, its end has to come.
                raise
            # It has awaited what somebody else has cancelled.
            self._has_failed_to_connect(error)
        except Exception as error:
            self._has_failed_to_connect(error)
        finally:
            self._opening = None
        if self._state is State.OPEN:
            self._invocations.start()
            self.read_on()

    def _has_failed_to_connect(self, error: BaseException) -> None:
        self._log_error("on_connected()", error)
        is_detailed = self.options.enable_detailed_errors
        text = errors.describe("Connection closed with an error.", error, is_detailed=is_detailed)
        self.end(End(text))

    # Messages for the client

    async def send(self, message: Message) -> None:
        """Send a message, and wait while the client is slow. After the end, drop it.

        Raises `InvalidValue` for what cannot be sent.
        """
        slow = self.post(message)
        if slow is not None:
            await slow

    def post(self, message: Message) -> Awaitable[None] | None:
        """Send a message. Return something to wait for if the client is slow.

        Raises `InvalidValue` for what cannot be sent.
        """
        slow = self.answer(message)
        self._flush_soon()
        return slow

    def answer(self, message: Message) -> Awaitable[None] | None:
        """Do what `post()` does, but leave the message in the outbox until `flush()`."""
        return self._queue(self.protocol.write(message))

    def post_data(self, data: bytes) -> None:
        """Send a message that is written already, however slow the client is."""
        self._queue(data)
        self._flush_soon()

    async def send_data(self, data: bytes) -> None:
        """Send a message that is written already, and wait while the client is slow."""
        slow = self._queue(data)
        self._flush_soon()
        if slow is not None:
            await slow

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self.flush)

    def _queue(self, data: bytes) -> Awaitable[None] | None:
        if self._state is not State.OPEN:
            return None
        if self._buffer is not None:
            self._buffer.keep(data)
        if self.transport is not None or self._buffer is None:
            self._outbox.append(data)
            self._outbox_size += len(data)
        return self._drained() if self._is_slow else None

    @property
    def _is_slow(self) -> bool:
        """True while so much waits for the client that its methods have to wait."""
        if self._outbox_size > self.options.transport_max_buffer_size:
            return True
        return (
            self._buffer is not None
            and self._buffer.size > self.options.stateful_reconnect_buffer_size
        )

    async def _drained(self) -> None:
        if not self._is_flush_due:
            self.flush()
        while self._is_slow and self.is_open:
            if self._writers is None:
                self._writers = self._loop.create_future()
            await asyncio.wait([self._writers])

    def _release_writers(self) -> None:
        """Let those who wait look if the client is still slow."""
        if self._writers is not None:
            self._writers.set_result(None)
            self._writers = None

    def write(self, data: bytes) -> None:
        """Queue whole messages. What is queued in one turn of the event loop is sent together."""
        self._outbox.append(data)
        self._outbox_size += len(data)
        self._flush_soon()

    def flush(self) -> None:
        """Hand what is queued to the transport."""
        self._is_flush_due = False
        if self._outbox and self.transport is not None:
            self.transport.notify()

    def take(self) -> bytes:
        """Return all that is queued, and forget it."""
        outbox = self._outbox
        data = outbox[0] if len(outbox) == 1 else b"".join(outbox)
        self._outbox = []
        self._outbox_size = 0
        self._release_writers()
        return data

    @property
    def has_output(self) -> bool:
        return bool(self._outbox)

    def deliver(self, published: Published) -> bool:
        """Send a message that is for many. Return True if the next one should wait for a moment.

        A client that does not read fast enough is given up: nobody waits for it.
        """
        if self._state is not State.OPEN:
            return False
        transport = self.transport
        if self._buffer is not None:
            if self._buffer.size >= _MOST_UNACKNOWLEDGED:
                self._give_up(self._buffer.size, "They were not acknowledged.")
                return False
            self._buffer.keep(published.data(self.protocol))
            if transport is None:
                return False
        if (
            not self._outbox
            and transport is not None
            and transport.write_shared(published, self.protocol)
        ):
            return False
        limit = self.options.transport_max_buffer_size
        if self._outbox_size >= limit:
            self._give_up(
                self._outbox_size,
                'To keep more, raise WS_SUPPORT["HUBS"]["TRANSPORT_MAX_BUFFER_SIZE"].',
            )
            return False
        self.write(published.data(self.protocol))
        return 2 * self._outbox_size >= limit

    def _give_up(self, size: int, advice: str) -> None:
        logger.warning(
            "A slow client is given up: %d bytes wait for it, path %.200a. %s",
            size,
            self.scope["path"],
            advice,
            extra=_logging.fields(self.scope),
        )
        self.end(End("Connection closed with an error.", True, TooSlow()))

    def miss(self) -> None:
        """End the connection, since messages for it were lost on the way to this process."""
        self.end(End("Connection closed with an error.", True, Missed()))

    async def send_invocation(self, target: str, arguments: list[Any]) -> None:
        """Invoke a method of the client, and wait while the client is slow."""
        await self.send(Invocation(target, arguments))

    async def ask(self, invocation_id: str, data: bytes) -> Completion:
        """Send an invocation, and return the answer of the client.

        Raises `HubException` at the end of the connection.
        """
        if self._state is not State.OPEN:
            raise HubException(f"Connection '{self.id}' does not exist.")
        if self._opening is not None:
            raise HubException(
                "Client results inside on_connected() are not allowed: the answer cannot be read"
                " before it has returned."
            )
        if len(self._results) >= _MOST_ASKED:
            raise HubException("The client has too many invocations to answer.")
        result: asyncio.Future[Completion] = self._loop.create_future()
        self._results[invocation_id] = result
        try:
            self.post_data(data)
            return await result
        finally:
            del self._results[invocation_id]

    # Signs of life

    def ping(self) -> None:
        """Send a ping, unless something waits that says as much."""
        if self._state is State.OPEN and not self._outbox and self.transport is not None:
            self.write(self.protocol.write(Ping()))

    def _watch_silence(self) -> None:
        """End the connection when the client is silent for too long."""
        if self.transport_name == "LongPolling":
            return
        interval = self.options.client_timeout_interval
        left = self._heard_at + interval - self._loop.time()
        if left <= 0 and self.is_full:
            left = interval  # Nothing more is read: `room()` knows if that lasts too long.
        elif left <= 0 and self._is_holding:
            # What it may have sent has not been read.
            left = min(left + _HELD_INTERVALS * interval, interval)
        if left > 0:
            self._silence = self._loop.call_later(left, self._watch_silence)
            return
        logger.info(
            "Closed: no message for %g s, path %.200a. To allow more, raise"
            ' WS_SUPPORT["HUBS"]["CLIENT_TIMEOUT_INTERVAL"].',
            interval,
            self.scope["path"],
            extra=_logging.fields(self.scope),
        )
        self.end(End("Connection closed with an error.", True, Silent(interval)))

    # The end

    def end(self, end: End) -> None:
        """Decide the end. The first call counts."""
        if self._state >= State.CLOSING:
            return
        if self._state is State.OPEN and end.is_told:
            self.write(self.protocol.write(Close(end.error, end.allow_reconnect)))
        self._state = State.CLOSING
        for timer in (self._silence, self._timer, self._ack):
            if timer is not None:
                timer.cancel()
        if self._room is not None:
            self._room.set_result(None)
            self._room = None
        self._release_writers()
        for result in self._results.values():
            if not result.done():
                result.set_exception(HubException(f"Connection '{self.id}' disconnected."))
        self.spawn(self._finish(end))

    def lost(self, exception: Exception | None = None) -> None:
        """End the connection, whose transport has gone for good."""
        if self._handshake is None and self._splitter and not self._splitter.is_empty():
            exception = exception or ProtocolError("Connection terminated while reading a message.")
        self.end(End(exception=exception, is_told=False, is_lost=True))

    async def drain(self, code: int, reason: str) -> None:
        """End the connection, since the server stops. For the registry of open connections."""
        self.end(End(allow_reconnect=True, is_restart=True))

    def cancel(self) -> None:
        """Cancel what still runs. For the registry of open connections."""
        self.end(End(allow_reconnect=True, is_restart=True))
        # A task that is cancelled before its first step would do nothing at all.
        self._loop.call_soon(self._cancel_tasks)

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _finish(self, end: End) -> None:
        try:
            try:
                await self._let_go(end)
            except asyncio.CancelledError:  # The server stops, and waits no longer.
                if self._invocations is not None:
                    await self._invocations.end(0)
                if self._opening is not None:
                    await asyncio.wait([self._opening], timeout=0)
            if self._has_connected:
                try:
                    await self._life.on_disconnected(self, end.exception)
                except Exception as error:
                    self._log_error("on_disconnected()", error)
        finally:
            self._state = State.CLOSED
            try:
                await self._life.forget(self, end)
            finally:
                self._outbox = []
                self._unread.clear()
                self._ahead = None
                self._frames = None
                if self._next_turn is not None:
                    self._next_turn.cancel()  # pragma: no cover  # An end in between two turns.
                # These refer to this connection: memory is given back at once, and not some day.
                self._waiting = ()
                self._invocations = None  # type: ignore[assignment]
                self.transport = None
                if self._closed is not None:
                    self._closed.set_result(None)

    async def _let_go(self, end: End) -> None:
        """Have the last messages written, and end what still runs."""
        if self.transport is not None:
            writing = asyncio.ensure_future(self.transport.finish(end))
            try:
                await asyncio.wait([writing], timeout=self.options.close_timeout)
            finally:
                # As above, not before its first step: the transport waits for its end.
                self._loop.call_soon(writing.cancel)
        if self._invocations is not None and not await self._invocations.end(
            _END_TIMEOUT, grace=_GRACE
        ):
            logger.error(
                "A hub method has not ended %g s after its cancellation: path %.200a.",
                _END_TIMEOUT,
                self.scope["path"],
                extra=_logging.fields(self.scope),
            )
        if (opening := self._opening) is not None:
            await asyncio.wait([opening], timeout=_END_TIMEOUT)
            opening.cancel()
            await asyncio.wait([opening], timeout=_END_TIMEOUT)

    def _log_error(self, name: str, error: BaseException) -> None:
        if isinstance(error, HubException) or errors.is_one_line(error):
            logger.warning(
                "%s of a hub has raised %s: %.300a, path %.200a.",
                name,
                type(error).__name__,
                str(error),
                self.scope["path"],
                extra=_logging.fields(self.scope),
            )
            return
        logger.error(
            "%s of a hub has raised %s: path %.200a.",
            name,
            type(error).__name__,
            self.scope["path"],
            exc_info=error,
            extra=_logging.fields(self.scope),
        )

    def spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(coroutine)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)
        return task
