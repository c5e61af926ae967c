"""Which requests get to a hub, and which do not."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.test import override_settings

from tests.hubs.clients import ORIGIN, TEXT, Named, Poller, Socket, Web, rest, router
from tests.hubs.recording import Recording, new_hub
from tests.hubs.test_long_polling import end
from ws_support.hubs import Hub, HubRouter, description_of
from ws_support.testing import HandshakeRefused, Peer, RunningApplication

pytestmark = pytest.mark.usefixtures("problems")

OTHER = "https://other.example"


@pytest.fixture(autouse=True)
def _origins(settings: Any) -> None:
    settings.WS_SUPPORT = {"ALLOWED_ORIGINS": None}


@pytest.mark.parametrize(
    "path", ["/", "/hubs", "/hub/", "/hub/x", "/xhub", "/hub/negotiate/", "/negotiate", "/hu", ""]
)
async def test_other_paths_go_to_the_application(path):
    web = Web(router(new_hub()), path)
    for method in ("GET", "POST", "OPTIONS"):
        assert (await web.request(method)).what == (418, "", b"the rest")


async def test_a_client_at_a_path_without_a_hub_is_told_of_in_the_log(problems):
    async def not_found(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"Not Found"})

    application = HubRouter(not_found, {"chat": new_hub(), "rooms/<str:room>": new_hub()})
    web = Web(application, "/chatt")
    assert (await web.request("POST", "/negotiate?negotiateVersion=1")).status == 404
    [warning] = problems.warnings
    assert warning == (
        "There is no hub at the path '/chatt'. HubRouter has: /chat, /rooms/<str:room>."
    )
    # Not a client of hubs.
    for path in ("/negotiate", "/other?negotiateVersion=1"):
        assert (await web.request("POST", path)).status == 404
    assert len(problems.warnings) == 1


def test_a_hub_that_takes_arguments_is_an_error():
    class Room(Hub):
        def __init__(self, name: str) -> None: ...

    with pytest.raises(ImproperlyConfigured, match=r"Room\(\) has to take no arguments"):
        HubRouter(rest, {"room": Room})


async def test_websockets_at_other_paths_go_to_the_application():
    for path in ("/other", "/hub/negotiate"):
        with pytest.raises(HandshakeRefused) as raised:
            async with Peer(router(new_hub()), path, origin=ORIGIN):
                pass
        assert raised.value.code == 4418


async def test_other_scopes_go_to_the_application():
    async with RunningApplication(router(new_hub()), {"type": "lifespan"}) as application:
        assert await application.receive_output() == {"type": "lifespan.answer"}


async def test_a_path_may_have_arguments():
    web = Web(router(new_hub(), "rooms/<str:room>/<int:number>"), "/rooms/blue/7")
    poller = await Poller.connected(web)
    await poller.shake_hands()
    who = await poller.result("who")
    assert (who["path"], who["kwargs"]) == ("/rooms/blue/7", {"room": "blue", "number": 7})
    await end(poller)
    assert (await Web(web.application, "/rooms/blue/x").request("POST")).status == 418


@pytest.mark.parametrize("path", ["/prefix/hub", "/hub"])
@pytest.mark.parametrize("root_path", ["/prefix", "/prefix/"])
async def test_a_root_path_may_stand_in_front_or_not(path, root_path):
    web = Web(router(new_hub()), path)
    scope = {"root_path": root_path}
    response = await web.request("POST", "/negotiate?negotiateVersion=1", scope=scope)
    assert response.status == 200
    async with Peer(web.application, path, origin=ORIGIN, scope=scope):
        pass


async def test_a_script_name_of_the_settings_may_stand_in_front():
    with override_settings(FORCE_SCRIPT_NAME="/prefix"):
        response = await Web(router(new_hub()), "/prefix/hub").request("POST", "/negotiate")
        assert response.status == 200


async def test_a_hub_may_be_at_the_root():
    web = Web(router(new_hub(), ""), "/")
    assert (await Web(web.application, "").request("POST", "/negotiate")).status == 200
    async with Peer(web.application, "/", origin=ORIGIN):
        pass


async def test_several_hubs_are_apart():
    one, two = new_hub(), new_hub()
    application = HubRouter(rest, {"one": one, "two": two}, middleware=Named)
    for path in ("/one", "/two"):
        async with Peer(application, path, origin=ORIGIN) as peer:
            await peer.send('{"protocol":"json","version":1}\x1e')
            assert await peer.receive() == "{}\x1e"
    assert one.events == two.events == ["connected", "disconnected"]


# Host and origin


@pytest.mark.parametrize("host", ["evil.example", "", "testserver:x", "a b", "ä", "[::1", "\x00"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_a_host_that_is_not_allowed_is_refused(host, method, problems):
    web = Web(router(new_hub()))
    response = await web.request(method, "/negotiate", headers={"host": host})
    assert response.what == (400, TEXT, b"The host is not allowed.\n")
    [warning] = problems.warnings
    assert warning.startswith("Refused with 400: The host is not allowed.")
    assert warning.endswith(f" The Host header, {host!a}, has to match ALLOWED_HOSTS.")


FOREIGN = b"This origin may not connect.\n"
MALFORMED = b"The Origin header is not a valid origin.\n"


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        (OTHER, FOREIGN),
        ("null", FOREIGN),
        (f"{ORIGIN}.example", FOREIGN),
        ("x", MALFORMED),
        ("", MALFORMED),
        ("http://a b", MALFORMED),
    ],
)
@pytest.mark.parametrize("path", ["/negotiate", ""])
async def test_an_origin_that_is_not_allowed_is_refused(origin, reason, path, problems):
    web = Web(router(new_hub()))
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        response = await web.request(method, path, headers={"origin": origin})
        assert response.what == (403, TEXT, reason)
        assert "access-control-allow-origin" not in response.headers
    assert len(problems.warnings) == 4
    assert all('WS_SUPPORT["ALLOWED_ORIGINS"]' in each for each in problems.warnings)


def without_origin(method: str, path: str, application: Any) -> Any:
    request = Web(application).begin(method, path)
    request.scope["headers"] = [each for each in request.scope["headers"] if each[0] != b"origin"]
    return request


async def test_negotiate_needs_an_origin_and_other_requests_do_not():
    application = router(new_hub())
    for method, path, status in (
        ("POST", "/negotiate", 403),
        ("OPTIONS", "/negotiate", 204),
        ("GET", "?id=x", 404),
        ("POST", "?id=x", 404),
    ):
        async with without_origin(method, path, application) as request:
            response = await request.response()
            assert response.status == status
            assert "access-control-allow-origin" not in response.headers


async def test_the_log_names_the_setting_for_clients_without_an_origin(problems):
    async with without_origin("POST", "/negotiate", router(new_hub())) as request:
        response = await request.response()
    assert response.what == (403, TEXT, b"The handshake has no Origin header.\n")
    [warning] = problems.warnings
    assert warning.endswith('set WS_SUPPORT["ALLOW_MISSING_ORIGIN"].')


async def test_a_missing_origin_may_be_allowed(settings):
    settings.WS_SUPPORT = {"ALLOW_MISSING_ORIGIN": True}
    async with without_origin("POST", "/negotiate", router(new_hub())) as request:
        assert (await request.response()).status == 200


async def test_a_websocket_of_another_origin_is_refused():
    with pytest.raises(HandshakeRefused) as raised:
        async with Peer(router(new_hub()), "/hub", origin=OTHER):
            pass
    assert raised.value.status == 403


async def test_a_page_of_an_allowed_origin_may_read_each_answer(settings):
    settings.WS_SUPPORT = {"ALLOWED_ORIGINS": [OTHER]}
    web = Web(router(new_hub()))
    headers = {"origin": OTHER}
    expected = {
        "access-control-allow-origin": OTHER,
        "access-control-allow-credentials": "true",
        "vary": "Origin",
    }
    for method, path in (
        ("POST", "/negotiate"),
        ("GET", "/negotiate"),
        ("GET", "?id=x"),
        ("GET", ""),
        ("POST", "?id=x"),
        ("DELETE", "?id=x"),
        ("PUT", ""),
    ):
        response = await web.request(method, path, headers=headers)
        assert expected.items() <= response.headers.items()


@pytest.mark.parametrize("path", ["", "/negotiate", "?id=x", "/negotiate?negotiateVersion=1"])
async def test_a_preflight_allows_what_clients_send(path):
    response = await Web(router(new_hub())).request("OPTIONS", path)
    assert response.what == (204, TEXT, b"")
    allowed = response.headers["access-control-allow-headers"].split(", ")
    assert allowed == ["authorization", "content-type", "x-requested-with", "x-signalr-user-agent"]
    assert response.headers["access-control-allow-methods"] == "GET, POST, DELETE"
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert response.headers["access-control-allow-credentials"] == "true"


# Users


async def test_a_known_connection_is_not_authenticated_again():
    seen = []

    class Counting(Named):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["method"])
            await super().__call__(scope, receive, send)

    application = HubRouter(rest, {"hub": new_hub()}, middleware=Counting)
    poller = await Poller.connected(Web(application))
    await poller.shake_hands()
    assert await poller.result("echo", 1) == 1
    await end(poller)
    assert seen == ["POST", "GET"]


async def test_without_authentication_there_is_no_user(problems):
    class Asking(Recording):
        async def user(self) -> Any:
            return self.context.user

    hub = new_hub(Asking, ENABLE_DETAILED_ERRORS=True)
    async with Socket(HubRouter(rest, {"hub": hub})) as socket:
        await socket.shake_hands()
        assert (await socket.result("who"))["user"] is None
        error = (await socket.call("user")).error
        assert "RuntimeError: There is no user" in error
    problems.expect("The hub method 'user' has raised RuntimeError")


async def test_with_authentication_its_middleware_is_used(monkeypatch):
    import channels.auth
    from django.apps import apps

    monkeypatch.setattr(apps, "is_installed", lambda _: True)
    monkeypatch.setattr(channels.auth, "AuthMiddlewareStack", Named)
    async with Socket(HubRouter(rest, {"hub": new_hub()}), "?user=ann") as socket:
        await socket.shake_hands()
        assert (await socket.result("who"))["user"] == "ann"


# What is wrong


@pytest.mark.parametrize(
    "route", ["/hub", "hub/", "/", 5, None, "<nothing:x>", "<int:a b>", "<str:1>"]
)
def test_a_route_that_cannot_be_used_is_refused(route):
    with pytest.raises(ImproperlyConfigured):
        HubRouter(rest, {route: new_hub()})


@pytest.mark.parametrize("hub", [Hub, object, int, None, "hub", Recording(), 5])
def test_what_is_no_hub_is_refused(hub):
    with pytest.raises(ImproperlyConfigured, match="is no subclass of Hub"):
        HubRouter(rest, {"hub": hub})


@pytest.mark.parametrize("hubs", [[("hub", Recording)], Recording, rest])
def test_hubs_that_are_no_dictionary_are_refused(hubs):
    with pytest.raises(ImproperlyConfigured, match="a dictionary of paths and hubs: got"):
        HubRouter(rest, hubs)


@pytest.mark.parametrize("name", ["authenticate", "get_user"])
def test_what_finds_a_user_has_to_be_a_function(name):
    with pytest.raises(ImproperlyConfigured, match=f"{name} of HubRouter is a function, not 'x'"):
        HubRouter(rest, {"hub": new_hub()}, **{name: "x"})


async def test_a_user_that_cannot_be_identified_leaves_no_connection(problems):
    class Broken(Recording):
        @classmethod
        def get_user_identifier(cls, user: Any) -> str | None:
            raise LookupError("the secret")

    with pytest.raises(LookupError):
        async with Socket(router(new_hub(Broken))):
            pass
    problems.expect("The application raised LookupError")


@pytest.mark.parametrize("around", [lambda each: each, ASGIStaticFilesHandler])
async def test_in_front_of_django_alone_other_websockets_are_refused(around, problems):
    application = HubRouter(around(ASGIHandler()), {"hub": new_hub()}, middleware=Named)
    async with Socket(application) as socket:
        await socket.shake_hands()
    with pytest.raises(HandshakeRefused, match="404: There is no WebSocket at this path"):
        async with Peer(application, "/other", origin=ORIGIN):
            pass


async def test_what_is_forwarded_and_belongs_to_nothing_is_not_answered():
    hub = new_hub()
    await description_of(hub).serve_forwarded({"type": "http", "path": "/hub"}, None, None)
    application = router(hub)
    await application._router.serve_forwarded({"type": "http", "path": "/other"}, None, None)
