"""A hub with one method for each behaviour, for the clients that tests connect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from tests.project.events import log
from ws_support.hubs import Hub, HubException, TopicsHub, authorize, hub_context


@dataclass
class Person:
    name: str
    born: datetime
    photo: bytes = b""
    id: UUID | None = None
    balance: Decimal = Decimal(0)


class Everything(Hub[Any]):
    async def on_connected(self) -> None:
        log("on_connected()", path=self.context.scope["path"], id=self.context.connection_id)
        self.context.items["count"] = 0
        self.context.items["go"] = asyncio.Event()
        await self.groups.add("everybody")

    async def on_disconnected(self, error: Exception | None) -> None:
        log(
            "on_disconnected()",
            path=self.context.scope["path"],
            id=self.context.connection_id,
            error=None if error is None else type(error).__name__,
        )

    async def echo(self, value: Any) -> Any:
        return value

    def echo_at_once(self, value: Any) -> Any:
        return value

    async def nothing(self) -> None: ...

    async def add(self, one: int, two: int) -> int:
        return one + two

    async def fail(self) -> None:
        raise LookupError("the secret")

    async def refuse(self) -> None:
        raise HubException("Not now")

    async def greet(self, person: Person) -> Person:
        return person

    async def count(self) -> int:
        self.context.items["count"] += 1
        count: int = self.context.items["count"]
        return count

    async def counter(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def counter_on_demand(self, count: int) -> AsyncIterator[int]:
        """Count from `go()` on: there are clients that listen only after they have asked."""
        await self.context.items["go"].wait()
        for number in range(count):
            yield number

    async def go(self) -> None:
        self.context.items["go"].set()

    async def endless(self) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
                await asyncio.sleep(0.01)
        finally:
            log("endless ended", path=self.context.scope["path"], id=self.context.connection_id)

    async def broken_stream(self) -> AsyncIterator[int]:
        yield 1
        raise HubException("Broken")

    async def join(self, parts: AsyncIterator[str]) -> str:
        return "".join([part async for part in parts])

    async def join_and_tell(self, parts: AsyncIterator[str]) -> None:
        """Join an upload stream for clients that wait for no answer to it."""
        await self.clients.caller.send("Told", await self.join(parts))

    async def double(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    async def ask(self, question: str) -> int:
        answer: int = await self.clients.caller.invoke(int, question, timeout=10)
        return answer

    async def who(self) -> dict[str, Any]:
        context = self.context
        return {
            "id": context.connection_id,
            "user": context.user_identifier,
            "transport": context.transport,
        }

    async def tell(self, selector: str, arguments: list[Any], text: str) -> None:
        chosen = getattr(self.clients, selector)
        if selector not in ("all", "caller", "others"):
            chosen = chosen(*arguments)
        await chosen.send("Told", text)

    async def tell_from_outside(self, group: str, text: str) -> None:
        await hub_context(Everything).clients.group(group).send("Told", text)

    async def enter(self, group: str) -> None:
        await self.groups.add(group)

    async def leave(self, group: str) -> None:
        await self.groups.remove(group)

    async def header(self, name: str) -> str | None:
        for each, value in self.context.scope["headers"]:
            if each == name.lower().encode():
                return value.decode()  # type: ignore[no-any-return]
        return None

    @authorize()
    async def for_users(self) -> str:
        return "for users"

    async def wait(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "waited"

    async def large(self, size: int) -> str:
        return "x" * size

    async def abort(self) -> None:
        self.context.abort()

    async def unsendable(self) -> object:
        return object()


class Detailed(Everything):
    options = {"ENABLE_DETAILED_ERRORS": True}


@authorize()
class Closed(Hub[Any]):
    async def echo(self, value: Any) -> Any:
        return value


class Stateful(Everything):
    options = {"ALLOW_STATEFUL_RECONNECTS": True, "STATEFUL_RECONNECT_BUFFER_SIZE": 10**6}


@authorize(permission="hubs.administer")
class ForAdmins(Closed):
    pass


class Pinging(Everything):
    options = {"KEEP_ALIVE_INTERVAL": 0.1, "POLL_TIMEOUT": 0.1}


class Impatient(Everything):
    options = {"CLIENT_TIMEOUT_INTERVAL": 1}


class Polled(Everything):
    options = {"TRANSPORTS": ["LongPolling"]}


class OnWebSockets(Everything):
    options = {"TRANSPORTS": ["WebSockets"]}


class SlowToClose(Everything):
    options = {"CLOSE_TIMEOUT": 120}


class SoonGivenUp(Everything):
    options = {"CLOSE_TIMEOUT": 0.1, "DISCONNECT_TIMEOUT": 1}


HUBS = {
    "hub": Everything,
    "detailed-hub": Detailed,
    "closed-hub": Closed,
    "admins-hub": ForAdmins,
    "pinging-hub": Pinging,
    "impatient-hub": Impatient,
    "polled-hub": Polled,
    "websockets-hub": OnWebSockets,
    "slow-to-close-hub": SlowToClose,
    "soon-given-up-hub": SoonGivenUp,
    "stateful-hub": Stateful,
    "logged-hub": Everything,
    "topics-hub": TopicsHub,
}


class _User:
    """A user who is whoever the client says."""

    is_authenticated = True

    def __init__(self, name: str) -> None:
        self.pk = name

    async def ahas_perms(self, permissions: Any) -> bool:
        return self.pk == "admin"


class _Nobody:
    is_authenticated = False
    pk = None


def anonymous(application: Any) -> Any:
    """Put a user into the scope who is nobody, as AuthMiddlewareStack does without a session."""

    async def with_nobody(scope: Any, receive: Any, send: Any) -> None:
        await application({**scope, "user": _Nobody()}, receive, send)

    return with_nobody


async def authenticate(token: str) -> _User | None:
    """Return the user with the name that the token is."""
    return None if token == "wrong" else _User(token)


def get_user(identifier: str) -> _User | None:
    return None if identifier == "gone" else _User(identifier)


class LoggedPolls:
    """Says of each poll at `/logged-hub` that it has come."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_get = scope["type"] == "http" and scope["method"] == "GET"
        is_stream = (b"accept", b"text/event-stream") in scope.get("headers", ())
        if scope.get("path") == "/logged-hub" and is_get and not is_stream:
            log("poll", path=scope["path"])
        await self._application(scope, receive, send)
