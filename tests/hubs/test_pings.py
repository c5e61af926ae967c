"""The pings of many connections, with one timer."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from ws_support._hubs import pings
from ws_support._hubs.pings import Pings
from ws_support.testing import BOUND

pytestmark = pytest.mark.usefixtures("problems")


class Connection:
    def __init__(self) -> None:
        self.pinged: list[float] = []

    def ping(self) -> None:
        self.pinged.append(time.monotonic())


async def until_pinged(connections: list[Connection], times: int) -> None:
    deadline = time.monotonic() + BOUND
    while min(len(each.pinged) for each in connections) < times:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_each_connection_has_its_interval():
    its = Pings(0.1)
    began_at = time.monotonic()
    connections = [Connection() for _ in range(10)]
    for each in connections:
        its.add(each)
        await asyncio.sleep(0.01)
    await until_pinged(connections, 3)
    for number, each in enumerate(connections):
        first = each.pinged[0] - began_at
        assert first >= 0.1 + 0.01 * number
        assert all(after - before >= 0.09 for before, after in pairwise(each.pinged))


async def test_who_has_ended_is_pinged_no_more():
    its = Pings(0.02)
    connections = [Connection() for _ in range(3)]
    for each in connections:
        its.add(each)
    its.discard(connections[0])
    its.discard(connections[0])
    await until_pinged(connections[1:], 3)
    assert connections[0].pinged == []
    for each in connections[1:]:
        its.discard(each)
    assert its._timer is None
    its.add(connections[0])
    await until_pinged(connections[:1], 1)
    its.discard(connections[0])


async def test_a_connection_may_end_while_it_is_pinged():
    its = Pings(0.01)
    connection = Connection()
    pinged = asyncio.Event()

    def ping() -> None:
        its.discard(connection)
        pinged.set()

    connection.ping = ping  # type: ignore[method-assign]
    its.add(connection)
    await asyncio.wait_for(pinged.wait(), BOUND)
    await asyncio.sleep(0.05)
    assert its._timer is None


async def test_a_connection_may_end_another_one_with_its_ping():
    its = Pings(0.01)
    connections = [Connection() for _ in range(3)]
    connections[0].ping = lambda: its.discard(connections[1])  # type: ignore[method-assign]
    for each in connections:
        its.add(each)
    await until_pinged(connections[2:], 2)
    assert connections[1].pinged == []
    for each in connections:
        its.discard(each)


@pytest.mark.parametrize("count", [10, 25])
async def test_others_have_their_turn_between_many(monkeypatch, count):
    monkeypatch.setattr(pings, "_MOST_AT_ONCE", 10)
    its = Pings(0.02)
    turns = 0
    connections = [Connection() for _ in range(count)]
    for each in connections:
        its.add(each)
    loop = asyncio.get_running_loop()

    def turn() -> None:
        nonlocal turns
        turns += 1
        if not all(each.pinged for each in connections):
            loop.call_soon(turn)

    before = 0
    original = connections[0].ping

    def first() -> None:
        nonlocal before
        before = turns
        loop.call_soon(turn)
        original()

    connections[0].ping = first  # type: ignore[method-assign]
    await until_pinged(connections, 1)
    assert turns - before >= (count - 1) // 10
    for each in connections:
        its.discard(each)
