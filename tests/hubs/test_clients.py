"""Microsoft's client and hub.js, in Node.js, with hubs on real servers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import ASGI_SERVERS, BOUND, Server, wait_until
from tests.hubs.node import KINDS, WS_SUPPORT, Clients, Node
from tests.tracebacks import exceptions_in

pytestmark = pytest.mark.timeout(250)

PROVOKED = re.compile(r"LookupError: the secret")
"""The exceptions that the grid asks for."""


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in (*ASGI_SERVERS, "runserver")]
EACH = ["uvicorn-picows", *(each for each in OTHERS if each.values != ("uvicorn-picows",))]

each_server = pytest.mark.parametrize("name", EACH)


@pytest.fixture
def start(name: str, serve: Callable[..., Server]) -> Callable[..., Server]:
    """Start a server of one kind. The coverage of one is enough, since it takes time."""
    kind = {"command": name} if name == "runserver" else {"asgi_server": name}
    is_measured = name == "uvicorn-picows"
    return lambda **options: serve(**kind, measured=is_measured, WS_SUPPORT=WS_SUPPORT, **options)


def ids_in(events: dict[str, dict[str, Any]]) -> set[str]:
    return {each["id"] for each in events.values()}


def ends_of(server: Server) -> list[tuple[str, str | None]]:
    """The ids of the connections whose hub has been told of their end, with the error."""
    return sorted(
        (each["id"], each["error"]) for each in server.events("on_disconnected()", "/logged-hub")
    )


@pytest.mark.slow
@pytest.mark.websocket_tracebacks
@each_server
def test_each_behaviour_is_the_same_with_each_client_transport_and_protocol(
    start: Callable[..., Server], hub_node: Node
) -> None:
    server = start()
    assert hub_node.passed("hubs.test.js", HUB_SERVER=server.origin) > 320
    provoked = [each for each in exceptions_in(server.log()) if PROVOKED.fullmatch(each)]
    assert len(provoked) >= 3 * len(KINDS)
    assert exceptions_in(server.log()) == provoked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "items"),
    [
        *(pytest.param(*each.values, 2_000, marks=each.marks) for each in EACH[1:]),
        ("uvicorn-picows", 2_000),
        pytest.param("uvicorn-picows", 10_000, marks=pytest.mark.slow),
    ],
)
def test_a_stateful_reconnect_loses_nothing_and_repeats_nothing(
    start: Callable[..., Server], hub_node: Node, items: int
) -> None:
    server = start()
    assert hub_node.passed("hubs_stateful.test.js", HUB_SERVERS=server.origin, HUB_ITEMS=items) == 3


@each_server
def test_a_client_comes_back_with_a_new_id_when_the_server_was_killed_and_is_there_again(
    start: Callable[..., Server], connect: Callable[[str], Clients]
) -> None:
    server = start()
    clients = connect(server.origin)
    before = ids_in(clients.wait_for("connected"))
    server.process.kill()
    server.process.wait(BOUND)
    clients.wait_for("lost")
    server.wait_until_nobody_listens()  # Its worker, if it has one, ends a moment later.
    again = start(port=server.port)
    back = clients.wait_for("back")
    assert before.isdisjoint(ids_in(back))
    assert {each["answer"]["id"] for each in back.values()} == ids_in(back)
    assert {each["id"] for each in again.events("on_connected()", "/logged-hub")} == ids_in(back)


@each_server
def test_a_stop_of_the_server_sends_clients_away_to_come_back_and_tells_the_hub(
    start: Callable[..., Server], connect: Callable[[str], Clients]
) -> None:
    server = start()
    clients = connect(server.origin)
    before = clients.wait_for("connected")
    # The first poll, one for the answer to the handshake, and one that waits.
    server.wait_for_event("poll", "/logged-hub", 3 * 2)
    assert server.stop() == 0
    told = clients.wait_for("told")
    assert {each["allowReconnect"] for each in told.values()} == {True}
    assert ends_of(server) == sorted((each, None) for each in ids_in(before))
    start(port=server.port)
    assert ids_in(before).isdisjoint(ids_in(clients.wait_for("back")))
    assert clients.events("closed") == {}


@each_server
def test_a_stop_of_a_client_tells_the_hub_once(
    start: Callable[..., Server], connect: Callable[[str], Clients]
) -> None:
    server = start()
    clients = connect(server.origin)
    ids = ids_in(clients.wait_for("connected"))
    clients.stop()
    assert set(clients.events("closed")) == clients.names
    expected = sorted((each, None) for each in ids)
    wait_until(lambda: ends_of(server) == expected, "ends", lambda: (ends_of(server), server.log()))
    assert server.stop() == 0
    assert ends_of(server) == expected
