"""Requests that have come to another process than the owner of their connection.

The process that got a request sends its scope to the owner, and from then on the ASGI messages in
both directions. So no balancer in front has to send all requests of a client to one process.
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

from ws_support._hubs.letters import Kind, Letter, encode, read_messages
from ws_support.close_codes import CloseCode
from ws_support.exceptions import ClientGone, is_client_gone

logger = logging.getLogger("ws_support.hubs")

_WINDOW: Final = 8
"""Letters with messages that are on their way to the other side. Layers keep only so many."""

_MAX_WAITING: Final = 64 * 1024
"""Bytes of messages that wait for a letter. Then the sender waits."""

_OPEN_TIMEOUT: Final = 5.0
"""Seconds in which the owner of a connection has to answer."""

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

    `post` sends a letter to a worker; `serve` answers a request in this process.
    """

    def __init__(
        self,
        worker: str,
        post: Callable[[str, Letter], Awaitable[None]],
        serve: Callable[[Any, _Receive, _Send], Awaitable[None]],
    ) -> None:
        self._worker = worker
        self._post = post
        self._serve = serve
        self._ends: dict[str, _End] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        """True if nothing is being forwarded, in either direction."""
        return not self._ends

    async def forward(self, owner: str, scope: Any, receive: _Receive, send: _Send) -> bool:
        """Let `owner` answer a request. Return False if it does not answer.

        Raises `PublishError` when the broker does not take a message.
        """
        end = _End(self, secrets.token_urlsafe(12), owner)
        self._ends[end.id] = end
        tasks: list[asyncio.Task[None]] = []
        try:
            await end.post(Kind.OPEN, encode([_portable(scope)]))
            if not await end.is_taken(_OPEN_TIMEOUT):
                return False
            tasks = [
                asyncio.create_task(end.write()),
                asyncio.create_task(self._send_up(end, receive)),
            ]
            last = None
            while (message := await end.receive()) is not None:
                last = message
                await send(message)
            if end.is_lost:
                for message in _farewell(scope["type"], last):
                    await send(message)
            return True
        finally:
            del self._ends[end.id]
            end.stop()
            for task in tasks:
                task.cancel()
            if tasks:
                self._spawn(end.say_end())

    async def _send_up(self, end: _End, receive: _Receive) -> None:
        """Send what the client sends, until it has gone."""
        try:
            while True:
                message = await receive()
                await end.send(message)
                if message["type"].endswith(".disconnect"):
                    break
        except Exception as error:
            logger.debug("Not forwarded: %r", error)
        # The owner ends the request now.
        await asyncio.sleep(_LAST_TIMEOUT)
        end.close()

    def take(self, letter: Letter) -> None:
        """Take a letter that belongs to a request."""
        if letter.kind is Kind.OPEN:
            end = _End(self, letter.id, letter.sender)
            self._ends[end.id] = end
            self._spawn(self._answer(end, *read_messages(letter.body)))
        elif (known := self._ends.get(letter.id)) is not None:
            known.take(letter)

    async def _answer(self, end: _End, scope: Any) -> None:
        """Answer a request that another process has got."""
        end.is_for_application = scope["type"]
        writing = asyncio.create_task(end.write())
        try:
            await end.post(Kind.TAKEN)
            await self._serve(scope, end.receive_always, end.send)
            await end.flushed()
        except Exception as error:
            if not is_client_gone(error):
                logger.error(
                    "A request of another process has failed: path %.200a.",
                    scope["path"],
                    exc_info=error,
                )
        finally:
            del self._ends[end.id]
            end.stop()
            writing.cancel()
            await end.say_end()

    async def post(self, worker: str, letter: Letter) -> None:
        letter.sender = self._worker
        await self._post(worker, letter)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def spawn_alive(self, end: _End) -> None:
        self._spawn(end.say_alive())


class _End:
    """One of the two ends of a forwarded request."""

    is_for_application: str | None = None
    """The type of the scope, at the end where the application runs."""

    is_lost = False
    """True if the other end has gone without a word."""

    def __init__(self, forwarding: Forwarding, id: str, other: str) -> None:  # noqa: A002
        self._forwarding = forwarding
        self.id = id
        self._other = other
        self._loop = asyncio.get_running_loop()
        self._taken: asyncio.Future[None] = self._loop.create_future()
        self._letters: deque[Letter] = deque()
        self._messages: deque[dict[str, Any]] = deque()
        """The messages of the first letter, which is acknowledged when all are received."""
        self._last: dict[str, Any] | None = None
        """The message by which the application has heard of the end."""
        self._news = asyncio.Event()
        self._outbox: list[Raw] = []
        self._outbox_size = 0
        self._outgoing = asyncio.Event()
        self._is_posting = False
        self._room = asyncio.Event()
        self._sent = 0
        self._received = 0
        self._is_over = False
        self._heard_at = self._loop.time()
        self._timer = self._loop.call_later(_ALIVE_INTERVAL, self._look)

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
        if letter.kind is Kind.TAKEN:
            if not self._taken.done():
                self._taken.set_result(None)
        elif letter.kind is Kind.MESSAGE:
            # The other end sends no more than that, unless it is broken.
            if len(self._letters) <= _WINDOW:
                self._letters.append(letter)
            self._news.set()
        elif letter.kind is Kind.RECEIVED:
            self._received = letter.number
            self._outgoing.set()
        elif letter.kind is Kind.END:
            self.close()

    def close(self) -> None:
        """Note that the other end has gone. What it has sent before is still received."""
        self._is_over = True
        self._news.set()
        self._outgoing.set()
        self._room.set()

    async def send(self, message: Any) -> None:
        """Send an ASGI message. Raises `ClientGone` when nobody takes it."""
        while self._outbox_size > _MAX_WAITING and not self._is_over:
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), _SEND_TIMEOUT)
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
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._room.wait(), _SEND_TIMEOUT)

    async def write(self) -> None:
        """Send letters with all messages that wait, until the request is over."""
        while not self._is_over:
            if self._outbox and self._sent - self._received < _WINDOW:
                body = encode(self._outbox)
                self._outbox = []
                self._outbox_size = 0
                self._sent += 1
                self._is_posting = True
                try:
                    await self.post(Kind.MESSAGE, body, number=self._sent)
                except Exception as error:
                    # Without this letter, nothing behind it makes sense.
                    logger.debug("Not forwarded: %r", error)
                    self.close()
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
                self._messages.extend(read_messages(self._letters[0].body))
            elif self._is_over:
                return None
            else:
                self._news.clear()
                await self._news.wait()
        message = self._messages.popleft()
        if not self._messages:
            await self.post(Kind.RECEIVED, number=self._letters.popleft().number)
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
            self.is_lost = True
            self.close()
            return
        self._timer = self._loop.call_later(_ALIVE_INTERVAL, self._look)
        self._forwarding.spawn_alive(self)

    async def say_alive(self) -> None:
        await self._say(Kind.ALIVE)

    async def say_end(self) -> None:
        await self._say(Kind.END)

    async def _say(self, kind: Kind) -> None:
        try:
            await self.post(kind)
        except Exception as error:
            logger.debug("Not forwarded: %r", error)

    def stop(self) -> None:
        self._timer.cancel()


def _farewell(kind: str, last: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return what ends a request whose owner has gone after the message `last`."""
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
