"""Requests that have come to another process than the owner of their connection.

The process that got a request sends its scope to the owner, and from then on the ASGI messages in
both directions. So no balancer in front has to send all requests of a client to one process. A poll
that is answered at once, as a POST, takes two letters.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

from msgspec import Raw

from ws_support._connection.registry import open_connections
from ws_support._hubs.letters import Kind, Letter, encode, read_messages
from ws_support.close_codes import CloseCode
from ws_support.exceptions import ClientGone, is_client_gone

logger = logging.getLogger("ws_support.hubs")

RETURN: Final = "ws_support.return"
"""The type of the message that asks for an answer to a poll, whatever there is."""

_WINDOW: Final = 8
"""Letters with messages that are on their way to the other side. Layers keep only so many."""

_STEP: Final = _WINDOW // 2
"""Letters after which the other side hears that they have been received."""

_MAX_WAITING: Final = 64 * 1024
"""Bytes of messages that wait for a letter. Then the sender waits."""

_OPEN_TIMEOUT: Final = 5.0
"""Seconds in which the owner of a connection has to answer."""

_TAKEN_DELAY: Final = 0.05
"""Seconds after which the owner says that it is there, if it has not answered."""

_SEND_TIMEOUT: Final = 10.0
"""Seconds in which the other side has to take a message."""

_ALIVE_INTERVAL: Final = 10.0
"""Seconds between two signs of life."""

_SILENCE: Final = 25.0
"""Seconds of silence after which the other side is taken for gone."""

_LAST_TIMEOUT: Final = 5.0
"""Seconds in which the owner has to end after the client has gone."""

_SCOPE_KEYS: Final = (
    "type",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "client",
    "server",
    "subprotocols",
)

_Receive = Callable[[], Awaitable[Any]]
_Send = Callable[[Any], Awaitable[None]]


class Forwarding:
    """Forwards requests to the owners of their connections, and serves those of other processes.

    `open_mailbox` has letters for this process come in, `close_mailbox` no more unless something
    needs them; `post` sends one to a worker; `serve` answers a request in this process.
    """

    def __init__(
        self,
        worker: str,
        open_mailbox: Callable[[], Awaitable[None]],
        close_mailbox: Callable[[], Awaitable[None]],
        post: Callable[[str, Letter], Awaitable[None]],
        serve: Callable[[Any, _Receive, _Send], Awaitable[None]],
    ) -> None:
        self._worker = worker
        self._open_mailbox = open_mailbox
        self._close_mailbox = close_mailbox
        self._post = post
        self._serve = serve
        self._ends: dict[str, _End] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        """True if nothing is being forwarded, in either direction."""
        return not self._ends

    async def forward(
        self, owner: str, scope: Any, first: Any, receive: _Receive, send: _Send
    ) -> bool:
        """Let `owner` answer a request, whose `first` message has come.

        Return False if it does not answer: nothing has been sent then. Raises `PublishError` when
        the broker does not take the request.
        """
        end = self._begin(secrets.token_urlsafe(12), owner)
        end.is_poll = scope.get("method") == "GET"
        open_connections.accepted(end)
        tasks: list[asyncio.Task[None]] = []
        has_posted = False
        try:
            # Not before: it is closed while nothing is being forwarded.
            await self._open_mailbox()
            has_posted = True
            await end.post(Kind.OPEN, encode([_portable(scope), first]))
            tasks = [
                asyncio.create_task(end.write()),
                asyncio.create_task(self._send_up(end, receive)),
            ]
            if not await end.is_taken(_OPEN_TIMEOUT):
                return False
            last = None
            while (message := await end.receive()) is not None:
                last = message
                await asyncio.wait_for(send(_of_this_process(message, scope)), _SEND_TIMEOUT)
            if not end.has_client_left:
                for message in _farewell(scope["type"], last):
                    await asyncio.wait_for(send(message), _SEND_TIMEOUT)
            return True
        except asyncio.TimeoutError:
            logger.debug("A client reads nothing of a forwarded request.")
            return True
        finally:
            self._finish(end)
            for task in tasks:
                task.cancel()
            if has_posted:
                self._spawn(end.say_end())
            await self._close_mailbox()

    async def _send_up(self, end: _End, receive: _Receive) -> None:
        """Send what the client sends, until it has gone, or the owner takes no more."""
        while not end.has_client_left:
            try:
                message = await receive()
            except Exception as error:
                logger.debug("Not forwarded: %r", error)
                end.has_client_left = True
                break
            if message["type"] == "websocket.disconnect" and open_connections.is_draining:
                # It is this process that ends: the client may go on in another one.
                message = {**message, "code": int(CloseCode.ABNORMAL_CLOSURE)}
            end.has_client_left = message["type"].endswith(".disconnect")
            try:
                # An owner that is busy keeps its clients waiting.
                await end.send_patiently(message)
            except ClientGone:
                return
        # The owner ends the request now.
        await asyncio.sleep(_LAST_TIMEOUT)
        end.close()

    def take(self, letter: Letter) -> None:
        """Take a letter that belongs to a request."""
        if letter.kind is Kind.OPEN:
            end = self._begin(letter.id, letter.sender)
            self._spawn(self._answer(end, *read_messages(letter.body)))
        elif (known := self._ends.get(letter.id)) is not None:
            known.take(letter)

    def miss(self) -> None:
        """End all requests, since a letter was lost: it may be of any of them."""
        for end in tuple(self._ends.values()):
            end.cancel()

    async def _answer(self, end: _End, scope: Any, first: Any) -> None:
        """Answer a request that another process has got."""
        end.is_for_application = scope["type"]
        end.put(first)
        writing = asyncio.create_task(end.write())
        is_there = asyncio.get_running_loop().call_later(_TAKEN_DELAY, self._say_taken, end)
        try:
            await self._serve(scope, end.receive_always, end.send)
            end.is_complete = True
            await end.flushed()
        except Exception as error:
            if not is_client_gone(error):
                logger.error(
                    "A request of another process has failed: path %.200a.",
                    scope["path"],
                    exc_info=error,
                )
        finally:
            is_there.cancel()
            writing.cancel()
            await end.say_end()
            # Not before: this process may end as soon as it has nothing open any more.
            self._finish(end)
            await self._close_mailbox()

    def _say_taken(self, end: _End) -> None:
        if not end.has_sent:
            self._spawn(end.say(Kind.TAKEN))

    def _begin(self, id_: str, other: str) -> _End:
        end = self._ends[id_] = _End(self, id_, other)
        open_connections.add(end)
        return end

    def _finish(self, end: _End) -> None:
        del self._ends[end.id]
        end.stop()
        open_connections.remove(end)

    async def post(self, worker: str, letter: Letter) -> None:
        letter.sender = self._worker
        await self._post(worker, letter)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def spawn_alive(self, end: _End) -> None:
        self._spawn(end.say(Kind.ALIVE))


class _End:
    """One of the two ends of a forwarded request."""

    is_for_application: str | None = None
    """The type of the scope, at the end where the application runs."""

    has_client_left = False
    """True if nobody is there who could be answered, at the end where the request came."""

    is_poll = False
    """True if the request may be answered with nothing, at the end where it came."""

    is_complete = False
    """True if nothing follows what has been sent."""

    def __init__(self, forwarding: Forwarding, id: str, other: str) -> None:  # noqa: A002
        self._forwarding = forwarding
        self.id = id
        self._other = other
        self._loop = asyncio.get_running_loop()
        self._taken: asyncio.Future[None] = self._loop.create_future()
        self._letters: deque[Letter] = deque()
        self._reading: Letter | None = None
        """The first letter, when its messages have been taken out."""
        self._messages: deque[dict[str, Any]] = deque()
        """What is received next."""
        self._last: dict[str, Any] | None = None
        """The message by which the application has heard of the end."""
        self._news = asyncio.Event()
        self._outbox: list[Raw] = []
        self._outbox_size = 0
        self._outgoing = asyncio.Event()
        self._is_posting = False
        self._room = asyncio.Event()
        self._sent = 0
        self._taken_in = 0
        """Letters with messages that have come."""
        self._received = 0
        self._is_over = False
        """True if the other end takes nothing any more."""
        self._has_said_end = self._has_heard_end = False
        self._heard_at = self._loop.time()
        self._timer = self._loop.call_later(_ALIVE_INTERVAL, self._look)

    @property
    def has_sent(self) -> bool:
        return self._sent > 0

    def put(self, message: dict[str, Any]) -> None:
        """Put a message in front of those that come in letters."""
        self._messages.append(message)

    async def post(self, kind: Kind, body: bytes = b"", *, number: int = 0) -> None:
        letter = Letter(kind, self.id, number=number, body=body)
        await self._forwarding.post(self._other, letter)

    async def is_taken(self, timeout: float) -> bool:
        """Return True once the owner has taken the request, and False if it does not in time."""
        await asyncio.wait([self._taken], timeout=timeout)
        return self._taken.done()

    def take(self, letter: Letter) -> None:
        """Take a letter of the other end."""
        self._heard_at = self._loop.time()
        if not self._taken.done():
            self._taken.set_result(None)
        if letter.kind in (Kind.MESSAGES, Kind.LAST):
            if self._is_over:
                return
            self._taken_in += 1
            # The other end sends no more than that, unless it is broken.
            if letter.number != self._taken_in or len(self._letters) > _WINDOW:
                self.cancel()  # One was lost: what is behind it makes no sense.
                return
            self._letters.append(letter)
            self._news.set()
        elif letter.kind is Kind.RECEIVED:
            self._received = letter.number
            self._outgoing.set()
        if letter.kind in (Kind.LAST, Kind.END):
            self._has_heard_end = True
            self.close()

    def close(self) -> None:
        """Note that the other end has gone. What it has sent before is still received."""
        self._is_over = True
        self._news.set()
        self._outgoing.set()
        self._room.set()

    async def send(self, message: Any) -> None:
        """Send an ASGI message. Raises `ClientGone` when nobody takes it in time."""
        await self._send(message, _SEND_TIMEOUT)

    async def send_patiently(self, message: Any) -> None:
        """Send an ASGI message. Raises `ClientGone` after the end."""
        await self._send(message, None)

    async def _send(self, message: Any, timeout: float | None) -> None:
        while self._outbox_size > _MAX_WAITING and not self._is_over:
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), timeout)
            except asyncio.TimeoutError:
                raise ClientGone("The other process does not take what is forwarded.") from None
        if self._is_over:
            await asyncio.sleep(0)
            raise ClientGone("The client has left.")
        data = encode(message)
        self._outbox.append(Raw(data))
        self._outbox_size += len(data)
        self._outgoing.set()

    async def flushed(self) -> None:
        """Wait until everything has been sent, or cannot be."""
        while (self._outbox or self._is_posting) and not self._is_over:
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), _SEND_TIMEOUT)
            except asyncio.TimeoutError:
                logger.debug("Not forwarded: the other process does not take it.")
                self.close()

    async def write(self) -> None:
        """Send letters with all messages that wait, until the request is over."""
        while not self._is_over:
            if self._outbox and self._sent - self._received < _WINDOW:
                kind = Kind.LAST if self.is_complete else Kind.MESSAGES
                body = encode(self._outbox)
                self._outbox = []
                self._outbox_size = 0
                self._sent += 1
                self._is_posting = True
                try:
                    await self.post(kind, body, number=self._sent)
                    self._has_said_end |= kind is Kind.LAST
                except Exception as error:
                    # Without this letter, nothing behind it makes sense.
                    logger.debug("Not forwarded: %r", error)
                    self.cancel()
                finally:
                    self._is_posting = False
                self._room.set()
            else:
                self._outgoing.clear()
                await self._outgoing.wait()

    async def receive(self) -> dict[str, Any] | None:
        """Return the next ASGI message, or None after the last one."""
        while not self._messages:
            if self._letters:
                self._reading = self._letters[0]
                self._messages.extend(read_messages(self._reading.body))
            elif self._is_over:
                return None
            else:
                self._news.clear()
                await self._news.wait()
        message = self._messages.popleft()
        if not self._messages and self._reading is not None:
            self._letters.popleft()
            number, self._reading = self._reading.number, None
            if number % _STEP == 0 and not self._is_over:
                try:
                    await self.post(Kind.RECEIVED, number=number)
                except Exception as error:
                    logger.debug("Not forwarded: %r", error)
                    self.cancel()
        return message

    async def receive_always(self) -> dict[str, Any]:
        """Return the next message for an application, which after the end is always the same."""
        if self._last is not None:
            await asyncio.sleep(0)
            return self._last
        message = await self.receive()
        if message is None:
            message = {"type": f"{self.is_for_application}.disconnect"}
            if self.is_for_application == "websocket":
                message["code"] = int(CloseCode.ABNORMAL_CLOSURE)
        if message["type"].endswith(".disconnect"):
            self._last = message
        return message

    # Signs of life

    def _look(self) -> None:
        if self._loop.time() - self._heard_at > _SILENCE:
            self.close()
            return
        self._timer = self._loop.call_later(_ALIVE_INTERVAL, self._look)
        self._forwarding.spawn_alive(self)

    async def say_end(self) -> None:
        if not self._has_said_end and not self._has_heard_end:
            await self.say(Kind.END)

    async def say(self, kind: Kind) -> None:
        try:
            await self.post(kind)
        except Exception as error:
            logger.debug("Not forwarded: %r", error)

    def stop(self) -> None:
        self._timer.cancel()

    # For the registry of open connections

    async def drain(self, code: int, reason: str) -> None:
        """Have a poll answered, since this process stops: the client polls another one."""
        if self.is_poll:
            with suppress(ClientGone):
                await self.send({"type": RETURN})

    def cancel(self) -> None:
        """End the request as if the other end had gone."""
        if not self._taken.done():
            self._taken.set_result(None)  # Nobody answers any more.
        self.close()


def _of_this_process(message: Any, scope: Any) -> Any:
    """Return a message for the client. A process that stops wants no more requests of it."""
    if (
        message["type"] == "http.response.start"
        and open_connections.is_draining
        and scope.get("http_version", "1.1").startswith("1")
    ):
        return {**message, "headers": [*message["headers"], (b"connection", b"close")]}
    return message


def _farewell(kind: str, last: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return what ends a request whose owner has gone after the message `last`: often nothing."""
    if kind == "websocket":
        if last is not None and last["type"] not in ("websocket.accept", "websocket.send"):
            return []
        # Before it was accepted, a refusal.
        return [{"type": "websocket.close", "code": int(CloseCode.INTERNAL_ERROR), "reason": ""}]
    end = {"type": "http.response.body", "body": b"", "more_body": False}
    if last is None:
        status = int(HTTPStatus.BAD_GATEWAY)
        return [{"type": "http.response.start", "status": status, "headers": []}, end]
    is_over = last["type"] == "http.response.body" and not last.get("more_body", False)
    return [] if is_over else [end]


def _portable(scope: Any) -> dict[str, Any]:
    """Return what another process needs of a scope."""
    portable = {key: scope[key] for key in _SCOPE_KEYS if key in scope}
    extensions = scope.get("extensions") or {}
    name = "websocket.http.response"
    portable["extensions"] = {name: {}} if name in extensions else {}
    portable["asgi"] = {"version": "3.0"}
    return portable
