"""Signals and log lines about clients of hubs without a WebSocket, as for those with one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hubs.clients import ORIGIN, Poller, Socket, Stream, Web, router, until
from tests.hubs.recording import Recording, new_hub
from tests.hubs.test_ends import drain
from ws_support._connection.registry import open_connections
from ws_support.hubs import authorize
from ws_support.signals import connected, disconnected, rejected
from ws_support.testing import HandshakeRefused

pytestmark = pytest.mark.usefixtures("problems")


@pytest.fixture
def heard() -> Iterator[list[tuple[Any, ...]]]:
    """What the signals have said."""
    heard: list[tuple[Any, ...]] = []

    def on_connected(scope: Any, **_: Any) -> None:
        heard.append(("connected", scope["type"], scope["path"]))

    async def on_disconnected(scope: Any, code: int, duration: float, **_: Any) -> None:
        assert duration >= 0
        heard.append(("disconnected", scope["type"], code))

    def on_rejected(scope: Any, origin: Any, status: int, rule: str, **_: Any) -> None:
        heard.append(("rejected", scope["path"], origin, status, rule))

    receivers = [
        (connected, on_connected),
        (disconnected, on_disconnected),
        (rejected, on_rejected),
    ]
    for signal, receiver in receivers:
        signal.connect(receiver)
    yield heard
    for signal, receiver in receivers:
        signal.disconnect(receiver)


async def begin(transport: str, hub: Any) -> Any:
    web = Web(router(hub))
    if transport == "poll":
        client: Any = await Poller.connected(web)
    else:
        client = await Stream(web, await web.token()).__aenter__()
    await client.shake_hands()
    return client


@pytest.mark.parametrize("transport", ["poll", "stream"])
async def test_a_client_without_a_websocket_is_told_of_once_at_each_end(transport, heard, caplog):
    caplog.set_level(logging.INFO, "ws_support")
    client = await begin(transport, new_hub())
    assert await client.result("echo", 1) == 1
    assert heard == [("connected", "http", "/hub")]
    await drain()
    if transport == "stream":
        await client.__aexit__(None, None, None)
    else:
        await client.poll()  # The Close message.
    await until(lambda: not open_connections)
    assert heard[1:] == [("disconnected", "http", 1012)]
    lines = [each.getMessage() for each in caplog.records if each.name == "ws_support.heartbeat"]
    assert lines[0] == "Connected: path '/hub'."
    assert lines[1].startswith("Disconnected with 1012 after 0.")


async def test_a_client_that_ends_its_polling_has_closed_with_1000(heard):
    client = await begin("poll", new_hub())
    await client.web.request("DELETE", client.query)
    await until(lambda: not open_connections)
    assert heard[1:] == [("disconnected", "http", 1000)]


async def test_a_client_that_polls_no_more_is_lost(heard, clock):
    await begin("poll", new_hub())
    await clock.forward(16)
    await until(lambda: not open_connections)
    assert heard[1:] == [("disconnected", "http", 1006)]


async def test_a_client_that_leaves_its_event_stream_is_lost(heard):
    client = await begin("stream", new_hub())
    await client.__aexit__(None, None, None)
    await until(lambda: not open_connections)
    assert heard[1:] == [("disconnected", "http", 1006)]


async def test_who_has_not_shaken_hands_has_not_connected(heard):
    web = Web(router(new_hub()))
    client = await Poller.connected(web)
    await web.request("DELETE", client.query)
    await until(lambda: not open_connections)
    assert heard == []


async def test_a_websocket_that_a_hub_refuses_is_told_of_once(heard, settings, caplog):
    settings.WS_SUPPORT = {"ALLOWED_ORIGINS": None}
    caplog.set_level(logging.INFO, "ws_support")
    hub = authorize(check=lambda context: False)(new_hub(Recording))
    for query, status in (("", 401), ("?id=unknown", 401)):
        with pytest.raises(HandshakeRefused):
            async with Socket(router(hub), query):
                pass
        assert heard == [("rejected", "/hub", ORIGIN, status, "hub")]
        heard.clear()
    assert len([each for each in caplog.records if "Refused" in each.getMessage()]) == 2


async def test_a_user_without_an_identifier_may_connect(heard):
    class Nameless(Recording):
        @classmethod
        def get_user_identifier(cls, user: Any) -> str:
            return ""

    client = await begin("poll", new_hub(Nameless))
    assert await client.result("echo", 1) == 1
    await client.web.request("DELETE", client.query)


async def test_a_negotiation_that_is_refused_is_told_of(heard, settings):
    settings.WS_SUPPORT = {"ALLOWED_ORIGINS": ["https://good.example"]}
    web = Web(router(authorize(check=lambda context: False)(new_hub(Recording))))
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "https://good.example"},
        {"origin": "https://good.example", "host": "evil.example"},
    ):
        assert (await web.request("POST", "/negotiate", headers=headers)).status in (400, 401, 403)
    path = "/hub/negotiate"
    assert heard == [
        ("rejected", path, "https://evil.example", 403, "not allowed"),
        ("rejected", path, "https://good.example", 401, "hub"),
        ("rejected", path, "https://good.example", 400, "host"),
    ]
