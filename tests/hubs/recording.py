"""A hub that records what happens, and does what its client asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, ClassVar

from ws_support.hubs import Hub, HubException


class Recording(Hub[Any]):
    events: ClassVar[list[Any]] = []
    """What has happened, in order. `new_hub()` gives each class a list of its own."""
    gates: ClassVar[dict[str, asyncio.Event]] = {}

    @classmethod
    def gate(cls, name: str) -> asyncio.Event:
        return cls.gates.setdefault(name, asyncio.Event())

    async def on_connected(self) -> None:
        self.events.append("connected")

    async def on_disconnected(self, error: Exception | None) -> None:
        self.events.append(
            "disconnected" if error is None else f"disconnected: {type(error).__name__}: {error}"
        )

    async def echo(self, value: Any) -> Any:
        return value

    async def note(self, text: str) -> None:
        self.events.append(text)

    async def wait(self, name: str) -> str:
        """Wait for a gate, and say when that is cancelled."""
        self.events.append(f"{name} began")
        try:
            await self.gate(name).wait()
        except asyncio.CancelledError:
            self.events.append(f"{name} cancelled")
            raise
        return name

    async def stubborn(self) -> None:
        self.events.append("stubborn")
        while not self.gate("stubborn").is_set():
            with suppress(asyncio.CancelledError):
                await self.gate("stubborn").wait()

    async def fail(self) -> None:
        raise LookupError("the secret")

    async def fail_with(self, text: str) -> None:
        raise HubException(text)

    async def large(self, size: int) -> str:
        return "x" * size

    async def counter(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def endless(self) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        finally:
            self.events.append("endless ended")

    async def join(self, parts: AsyncIterator[str]) -> str:
        self.events.append("join began")
        try:
            return "".join([part async for part in parts])
        finally:
            self.events.append("join ended")

    async def abort(self) -> None:
        self.context.abort()

    async def abort_and_look(self) -> bool:
        self.context.abort()
        self.events.append(f"aborted: {self.context.is_aborted}")
        await self.clients.caller.send("TooLate")
        return True

    async def who(self) -> dict[str, Any]:
        context = self.context
        return {
            "id": context.connection_id,
            "user": context.user_identifier,
            "transport": context.transport,
            "path": context.scope["path"],
            "kwargs": context.scope["url_route"]["kwargs"],
        }

    async def ask(self, question: str) -> Any:
        return await self.clients.caller.invoke(Any, question)

    async def ask_in_time(self, question: str, timeout: float) -> Any:
        return await self.clients.caller.invoke(Any, question, timeout=timeout)


_gates: list[dict[str, asyncio.Event]] = []


def open_gates() -> None:
    """Let all methods go on, so that none is left after its test."""
    for gates in _gates:
        for each in gates.values():
            each.set()
    _gates.clear()


def new_hub(base: type[Any] = Recording, **options: Any) -> Any:
    """Return a hub with options and events of its own."""
    gates: dict[str, asyncio.Event] = {}
    _gates.append(gates)
    return type(base.__name__, (base,), {"options": options, "events": [], "gates": gates})
