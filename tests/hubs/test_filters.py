"""Filters around the calls, the connects and the disconnects of a hub."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from tests.hubs.clients import Socket, router
from tests.hubs.recording import Recording, new_hub
from ws_support._hubs import filters
from ws_support._hubs.messages import Completion, StreamInvocation, StreamItem
from ws_support.hubs import Hub, HubException, HubFilter, HubRouter


class Note(HubFilter):
    """Notes what goes through it."""

    def __init__(self, name: str, notes: list[Any]) -> None:
        self.name = name
        self.notes = notes

    async def invoke(self, invocation, call_next):
        self.notes.append((self.name, invocation.method, list(invocation.arguments)))
        invocation.arguments = [*invocation.arguments[:-1], invocation.arguments[-1] + 1]
        return 10 * await call_next(invocation)

    async def on_connected(self, hub, call_next):
        self.notes.append((self.name, "before"))
        await call_next()
        self.notes.append((self.name, "after"))

    async def on_disconnected(self, hub, error, call_next):
        self.notes.append((self.name, error))
        await call_next(None)


class Guard(HubFilter):
    async def invoke(self, invocation, call_next):
        raise HubException("not today")


class Calls(Hub[Any]):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def add(self, one: int, two: int) -> int:
        return one + two

    def add_at_once(self, one: int, two: int) -> int:
        return one + two

    async def on_connected(self) -> None:
        self.heard.append("connected")

    async def on_disconnected(self, error: Exception | None) -> None:
        self.heard.append(error)


@pytest.mark.parametrize("method", [Calls.add, Calls.add_at_once])
async def test_the_first_filter_is_the_outermost_and_may_change_arguments_and_result(method):
    notes: list[Any] = []
    chain = [Note("outer", notes), Note("inner", notes)]
    assert await filters.invoke(chain, method, Calls(), (1, 2)) == 500
    name = method.__name__
    assert notes == [("outer", name, [1, 2]), ("inner", name, [1, 3])]


async def test_a_filter_may_refuse_a_call():
    with pytest.raises(HubException, match="not today"):
        await filters.invoke([HubFilter(), Guard()], Calls.add, Calls(), (1, 2))


async def test_filters_are_around_connects_and_disconnects():
    notes: list[Any] = []
    hub = Calls()
    chain = [Note("outer", notes), HubFilter(), Note("inner", notes)]
    await filters.connect(chain, hub)
    assert notes == [(n, w) for n, w in [("outer", "before"), ("inner", "before")]] + [
        ("inner", "after"),
        ("outer", "after"),
    ]
    notes.clear()
    error = LookupError()
    await filters.disconnect([*chain, HubFilter()], hub, error)
    assert notes == [("outer", error), ("inner", None)]
    assert hub.heard == ["connected", None]


def test_a_filter_that_is_none_is_an_error_of_the_router():
    class Wrong(Hub[Any]):
        filters = [Note]

    with pytest.raises(ImproperlyConfigured, match=r"Wrong\.filters holds <class .*Note'>, which"):
        HubRouter(None, {"wrong": Wrong})


def test_one_filter_without_a_list_is_an_error_of_the_router():
    class Wrong(Hub[Any]):
        filters = HubFilter()  # type: ignore[assignment]

    with pytest.raises(ImproperlyConfigured, match=r"Wrong\.filters has to be a list"):
        HubRouter(None, {"wrong": Wrong})


async def test_filters_are_around_streams_as_well(problems):
    class Counting(Recording):
        filters = [HubFilter()]

    async with Socket(router(new_hub(Counting))) as socket:
        await socket.shake_hands()
        await socket.put_message(StreamInvocation("counter", [2], "1"))
        items = [await socket.next() for _ in range(3)]
    assert items == [StreamItem("1", 0), StreamItem("1", 1), Completion("1")]
