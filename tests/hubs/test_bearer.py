"""Bearer tokens: who sends one, and the ticket that stands in URLs in its place."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hubs.clients import Nobody, Poller, Socket, Stream, User, Web, rest, turns
from tests.hubs.recording import Recording, new_hub
from ws_support._hubs import bearer, tokens
from ws_support._hubs.messages import Sequence
from ws_support.hubs import HubRouter, authorize, description_of
from ws_support.testing import HandshakeRefused


def anonymous(application: Any) -> Any:
    async def with_nobody(scope: Any, receive: Any, send: Any) -> None:
        await application({**scope, "user": Nobody()}, receive, send)

    return with_nobody


async def authenticate(token: str) -> User | None:
    return User(token.removeprefix("secret-")) if token.startswith("secret-") else None


def get_user(identifier: str) -> User | None:
    return None if identifier == "gone" else User(identifier)


@pytest.fixture
def hub():
    return authorize()(new_hub(Recording, ALLOW_STATEFUL_RECONNECTS=True))


@pytest.fixture
def application(hub):
    return HubRouter(
        rest, {"hub": hub}, middleware=anonymous, authenticate=authenticate, get_user=get_user
    )


@pytest.fixture
def web(application):
    return Web(application)


def bearing(token: str) -> dict[str, Any]:
    return {"headers": {"authorization": f"Bearer {token}"}}


async def ticket_of(web: Web, token: str = "secret-ann") -> str:
    return (await web.negotiate(**bearing(token)))["accessToken"]


async def test_negotiate_sends_a_client_with_a_token_to_itself_with_a_ticket(web, problems):
    answer = await web.negotiate("room=1&negotiateVersion=1", **bearing("secret-ann"))
    assert answer.keys() == {"url", "accessToken"}
    assert answer["url"] == "http://testserver/hub?room=1"
    assert "secret" not in answer["accessToken"]


async def test_without_a_query_of_its_own_the_url_has_none(web, problems):
    query = "negotiateVersion=1&useStatefulReconnect=true&access_token=secret-ann"
    assert (await web.negotiate(query))["url"] == "http://testserver/hub"


@pytest.mark.parametrize("query", [101 * "a=b&", "a=%ff&a=\N{LATIN SMALL LETTER A WITH DIAERESIS}"])
async def test_a_query_that_cannot_be_read_is_no_error(web, problems, query):
    query = {"query_string": query.encode("latin-1")}
    answer = await web.request("POST", "/negotiate", scope=query, **bearing("secret-ann"))
    assert answer.status == 200
    assert answer.json()["url"] == "http://testserver/hub"


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
async def test_the_header_counts_more_than_the_query_whatever_its_case(web, problems, scheme):
    headers = {"authorization": f"{scheme} secret-ann"}
    response = await web.request("POST", "/negotiate?access_token=wrong", headers=headers)
    assert response.status == 200


@pytest.mark.parametrize(
    "headers", [{"authorization": "Basic secret-ann"}, {"authorization": "Bearer  "}, {}]
)
async def test_another_kind_of_credentials_is_none(web, problems, headers):
    response = await web.request("POST", "/negotiate", headers=headers)
    assert (response.status, response.body) == (401, b"Unauthorized")


async def test_a_wrong_token_is_refused(web, application, problems):
    response = await web.request("POST", "/negotiate", **bearing("wrong"))
    assert (response.status, response.body) == (401, b"Unauthorized")
    [warning] = problems.warnings
    assert "token is not valid" in warning
    assert "wrong" not in warning
    with pytest.raises(HandshakeRefused):
        async with Socket(application, "?access_token=wrong"):
            pass


@pytest.mark.parametrize("transport", ["websocket", "stream", "poll"])
async def test_with_a_ticket_a_connection_is_that_of_the_user(
    web, application, problems, transport
):
    ticket = await ticket_of(web)
    answer = await web.negotiate(**bearing(ticket))
    query = f"&access_token={ticket}"
    token = answer["connectionToken"]
    if transport == "websocket":
        async with Socket(application, f"?id={token}{query}") as client:
            await client.shake_hands()
            found = await client.result("who")
    elif transport == "stream":
        async with Stream(web, token, query) as client:
            await client.shake_hands()
            found = await client.result("who")
    else:
        client = await Poller.connected(web, query, token)
        await client.shake_hands()
        found = await client.result("who")
        await web.request("DELETE", client.query)
    assert (found["user"], found["id"]) == ("ann", answer["connectionId"])


async def test_a_ticket_opens_no_other_connection(web, application, problems):
    ticket = await ticket_of(web)
    other = await web.negotiate(**bearing(await ticket_of(web, "secret-bob")))
    query = f"?id={other['connectionToken']}&access_token={ticket}"
    response = await web.request("GET", query)
    assert (response.status, response.body) == (401, b"Unauthorized")
    with pytest.raises(HandshakeRefused):
        async with Socket(application, query):
            pass
    with pytest.raises(HandshakeRefused):
        async with Socket(application, f"?access_token={ticket}"):
            pass


async def test_a_ticket_opens_nothing_later(web, clock, problems):
    ticket = await ticket_of(web)
    await clock.forward(31)
    response = await web.request("POST", "/negotiate?negotiateVersion=1", **bearing(ticket))
    assert (response.status, response.body) == (401, b"Unauthorized")


async def test_a_ticket_whose_connection_is_over_opens_nothing(web, application, clock, problems):
    ticket = await ticket_of(web)
    token = (await web.negotiate(**bearing(ticket)))["connectionToken"]
    async with Socket(application, f"?id={token}&access_token={ticket}") as socket:
        await socket.shake_hands()
    # A ticket is fresh for longer than the token of a connection.
    for seconds in (0, 17, 12):
        await clock.forward(seconds)
        response = await web.request("POST", "/negotiate?negotiateVersion=1", **bearing(ticket))
        assert response.status == 401


async def test_a_ticket_is_good_for_the_resumes_of_its_connection(
    web, application, clock, problems
):
    ticket = await ticket_of(web)
    query = "negotiateVersion=1&useStatefulReconnect=true"
    token = (await web.negotiate(query, **bearing(ticket)))["connectionToken"]
    query = f"?id={token}&access_token={ticket}"
    async with Socket(application, query) as socket:
        await socket.shake_hands(version=2)
        await socket.result("echo", 1)
        await clock.forward(60)
        await socket.peer.send_input({"type": "websocket.disconnect", "code": 1006})
        await turns()
        async with Socket(application, query) as again:
            again.parser._is_new = False
            await again.put_message(Sequence(2))
            assert isinstance(await again.next(), Sequence)


async def test_a_ticket_of_a_user_who_has_gone_opens_nothing(hub, web, problems):
    name = description_of(hub).name
    worker = description_of(hub).manager().worker
    ticket = tokens.new_ticket(tokens.new_id(worker), "gone").sign(name)
    response = await web.request("POST", "/negotiate", **bearing(ticket))
    assert response.status == 401


async def test_a_token_may_be_sent_with_a_websocket_without_a_negotiation(application, problems):
    async with Socket(application, "?access_token=secret-ann") as socket:
        await socket.shake_hands()
        assert (await socket.result("who"))["user"] == "ann"


async def test_by_default_an_active_user_of_django_is_found(monkeypatch):
    class Users:
        def filter(self, **wanted: Any) -> Users:
            self.wanted = wanted
            return self

        async def afirst(self) -> Any:
            return self.found

    class Account:
        _default_manager = Users()

        def __init__(self, is_active: bool) -> None:
            self.is_active = is_active

    monkeypatch.setattr("django.contrib.auth.get_user_model", lambda: Account)
    for found, expected in [(Account(True), True), (Account(False), False), (None, False)]:
        Account._default_manager.found = found
        assert (await bearer.find_user("7") is not None) is expected
    assert Account._default_manager.wanted == {"pk": "7"}


async def test_without_sessions_who_has_no_token_is_not_authenticated(hub, problems):
    web = Web(
        HubRouter(
            rest,
            {"hub": hub},
            middleware=lambda application: application,
            authenticate=authenticate,
        )
    )
    assert (await web.request("POST", "/negotiate")).status == 401


async def test_what_authenticates_has_to_return_a_user(hub):
    application = HubRouter(
        rest, {"hub": hub}, middleware=anonymous, authenticate=lambda token: token
    )
    with pytest.raises(
        TypeError, match=r"authenticate of HubRouter returns a user, or None: got s"
    ):
        await Web(application).request("POST", "/negotiate", **bearing("ann"))


async def test_a_token_that_nothing_reads_is_named_in_the_log(hub, problems):
    web = Web(HubRouter(rest, {"hub": hub}, middleware=anonymous))
    assert (await web.request("POST", "/negotiate", **bearing("ann"))).status == 401
    assert (await web.request("POST", "/negotiate")).status == 401
    first, second = problems.warnings
    assert "has sent a bearer token, and HubRouter has no authenticate=" in first
    assert "has no session or token of a user" in second


@pytest.mark.parametrize("kind", ["function", "object"])
async def test_what_authenticates_may_be_of_each_kind(hub, problems, kind):
    class Authenticator:
        async def __call__(self, token: str) -> User:
            return User(token)

    application = HubRouter(
        rest,
        {"hub": hub},
        middleware=anonymous,
        authenticate=User if kind == "function" else Authenticator(),
        get_user=get_user,
    )
    assert "accessToken" in await Web(application).negotiate(**bearing("ann"))
