"""Broadcasts of synchronous code, at once and when a transaction is committed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from django.db import connections, transaction
from django.test import override_settings

from tests.peers import connected
from tests.project.live import Prices
from ws_support import broadcast as module
from ws_support.broadcast import (
    broadcast_json_on_commit,
    broadcast_json_sync,
    broadcast_on_commit,
    broadcast_sync,
)


@pytest.fixture
def database(tmp_path, monkeypatch, django_db_blocker):
    options = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "database.sqlite3")}
    settings = connections.configure_settings({"default": options})
    monkeypatch.setitem(connections.settings, "orders", settings["default"])
    with django_db_blocker.unblock():
        yield "orders"


@pytest.fixture
def in_thread():
    """Run a function in a thread that has connections to databases of its own."""
    with ThreadPoolExecutor(max_workers=1) as executor:

        async def run(function, *arguments, **named):
            future = executor.submit(function, *arguments, **named)
            return await asyncio.wrap_future(future)

        yield run
        executor.submit(connections.close_all).result()


@pytest.mark.parametrize(
    ("function", "message", "text"),
    [
        (broadcast_sync, "1.08", "1.08"),
        (broadcast_json_sync, {"EUR": Decimal("1.08")}, '{"EUR": "1.08"}'),
    ],
)
async def test_a_thread_broadcasts(in_thread, function, message, text):
    async with connected(Prices.as_asgi()) as peer:
        await in_thread(function, "prices", message)
        assert await peer.texts(1) == [text]


@pytest.mark.parametrize(
    ("function", "message", "text"),
    [
        (broadcast_on_commit, "1.08", "1.08"),
        (broadcast_json_on_commit, {"EUR": Decimal("1.08")}, '{"EUR": "1.08"}'),
    ],
)
async def test_what_is_committed_is_broadcast_and_what_is_rolled_back_is_not(
    in_thread, database, function, message, text
):
    def commit():
        with transaction.atomic(using=database):
            function("prices", message, using=database)
            broadcast_sync("prices", "first")

    def roll_back():
        with transaction.atomic(using=database):
            function("prices", message, using=database)
            transaction.set_rollback(True, using=database)

    async with connected(Prices.as_asgi()) as peer:
        await in_thread(roll_back)
        await in_thread(commit)
        await in_thread(function, "prices", message, using=database)
        assert await peer.texts(3) == ["first", text, text]


async def test_a_value_is_broadcast_as_it_was_before_the_commit(in_thread, database):
    def change():
        value = {"EUR": 1}
        with transaction.atomic(using=database):
            broadcast_json_on_commit("prices", value, using=database)
            value["EUR"] = 2

    async with connected(Prices.as_asgi()) as peer:
        await in_thread(change)
        assert await peer.texts(1) == ['{"EUR": 1}']


@pytest.mark.parametrize(
    ("function", "arguments", "error"),
    [
        (broadcast_on_commit, ("prices", 1.08), TypeError),
        (broadcast_on_commit, (1, "text"), TypeError),
        (broadcast_on_commit, ("prices", "\ud800"), ValueError),
        (broadcast_json_on_commit, ("prices", float("nan")), ValueError),
    ],
)
def test_what_cannot_be_broadcast_is_refused_before_the_commit(
    database, function, arguments, error
):
    with pytest.raises(error), transaction.atomic(using=database):
        function(*arguments, using=database)
    connections.close_all()


def test_a_broadcast_that_fails_after_the_commit_is_one_line_in_the_log(redis, database, caplog):
    redis.stop()
    with (
        override_settings(CHANNEL_LAYERS=redis.layers()),
        transaction.atomic(using=database),
    ):
        broadcast_on_commit("prices", "1.08", using=database)
    connections.close_all()
    [record] = [each for each in caplog.records if each.name == "ws_support.broadcast"]
    assert record.levelname == "ERROR"
    assert record.message.startswith(
        "Committed, but not broadcast. The broadcast under 'prices' was not taken by Redis"
    )
    assert record.exc_info is None


async def test_in_an_event_loop_it_says_what_to_write():
    with pytest.raises(RuntimeError, match=r"Write `await broadcast\(...\)`"):
        broadcast_sync("prices", "1.08")


@pytest.mark.parametrize("is_debug", [True, False])
def test_a_broadcast_in_a_transaction_is_warned_of_once_with_debug(
    database, is_debug, caplog, monkeypatch
):
    monkeypatch.setattr(module._Transactions, "is_warned_of", False)
    with override_settings(DEBUG=is_debug):
        broadcast_sync("prices", "outside")
        for _ in range(2):
            with transaction.atomic(using=database):
                broadcast_sync("prices", "inside")
    connections.close_all()
    lines = [each.message for each in caplog.records if "in a transaction" in each.message]
    assert len(lines) == is_debug
