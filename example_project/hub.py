"""The page at /hub and its hub: a chat, and streams in both directions."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from example_project.live import CONTENT_SECURITY_POLICY
from ws_support.hubs import Hub, HubException, PublishError

MAX_NAME = 40
"""Characters of a name."""

MAX_TEXT = 500
"""Characters of a message."""

MAX_LINE = 4_000
"""Characters of one line that is uploaded."""

MAX_LINES = 10_000
"""Lines of one upload."""

LARGEST = 1e15
"""The largest number of an upload that counts as one. Sums stay finite: JSON has no infinity."""

SHORTEST, LONGEST = 0.02, 5.0
"""Seconds between two items of a stream."""

_NAME = "name"
"""The key in `context.items` for the name of whoever takes part in the chat."""


@dataclass
class Server:
    """What a page is told of the other side of its connection."""

    process: int
    transport: str


@dataclass
class Summary:
    """What the lines of an upload add up to. Those that are no number count as lines only."""

    lines: int = 0
    characters: int = 0
    numbers: int = 0
    sum: float = 0.0


class Page(Protocol):
    """The methods of a page, which the hub calls: `Came`, `Went` and `Said`."""

    async def came(self, name: str, time: str) -> None: ...

    async def went(self, name: str, time: str) -> None: ...

    async def said(self, name: str, text: str, time: str) -> None: ...


class Chat(Hub[Page]):
    """Keeps no history: what is said reaches the pages that are connected."""

    async def describe(self) -> Server:
        """Return which process this is, and the transport that the connection uses."""
        return Server(os.getpid(), self.context.transport)

    # The chat

    async def join(self, name: str) -> str:
        """Let the caller take part under a name. Return the name as the others see it."""
        name = _checked(" ".join(name.split()), "name", MAX_NAME)
        await self.leave()
        await _announced(self.clients.all.came(name, _now()))
        self.context.items[_NAME] = name
        return name

    async def leave(self) -> None:
        """Let the caller only read, from now on."""
        name = self.context.items.pop(_NAME, None)
        if name is not None:
            await _announced(self.clients.all.went(name, _now()))

    async def say(self, text: str) -> None:
        """Send a message of the caller to everybody."""
        name = self.context.items.get(_NAME)
        if name is None:
            raise HubException("Join first: a message needs the name of its sender.")
        text = _checked(text, "message", MAX_TEXT)
        await _announced(self.clients.all.said(name, text, _now()))

    async def on_disconnected(self, error: Exception | None) -> None:
        with suppress(HubException):  # Nobody is there any more who could be told.
            await self.leave()

    # A stream from the server

    async def delays(self, interval: float) -> AsyncIterator[float]:
        """Yield how late this process wakes from a sleep of `interval` seconds, in milliseconds.

        That is how long whatever is ready to run in the event loop has to wait for its turn.
        """
        if not SHORTEST <= interval <= LONGEST:
            raise HubException(
                f"The interval is {interval:g} s, and has to be from {SHORTEST:g} to {LONGEST:g} s."
            )
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + interval
            await asyncio.sleep(interval)
            # Timers of uvloop may be early by a millisecond.
            yield 1000 * max(loop.time() - due, 0)

    # A stream to the server, and one back

    async def add_up(self, lines: AsyncIterator[str]) -> AsyncIterator[Summary]:
        """Yield what the lines add up to: after each thousand of them, and at their end."""
        summary = Summary()
        async for line in lines:
            if summary.lines == MAX_LINES:
                raise HubException(f"There are more than {MAX_LINES:,} lines.")
            if len(line) > MAX_LINE:
                raise HubException(
                    f"Line {summary.lines + 1:,} has {len(line):,} characters, and {MAX_LINE:,} are"
                    " the most."
                )
            summary.lines += 1
            summary.characters += len(line)
            number = _number(line)
            if number is not None:
                summary.numbers += 1
                summary.sum += number
            if not summary.lines % 1000:
                yield summary
        yield summary


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    nonce = secrets.token_urlsafe(16)
    context = {"nonce": nonce, "max_line": MAX_LINE}
    response = render(request, "example_project/hub.html", context)
    response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY.format(nonce=nonce)
    return response


async def _announced(sending: Awaitable[None]) -> None:
    """Await what is sent to everybody, and tell the caller if that fails."""
    try:
        await sending
    except PublishError:
        raise HubException("Not sent, or not to everybody: the channel layer is away.") from None


def _checked(text: str, what: str, most: int) -> str:
    """Return the text without white space at its ends. Raises `HubException` for a wrong length."""
    text = text.strip()
    if not text:
        raise HubException(f"The {what} is empty.")
    if len(text) > most:
        raise HubException(f"The {what} has {len(text)} characters, and {most} are the most.")
    return text


def _number(line: str) -> float | None:
    try:
        number = float(line)
    except ValueError:
        return None
    # Not of NaN either, with which every comparison is false.
    return number if abs(number) <= LARGEST else None


def _now() -> str:
    return timezone.now().isoformat()
