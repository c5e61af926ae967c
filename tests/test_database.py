"""Database connections live as long as in Channels, and no message goes to a thread in vain."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import threading
import tracemalloc
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from weakref import ref

import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import connections, transaction
from websockets.exceptions import ConnectionClosed

from tests.harness import BOUND, free_port, running, until
from ws_support._connection import database
from ws_support._connection.database import OldConnections

OURS = ["ws_support", "ws_support-with-dispatch", "ws_support-view"]
BASES = ["channels", *OURS]
OWN_THREAD = "/in-a-thread-of-its-own"

only_ours = pytest.mark.parametrize("server", OURS, indirect=True)


@contextmanager
def serving(base, directory):
    """Uvicorn with `tests.database_project` and a database file, for one base of consumers."""
    database = directory / "database.sqlite3"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE visit (id integer PRIMARY KEY)")
    port = free_port()
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.database_project.settings",
        "DJANGO_ALLOW_ASYNC_UNSAFE": "",
        "TEST_DATABASE": str(database),
    }
    command = ["-m", "uvicorn", "tests.database_project.asgi:application", "--port", str(port)]
    with (
        running(command, directory / "server.log", port=port, environment=environment) as server,
        server.connect("/watch") as socket,
    ):
        server.base, server.watch = base, Asking(socket)
        yield server


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """A server for each base, shared by the tests of this module."""
    with ExitStack() as stack:
        started = {}

        def start(base):
            if base not in started:
                directory = tmp_path_factory.mktemp(base)
                started[base] = stack.enter_context(serving(base, directory))
            return started[base]

        yield start


@pytest.fixture(params=BASES)
def server(request, servers):
    server = servers(request.param)
    server.watch.ask("reset")
    return server


@pytest.fixture(params=["channels", "ws_support"])
def fresh_server(request, tmp_path):
    with serving(request.param, tmp_path) as server:
        yield server


@contextmanager
def asking(server, place=""):
    """A socket, with all done for it at the end."""
    path = f"/{server.base}{place}/{uuid.uuid4().hex}"
    with server.connect(path) as socket:
        yield Asking(socket)
    for _ in until(f"end of {path}", server.log):
        if server.watch.ask("has ended", path=path):
            break


@pytest.fixture
def socket(server):
    with asking(server) as socket:
        yield socket


class Asking:
    """A client that says what is to be done, and waits until it is."""

    def __init__(self, connection):
        self.connection = connection

    def ask(self, do, database=None, **arguments):
        if database is not None:
            arguments["database"] = database
        self.connection.send(json.dumps({"do": do, **arguments}))
        return json.loads(self.connection.recv(BOUND))

    def number(self, do, database):
        """The number of the connection that was used."""
        return self.ask(do, database)["number"]

    def hops(self, messages, since):
        """How often the thread was asked for something, for so many messages that ask nothing."""
        for _ in range(messages):
            answer = self.ask("nothing")
        return answer["hops"] - since["hops"]


# CONN_MAX_AGE


def test_without_an_age_a_connection_is_closed_when_the_next_message_comes(server, socket):
    number = socket.number("query", "default")
    assert server.watch.ask("is open", number=number)
    socket.ask("nothing")
    assert not server.watch.ask("is open", number=number)


def test_without_an_age_a_connection_is_closed_by_the_message_of_another_socket(server, socket):
    number = socket.number("query", "default")
    with asking(server):
        assert not server.watch.ask("is open", number=number)


def test_without_an_age_each_message_has_a_connection_of_its_own(socket):
    numbers = [socket.number("query", "default") for _ in range(5)]
    assert len(set(numbers)) == 5


def test_without_an_age_the_last_connection_is_closed_when_the_client_leaves(server):
    with asking(server) as socket:
        number = socket.number("query", "default")
    assert not server.watch.ask("is open", number=number)


def test_a_connection_that_disconnect_opens_is_closed_after_it(server):
    with asking(server) as socket:
        before = socket.number("query", "default")
        socket.ask("query in the end", "default")
    last = server.watch.ask("last", "default")
    assert last > before
    assert not server.watch.ask("is open", number=last)


def test_a_connection_is_kept_for_its_age_and_closed_by_the_first_message_after_it(socket):
    opened = socket.ask("query", "aging")
    for _ in until("closed connection"):
        answer = socket.ask("look", "aging")
        if answer["number"] is None:
            break
        assert answer["number"] == opened["number"]
        assert answer["arrived"] < opened["close_at"]
    assert answer["handled"] >= opened["close_at"]


def test_without_a_maximum_a_connection_is_kept_for_all_messages_of_all_sockets(server, socket):
    numbers = {socket.number("query", "kept") for _ in range(5)}
    for _ in range(3):
        with asking(server) as another:
            numbers |= {another.number("query", "kept"), socket.number("look", "kept")}
    assert len(numbers) == 1


def test_connections_are_closed_in_the_thread_that_opened_them(server, socket):
    start = len(server.watch.ask("closed"))
    for _ in range(3):
        socket.ask("query", "default")
    socket.ask("nothing")
    closed = server.watch.ask("closed")[start:]
    assert [alias for alias, *_ in closed] == ["default"] * 3
    assert all(opened_in == closed_in for *_, opened_in, closed_in in closed)


def test_database_sync_to_async_closes_what_it_opened_when_it_is_done(server, socket):
    number = socket.number("query with database_sync_to_async", "default")
    assert not server.watch.ask("is open", number=number)


def test_database_sync_to_async_and_the_asynchronous_orm_share_a_connection(socket):
    number = socket.number("query", "kept")
    assert socket.number("query with database_sync_to_async", "kept") == number
    assert socket.number("query", "kept") == number


def test_a_connection_of_another_thread_is_left_to_it(server, socket):
    number = socket.number("query in another thread", "default")
    socket.ask("nothing")
    assert server.watch.ask("is open", number=number)


# Connections that the server has lost


def test_a_lost_connection_fails_once_and_the_next_message_has_a_new_one(server, socket):
    number = socket.number("query", "kept")
    server.watch.ask("lose", number=number)
    assert "closed database" in socket.ask("query", "kept")["error"]
    assert socket.number("query", "kept") > number


@pytest.mark.websocket_tracebacks
def test_a_lost_connection_fails_one_socket_and_the_next_has_a_new_one(server, socket):
    number = socket.number("query", "kept")
    server.watch.ask("lose", number=number)
    with pytest.raises(ConnectionClosed):
        socket.ask("query and let it raise", "kept")
    with asking(server) as another:
        assert another.number("query", "kept") > number


def test_a_connection_that_was_opened_before_the_import_is_replaced_when_lost(fresh_server):
    with asking(fresh_server) as socket:
        number = socket.number("look", "kept")
        assert number is not None
        fresh_server.watch.ask("lose", number=number)
        assert "closed database" in socket.ask("query", "kept")["error"]
        assert socket.number("query", "kept") > number


def test_a_connection_that_is_lost_while_it_is_opened_is_replaced(server, socket):
    number = socket.number("query", "default")
    server.watch.ask("refuse", "default")
    assert "closed database" in socket.ask("query", "default")["error"]
    server.watch.ask("refuse no longer", "default")
    assert socket.number("query", "default") > number


def test_the_first_connection_that_is_lost_while_it_is_opened_is_replaced(fresh_server):
    with asking(fresh_server) as socket:
        fresh_server.watch.ask("refuse", "default")
        assert "closed database" in socket.ask("query", "default")["error"]
        fresh_server.watch.ask("refuse no longer", "default")
        assert "error" not in socket.ask("query", "default")


def test_of_two_connections_the_lost_one_is_replaced(server, socket):
    lost, other = socket.number("query", "kept"), socket.number("query", "kept for an hour")
    server.watch.ask("lose", number=lost)
    assert "closed database" in socket.ask("query", "kept")["error"]
    assert socket.number("query", "kept") > lost
    assert socket.number("query", "kept for an hour") == other


def test_a_lost_connection_is_found_before_a_query_fails_when_health_is_checked(server, socket):
    number = socket.number("query", "checked")
    server.watch.ask("lose", number=number)
    assert socket.number("query", "checked") > number


def test_health_is_checked_once_for_each_message_that_has_queries(server, socket):
    socket.ask("query", "checked")
    before = server.watch.ask("checks", "checked")
    for _ in range(3):
        socket.ask("query", "checked")
        socket.ask("nothing")
    assert server.watch.ask("checks", "checked") == before + 3


def test_a_connection_that_works_is_kept_after_a_wrong_query(server, socket):
    before = server.watch.ask("checks", "kept")
    answer = socket.ask("query wrongly", "kept")
    assert "no_column" in answer["error"]
    for _ in range(3):
        assert socket.number("query", "kept") == answer["number"]
    assert server.watch.ask("checks", "kept") == before + 1


def test_a_connection_that_was_left_in_another_autocommit_mode_is_dropped(server, socket):
    number = socket.number("leave autocommit off", "kept")
    socket.ask("nothing")
    assert not server.watch.ask("is open", number=number)


# Threads that a middleware made


def test_a_connection_in_a_thread_of_its_own_is_closed_when_the_next_message_comes(server):
    with asking(server, OWN_THREAD) as socket:
        number = socket.number("query", "default")
        assert server.watch.ask("is open", number=number)
        socket.ask("nothing")
        assert not server.watch.ask("is open", number=number)
    *_, (_, _, opened_in, closed_in) = server.watch.ask("closed")
    assert opened_in == closed_in


def test_a_lost_connection_in_a_thread_of_its_own_is_replaced(server):
    with asking(server, OWN_THREAD) as socket, asking(server, OWN_THREAD) as another:
        number, of_another = socket.number("query", "kept"), another.number("query", "kept")
        assert number != of_another
        server.watch.ask("lose", number=number)
        assert "closed database" in socket.ask("query", "kept")["error"]
        assert socket.number("query", "kept") > of_another
        assert another.number("query", "kept") == of_another


# What a message costs


@pytest.mark.parametrize(
    ("server", "hops"), [("channels", 20), *((ours, 0) for ours in OURS)], indirect=["server"]
)
def test_a_message_goes_to_the_thread_in_channels_and_not_here(socket, hops):
    assert socket.hops(20, since=socket.ask("nothing")) == hops


@pytest.mark.parametrize(
    ("fresh_server", "hops"), [("channels", 3 * 5), ("ws_support", 1)], indirect=["fresh_server"]
)
def test_one_look_at_what_there_is_serves_all_sockets(fresh_server, hops):
    before = fresh_server.watch.ask("hops")
    for _ in range(3):
        with asking(fresh_server) as socket:
            socket.ask("nothing")
            socket.ask("nothing")
    # In Channels: when the socket connects, for two messages, and before and after disconnect().
    assert fresh_server.watch.ask("hops") - before == hops


@only_ours
@pytest.mark.parametrize(
    ("do", "database", "hops"),
    [
        ("query", "kept", 0),
        ("query", "kept for an hour", 0),
        ("query in another thread", "default", 0),
        ("query with database_sync_to_async", "default", 0),
        # The connection is closed.
        ("query", "default", 1),
        ("leave autocommit off", "kept", 1),
        # The connection is found to work.
        ("query wrongly", "kept", 1),
        # The next query has to look whether the connection works.
        ("query", "checked", 1),
    ],
)
def test_the_thread_is_asked_once_when_there_is_something_to_do(socket, do, database, hops):
    assert socket.hops(20, since=socket.ask(do, database)) == hops


@only_ours
def test_messages_that_query_a_kept_connection_close_nothing_in_vain(socket):
    before = socket.ask("query", "kept")["closings"]
    for _ in range(5):
        after = socket.ask("query", "kept")["closings"]
    assert after == before


@pytest.mark.parametrize("fresh_server", ["ws_support"], indirect=True)
def test_a_connection_that_django_never_closes_costs_one_hop(fresh_server):
    with asking(fresh_server) as socket:
        assert socket.hops(20, since=socket.ask("open a copy", "default")) <= 1


@only_ours
def test_a_connection_in_a_thread_of_its_own_costs_no_message_a_hop(server):
    with asking(server, OWN_THREAD) as socket:
        before = socket.ask("query", "kept")["closings"]
        for _ in range(5):
            after = socket.ask("query", "kept")["closings"]
        assert after == before


# Threads and event loops that no server has


@pytest.fixture
def databases(tmp_path, django_db_blocker, monkeypatch):
    """A database whose connections are closed at once, and a new thread for asynchronous code."""
    options = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "database.sqlite3")}
    settings = connections.configure_settings({"default": options})
    monkeypatch.setitem(connections.settings, "closed", settings["default"])
    executor = ThreadPoolExecutor(max_workers=1)
    monkeypatch.setattr(SyncToAsync, "single_thread_executor", executor)
    with django_db_blocker.unblock():
        yield
        executor.submit(connections.close_all).result()
        connections["closed"].close()
        del connections["closed"]
    executor.shutdown()


@pytest.fixture
def loops():
    """Two event loops, each running in a thread."""
    loops = [asyncio.new_event_loop() for _ in range(2)]
    threads = [threading.Thread(target=loop.run_forever) for loop in loops]
    for thread in threads:
        thread.start()
    yield loops
    for loop, thread in zip(loops, threads, strict=True):
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def run(loop, function):
    """The result of `function`, called in this loop."""

    async def call():
        result = function()
        return await result if asyncio.iscoroutine(result) else result

    return asyncio.run_coroutine_threadsafe(call(), loop).result(BOUND)


def open_connection(alias="closed"):
    connections[alias].ensure_connection()


def is_open(alias="closed"):
    return connections[alias].connection is not None


def test_two_event_loops_that_share_a_thread_both_find_its_connections(databases, loops):
    first, second = (run(loop, OldConnections.of_this_loop) for loop in loops)
    assert first is not second
    for loop, those in zip(loops, (first, second), strict=True):
        run(loop, those.close)
    for opening, closing_ in (loops, reversed(loops)):
        assert not first.are_due()
        assert not second.are_due()
        run(opening, sync_to_async(open_connection))
        assert first.are_due()
        assert second.are_due()
        run(closing_, run(closing_, OldConnections.of_this_loop).close)
    assert not run(loops[0], sync_to_async(is_open))


def test_two_event_loops_with_a_thread_each_look_at_their_own(databases, loops):
    others = run(loops[0], OldConnections.of_this_loop)
    run(loops[0], others.close)

    async def of_synchronous_code():
        those = OldConnections.of_this_loop()
        await those.close()
        await sync_to_async(open_connection)()
        assert those.are_due()
        assert not others.are_due()
        await those.close()
        assert not those.are_due()
        assert not await sync_to_async(is_open)()
        run(loops[0], sync_to_async(open_connection))
        assert others.are_due()
        assert not those.are_due()

    async_to_sync(of_synchronous_code)()


def test_synchronous_code_in_another_thread_does_not_mislead_its_event_loop(databases):
    async def of_another_thread():
        await OldConnections.of_this_loop().close()

    async def main():
        await sync_to_async(async_to_sync(of_another_thread), thread_sensitive=False)()
        await sync_to_async(open_connection)()
        those = OldConnections.of_this_loop()
        assert those.are_due()
        await those.close()
        assert not await sync_to_async(is_open)()

    asyncio.run(main())


def test_a_thread_of_its_own_does_not_mislead_its_event_loop(databases):
    async def main():
        async with ThreadSensitiveContext():
            await OldConnections.of_this_loop().close()
        await sync_to_async(open_connection)()
        assert OldConnections.of_this_loop().are_due()

    asyncio.run(main())


def test_coroutines_of_one_event_loop_share_what_is_known(databases):
    async def main():
        assert OldConnections.of_this_loop().are_due()
        await OldConnections.of_this_loop().close()
        assert not OldConnections.of_this_loop().are_due()

    asyncio.run(main())


def test_a_connection_under_an_alias_that_was_added_later_is_due(databases, monkeypatch):
    async def main():
        those = OldConnections.of_this_loop()
        await those.close()
        monkeypatch.setitem(connections.settings, "later", connections.settings["closed"])
        await sync_to_async(open_connection)("later")
        assert those.are_due()
        await those.close()
        assert not await sync_to_async(is_open)("later")

    asyncio.run(main())


def test_a_connection_in_an_atomic_block_is_left_alone(databases):
    async def main():
        those = OldConnections.of_this_loop()
        block = transaction.atomic(using="closed")
        await sync_to_async(block.__enter__)()
        await those.close()
        assert await sync_to_async(is_open)()
        # Without a transaction, this one would be closed at once.
        assert not those.are_due()
        await sync_to_async(block.__exit__)(None, None, None)
        assert those.are_due()
        await those.close()
        assert not await sync_to_async(is_open)()

    asyncio.run(main())


@pytest.mark.parametrize("age", [0, None])
def test_a_connection_that_a_test_has_left_open_is_no_access_to_the_database(
    databases, django_db_blocker, monkeypatch, age
):
    monkeypatch.setitem(connections.settings["closed"], "CONN_MAX_AGE", age)

    async def main():
        await sync_to_async(open_connection)()
        with django_db_blocker.block():
            await OldConnections.of_this_loop().close()
        assert await sync_to_async(is_open)() is (age is None)

    asyncio.run(main())


def test_what_is_remembered_does_not_grow(databases):
    def size():
        gc.collect()
        ours = tracemalloc.Filter(inclusive=True, filename_pattern=database.__file__)
        snapshot = tracemalloc.take_snapshot().filter_traces([ours])
        return sum(trace.size for trace in snapshot.traces)

    def open_and_close():
        connections["closed"].ensure_connection()
        connections["closed"].close()

    def open_beside_others(barrier):
        open_and_close()
        barrier.wait(BOUND)

    def open_in_threads(count):
        barrier = threading.Barrier(count)
        with ThreadPoolExecutor(count) as executor:
            list(executor.map(open_beside_others, [barrier] * count))
        gc.collect()
        SyncToAsync.single_thread_executor.submit(open_and_close).result()

    tracemalloc.start()
    try:
        open_in_threads(2)
        before = size()
        open_in_threads(50)
        for _ in range(100):
            SyncToAsync.single_thread_executor.submit(open_and_close).result()
        assert size() < before + 1000
    finally:
        tracemalloc.stop()


def test_an_event_loop_that_has_ended_is_forgotten():
    async def main():
        OldConnections.of_this_loop()
        return ref(asyncio.get_running_loop())

    loop = asyncio.run(main())
    gc.collect()
    assert loop() is None
