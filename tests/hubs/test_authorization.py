"""Who may use a hub, and its methods."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from tests.hubs.clients import TEXT, Poller, Socket, Web, rest, router
from tests.hubs.recording import Recording, new_hub
from tests.hubs.test_long_polling import end
from ws_support.hubs import HubRouter, authorize

pytestmark = pytest.mark.usefixtures("problems")


@authorize()
class Closed(Recording):
    pass


@authorize(permission="chat.admin")
class Administrators(Recording):
    pass


async def asked(context: Any) -> bool:
    return "yes" in context.scope["query_string"].decode()


class Methods(Recording):
    @authorize()
    async def for_users(self) -> str:
        return "for users"

    @authorize(permission=["chat.a", "chat.b"])
    async def for_administrators(self) -> str:
        return "for administrators"

    @authorize(check=asked)
    async def for_some(self) -> str:
        return "for some"

    @authorize(check=lambda context: context.user.pk == "ann")
    def for_ann(self) -> str:
        return "for ann"

    @authorize(check=functools.partial(asked))
    @authorize(permission="chat.a")
    async def for_both(self) -> str:
        return "for both"

    @authorize(check=lambda context: asked(context))
    async def for_few(self) -> str:
        return "for few"

    @authorize()
    async def items(self) -> Any:
        yield 1

    @authorize(check=lambda context: 1 / 0)
    async def broken(self) -> None: ...


@pytest.mark.parametrize(
    ("hub", "query", "status", "text"),
    [
        (Closed, "", 401, b"Unauthorized"),
        (Closed, "&user=ann", 200, b""),
        (Administrators, "", 401, b"Unauthorized"),
        (Administrators, "&user=ann", 403, b"Forbidden"),
        (Administrators, "&user=admin", 200, b""),
    ],
)
async def test_a_hub_refuses_whom_it_does_not_admit(hub, query, status, text):
    hub = authorized(hub)
    web = Web(router(hub))
    response = await web.request("POST", f"/negotiate?negotiateVersion=1{query}")
    assert response.status == status
    if status != 200:
        assert response.what == (status, TEXT, text)
    token = (await web.negotiate("negotiateVersion=1&user=admin"))["connectionToken"]
    for accept in ("*/*", "text/event-stream"):
        if status != 200:
            response = await web.request("GET", f"?id={token}{query}", headers={"accept": accept})
            assert response.what == (status, TEXT, text)
    if status == 200:
        async with Socket(web.application, f"?id={token}{query}") as socket:
            await socket.shake_hands()
            assert await socket.result("echo", 1) == 1
    else:
        async with Socket.refused(web.application, f"?id={token}{query}") as refused:
            assert refused.status == status


def authorized(hub: Any) -> Any:
    return new_hub(hub)


@pytest.mark.parametrize(
    ("hub", "query", "text"),
    [
        (Closed, "", "401: Unauthorized. Origin 'http://testserver', path '/hub'. The hub has"),
        (
            Administrators,
            "?user=ann",
            "403: Forbidden. Origin 'http://testserver', path '/hub'. The",
        ),
    ],
)
async def test_the_log_says_why_a_client_was_refused(hub, query, text, problems):
    web = Web(router(authorized(hub)))
    async with Socket.refused(web.application, query):
        pass
    await web.request("POST", f"/negotiate{query}")
    handshake, negotiate = problems.warnings
    assert handshake.startswith(f"Refused with {text}")
    assert "authorize()" in handshake
    assert negotiate == handshake.replace("'/hub'", "'/hub/negotiate'")


async def test_a_connection_that_was_admitted_needs_its_token_only():
    web = Web(router(authorized(Closed)))
    token = (await web.negotiate("negotiateVersion=1&user=ann"))["connectionToken"]
    poller = await Poller.connected(web, "&user=ann", token)
    poller.query = f"?id={token}"
    await poller.shake_hands()
    assert await poller.result("echo", 1) == 1
    assert (await poller.result("who"))["user"] == "ann"
    await end(poller)


METHODS = [
    ("for_users", "", False),
    ("for_users", "?user=ann", True),
    ("for_administrators", "", False),
    ("for_administrators", "?user=ann", False),
    ("for_administrators", "?user=admin", True),
    ("for_some", "?yes", False),
    ("for_some", "?user=ann", False),
    ("for_some", "?user=ann&x=yes", True),
    ("for_ann", "?user=bob", False),
    ("for_ann", "?user=ann", True),
    ("for_few", "?user=ann", False),
    ("for_few", "?user=ann&x=yes", True),
    ("for_both", "?user=admin", False),
    ("for_both", "?user=ann&x=yes", False),
    ("for_both", "?user=admin&x=yes", True),
]


@pytest.mark.parametrize(("method", "query", "is_allowed"), METHODS)
async def test_a_method_is_answered_with_an_error_to_whom_it_is_not_for(method, query, is_allowed):
    async with Socket(router(new_hub(Methods)), query) as socket:
        await socket.shake_hands()
        completion = await socket.call(method)
        if is_allowed:
            assert (completion.result, completion.error) == (method.replace("_", " "), None)
        else:
            assert completion.error == f"Failed to invoke '{method}' because user is unauthorized"
        assert await socket.result("echo", 1) == 1


async def test_a_stream_that_is_not_allowed_is_an_error_as_well():
    async with Socket(router(new_hub(Methods))) as socket:
        await socket.shake_hands()
        await socket.put(b'{"type":4,"target":"items","arguments":[],"invocationId":"1"}\x1e')
        message = await socket.next()
        assert message.error == "Failed to invoke 'items' because user is unauthorized"


async def test_a_check_that_raises_is_an_error_of_the_method(problems):
    async with Socket(router(new_hub(Methods)), "?user=ann") as socket:
        await socket.shake_hands()
        completion = await socket.call("broken")
        assert completion.error == "An unexpected error occurred invoking 'broken' on the server."
    problems.expect("The hub method 'broken' has raised ZeroDivisionError")


async def test_a_check_of_a_hub_reads_its_request():
    @authorize(check=lambda context: context.user.pk == "ann" and context.scope["path"])
    class Checked(Recording):
        pass

    web = Web(router(new_hub(Checked)))
    for name, status in (("ann", 200), ("bob", 403)):
        response = await web.request("POST", f"/negotiate?user={name}")
        assert response.status == status


async def test_a_check_that_takes_its_time_admits_one_connection_for_a_token():
    async def slow(context: Any) -> bool:
        await asyncio.sleep(0.01)
        return True

    @authorize(check=slow)
    class Checked(Recording):
        pass

    web = Web(router(new_hub(Checked)))
    token = (await web.negotiate("negotiateVersion=1&user=ann"))["connectionToken"]
    poller = Poller(web, token)
    poller.query += "&user=ann"
    answers = await asyncio.gather(*[poller.poll() for _ in range(3)])
    assert sorted([each.status for each in answers]) == [200, 409, 409]
    await end(poller)


async def test_without_authentication_the_error_says_what_is_missing(problems):
    hub = authorized(Closed)
    web = Web(HubRouter(rest, {"hub": hub}, middleware=lambda application: application))
    with pytest.raises(RuntimeError, match="There is no user: a hub with authorize"):
        await web.request("POST", "/negotiate")


@pytest.mark.parametrize("permission", ["ban", 5, ["chat.ban", "x"], [None]])
def test_what_is_no_permission_is_refused(permission):
    with pytest.raises((ImproperlyConfigured, TypeError)):
        authorize(permission=permission)


@pytest.mark.parametrize("check", [5, "check", []])
def test_what_is_no_check_is_refused(check):
    with pytest.raises(ImproperlyConfigured, match="check has to be callable"):
        authorize(check=check)


@pytest.mark.parametrize("wrong", [(new_hub(),), ("chat.ban",)])
def test_without_parentheses_it_says_what_to_write(wrong):
    with pytest.raises(ImproperlyConfigured, match=r"write @authorize\(\), or @authorize\(perm"):
        authorize(*wrong)
