"""`POST /negotiate`: what a client is offered."""

from __future__ import annotations

import pytest

from tests.hubs.clients import TEXT, Clock, Poller, Socket, Web, router, until
from tests.hubs.recording import new_hub
from ws_support._connection.registry import open_connections
from ws_support._hub_options import TRANSPORTS

pytestmark = pytest.mark.usefixtures("problems")

OFFERED = [
    {"transport": "WebSockets", "transferFormats": ["Text", "Binary"]},
    {"transport": "ServerSentEvents", "transferFormats": ["Text"]},
    {"transport": "LongPolling", "transferFormats": ["Text", "Binary"]},
]


@pytest.mark.parametrize(
    "query", ["negotiateVersion=1", "NEGOTIATEVERSION=2", "a=1&negotiateVersion=7"]
)
async def test_version_1_has_a_token_beside_the_id(query):
    offer = await Web(router(new_hub())).negotiate(query)
    id_, token = offer.pop("connectionId"), offer.pop("connectionToken")
    assert offer == {"negotiateVersion": 1, "availableTransports": OFFERED}
    assert id_ != token


@pytest.mark.parametrize("query", ["", "negotiateVersion=0", "negotiateVersion=", "other=1"])
async def test_version_0_has_one_id_for_all(query):
    web = Web(router(new_hub()))
    offer = await web.negotiate(query)
    id_ = offer.pop("connectionId")
    assert offer == {"negotiateVersion": 0, "availableTransports": OFFERED}
    async with Socket(web.application, f"?id={id_}") as socket:
        await socket.shake_hands()
        assert (await socket.result("who"))["id"] == id_


async def test_the_id_of_version_1_is_that_of_the_connection():
    web = Web(router(new_hub()))
    offer = await web.negotiate()
    async with Socket(web.application, f"?id={offer['connectionToken']}") as socket:
        await socket.shake_hands()
        assert (await socket.result("who"))["id"] == offer["connectionId"]


async def test_the_id_of_version_1_is_no_token():
    web = Web(router(new_hub()))
    offer = await web.negotiate()
    response = await web.request("GET", f"?id={offer['connectionId']}")
    assert response.what == (404, TEXT, b"No Connection with that ID")


@pytest.mark.parametrize("version", ["x", "1.0", "1e3", "0x1", "9" * 5000, "-", "%00", "%ff"])
async def test_a_version_that_is_no_whole_number_is_an_error(version):
    offer = await Web(router(new_hub())).negotiate(f"negotiateVersion={version}")
    assert offer == {"error": "The client requested a non-integer protocol version."}


@pytest.mark.parametrize(("least", "version"), [(0, "-1"), (1, "0"), (1, "")])
async def test_a_version_that_is_too_old_is_an_error(least, version):
    hub = new_hub(MINIMUM_PROTOCOL_VERSION=least)
    offer = await Web(router(hub)).negotiate(f"negotiateVersion={version}")
    assert offer == {
        "error": f"The client requested version '{version or 0}', but the server does not support"
        " this version."
    }


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_only_the_transports_of_the_options_are_offered(name):
    offer = await Web(router(new_hub(TRANSPORTS=[name]))).negotiate()
    assert [each["transport"] for each in offer["availableTransports"]] == [name]


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_a_transport_that_is_not_offered_is_not_there(name):
    web = Web(router(new_hub(TRANSPORTS=[each for each in TRANSPORTS if each != name])))
    token = await web.token()
    if name == "WebSockets":
        async with Socket.refused(web.application, f"?id={token}") as refused:
            assert (refused.status, refused.reason) == (
                404,
                "WebSockets transport not supported by this end point type",
            )
        return
    accept = "text/event-stream" if name == "ServerSentEvents" else "*/*"
    response = await web.request("GET", f"?id={token}", headers={"accept": accept})
    text = f"{name} transport not supported by this end point type"
    assert response.what == (404, TEXT, text.encode())


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", "BREW"])
async def test_other_methods_are_not_allowed(method):
    response = await Web(router(new_hub())).request(method, "/negotiate")
    assert response.what == (405, TEXT, b"")


async def test_negotiate_keeps_nothing(clock: Clock):
    web = Web(router(new_hub()))
    tokens = {await web.token() for _ in range(200)}
    assert len(tokens) == 200
    assert not open_connections


async def test_the_body_of_negotiate_is_not_looked_at():
    web = Web(router(new_hub()))
    response = await web.request("POST", "/negotiate", b"\xff" * 10_000)
    assert response.status == 200


async def test_each_token_is_good_for_one_connection():
    web = Web(router(new_hub()))
    for version in ("1", "0"):
        offer = await web.negotiate(f"negotiateVersion={version}")
        poller = await Poller.connected(
            web, token=offer.get("connectionToken", offer["connectionId"])
        )
        await poller.shake_hands()
        assert (await web.request("DELETE", poller.query)).status == 202
        await until(lambda: not open_connections)
        assert (await poller.poll()).what == (204, TEXT, b"")
        async with Socket.refused(web.application, poller.query) as refused:
            assert refused.status == 404


async def test_while_the_server_stops_nothing_is_offered_and_no_stream_begins(monkeypatch):
    web = Web(router(new_hub()))
    token = (await web.negotiate())["connectionToken"]
    monkeypatch.setattr(open_connections, "_is_draining", True)
    stops = (503, TEXT, b"The server is stopping")
    assert (await web.request("POST", "/negotiate?negotiateVersion=1")).what == stops
    headers = {"accept": "text/event-stream"}
    assert (await web.request("GET", f"?id={token}", headers=headers)).what == stops
    assert (await web.request("GET", f"?id={token}")).what == stops
    assert not open_connections


async def test_a_token_of_a_machine_whose_clock_is_ahead_is_good(clock):
    await clock.forward(10)
    web = Web(router(new_hub()))
    token = await web.token()
    await clock.forward(-10)
    async with Socket(web.application, f"?id={token}") as socket:
        assert await socket.shake_hands() == {}
