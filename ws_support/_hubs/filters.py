"""Filters: code around the calls of a hub, its connects and its disconnects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import Any


@dataclass
class HubInvocation:
    """A call of a hub method by a client, for a filter."""

    hub: Any
    """The instance of the hub, with `context`, `clients` and `groups`."""
    method: str
    """The name of the method in the class."""
    arguments: Sequence[Any]
    """What the method is called with. A filter may replace it."""


class HubFilter:
    """Code around what a hub does. Override what you need, and call `call_next` to go on::

        class Timing(HubFilter):
            async def invoke(self, invocation, call_next):
                start = perf_counter()
                try:
                    return await call_next(invocation)
                finally:
                    logger.info("%s: %.3f s", invocation.method, perf_counter() - start)

        class Chat(Hub):
            filters = [Timing()]

    The first filter of the list is the outermost. An exception ends a call as one of the method
    does: raise `HubException` for a text that the client may read.
    """

    async def invoke(
        self, invocation: HubInvocation, call_next: Callable[[HubInvocation], Awaitable[Any]]
    ) -> Any:
        """Return the result of a method. Of a stream, it is the asynchronous iterator."""
        return await call_next(invocation)

    async def on_connected(self, hub: Any, call_next: Callable[[], Awaitable[None]]) -> None:
        """Run around `on_connected()` of the hub."""
        await call_next()

    async def on_disconnected(
        self,
        hub: Any,
        error: Exception | None,
        call_next: Callable[[Exception | None], Awaitable[None]],
    ) -> None:
        """Run around `on_disconnected()` of the hub."""
        await call_next(error)


def invoke(
    filters: Sequence[HubFilter], function: Callable[..., Any], hub: Any, arguments: Sequence[Any]
) -> Awaitable[Any]:
    """Call a method of a hub through filters."""

    async def call(invocation: HubInvocation) -> Any:
        result = function(invocation.hub, *invocation.arguments)
        return await result if isawaitable(result) else result

    chain: Callable[[HubInvocation], Awaitable[Any]] = call
    for each in reversed(filters):
        chain = partial(_invoke, each, chain)
    return chain(HubInvocation(hub, function.__name__, arguments))


def _invoke(
    each: HubFilter, chain: Callable[[HubInvocation], Awaitable[Any]], invocation: HubInvocation
) -> Awaitable[Any]:
    return each.invoke(invocation, chain)


async def connect(filters: Sequence[HubFilter], hub: Any) -> None:
    """Call `on_connected()` of a hub through filters."""
    chain: Callable[[], Awaitable[None]] = hub.on_connected
    for each in reversed(filters):
        chain = partial(each.on_connected, hub, chain)
    await chain()


async def disconnect(filters: Sequence[HubFilter], hub: Any, error: Exception | None) -> None:
    """Call `on_disconnected()` of a hub through filters."""
    chain: Callable[[Exception | None], Awaitable[None]] = hub.on_disconnected
    for each in reversed(filters):
        chain = partial(_disconnect, each, hub, chain)
    await chain(error)


def _disconnect(
    each: HubFilter,
    hub: Any,
    chain: Callable[[Exception | None], Awaitable[None]],
    error: Exception | None,
) -> Awaitable[None]:
    return each.on_disconnected(hub, error, chain)
