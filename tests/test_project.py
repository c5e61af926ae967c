"""What `manage.py check` and the servers' first lines say of a project's asgi.py."""

from __future__ import annotations

import sys
from functools import partial
from types import ModuleType

import pytest
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core import checks
from django.urls import path, re_path

from ws_support.asgi import WebSocketSupport
from ws_support.checks import check_application
from ws_support.conf import get_options
from ws_support.consumers import EchoConsumer
from ws_support.hubs import Hub, HubRouter, authorize
from ws_support.middleware.heartbeat import Heartbeat
from ws_support.middleware.origin import OriginValidator
from ws_support.servers._run.banner import summary, unguarded
from ws_support.websocket import websocket_view

echo = EchoConsumer.as_asgi()


@websocket_view
async def view(websocket, one, two):
    """A handler that could be mistaken for an ASGI application."""


class Middleware:
    """As people write them."""

    def __init__(self, app):
        self.app = app
        self.name = "any"

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


def function_middleware(inner):
    never_set: object

    async def middleware(scope, receive, send):
        await inner(scope, receive, send)
        return never_set

    if not callable(inner):
        never_set = inner
    return middleware


def routed(*routes):
    return ProtocolTypeRouter({"http": echo, "websocket": URLRouter(list(routes))})


def guarded(*routes):
    return ProtocolTypeRouter({"websocket": WebSocketSupport(URLRouter(list(routes)))})


@pytest.fixture
def serve(settings, monkeypatch):
    """Make an application the project's."""
    settings.ASGI_APPLICATION = "a_project.asgi"
    settings.WS_SUPPORT = {}

    def serve(application):
        module = ModuleType("a_project")
        module.asgi = application
        monkeypatch.setitem(sys.modules, "a_project", module)

    return serve


def found():
    """The ids of what is found, and the messages."""
    messages = checks.run_checks()
    return {each.id: each.msg for each in messages if each.id.startswith("ws_support.")}


@pytest.mark.parametrize(
    "application",
    [
        guarded(path("ws", echo), re_path(r"^rooms/(\w+)$", view)),
        guarded(path("a/", URLRouter([path("ws", echo)])), path("b", Heartbeat(echo))),
        routed(path("ws", WebSocketSupport(echo)), path("b", OriginValidator(view))),
        routed(path("ws", Middleware(WebSocketSupport(echo)))),
        ProtocolTypeRouter({"websocket": Middleware(WebSocketSupport(URLRouter([])))}),
        WebSocketSupport(routed(path("ws", echo))),
        function_middleware(WebSocketSupport(routed(path("ws", echo)))),
        # Nobody can look into these.
        ProtocolTypeRouter({"websocket": print}),
        WebSocketSupport(echo).__call__,
    ],
)
def test_an_application_in_order_has_nothing_to_complain_of(serve, application):
    serve(application)
    assert found() == {}
    assert unguarded() == {}


@pytest.mark.parametrize(
    "application",
    [
        routed(path("ws", echo)),
        routed(path("ws", view)),
        routed(path("one", WebSocketSupport(echo)), path("ws", echo)),
        routed(path("one", WebSocketSupport(echo)), path("ws", Heartbeat(echo))),
        routed(path("a/", URLRouter([path("ws", echo)]))),
        function_middleware(routed(path("ws", Middleware(echo)))),
        partial(Middleware(routed(path("ws", function_middleware(echo))))),
        Middleware(routed(path("ws", echo))).__call__,
        ProtocolTypeRouter(
            {"websocket": AllowedHostsOriginValidator(URLRouter([path("ws", echo)]))}
        ),
    ],
)
def test_a_route_without_websocket_support_is_warned_of(serve, application):
    serve(application)
    [(id_, message)] = found().items()
    assert id_ == "ws_support.W009"
    assert message.startswith("The WebSocket route 'ws' of a_project.asgi has no WebSocketSupport")
    lines = summary(get_options(), unguarded())
    assert "origins     NOT checked on every route: a_project.asgi has some" in lines


def test_middleware_that_goes_in_circles_is_looked_at_once(serve):
    circle = Middleware(None)
    circle.app = circle
    serve(routed(path("ws", circle)))
    assert found() == {}


def test_an_application_without_websockets_is_warned_of(serve):
    serve(ProtocolTypeRouter({"http": echo}))
    [(id_, message)] = found().items()
    assert id_ == "ws_support.W007"
    assert message.startswith('a_project.asgi has no key "websocket"')


@pytest.mark.parametrize("route", [path("/ws", echo), re_path(r"^/ws$", echo)])
def test_a_route_that_begins_with_a_slash_is_warned_of(serve, route):
    serve(guarded(route))
    [(id_, message)] = found().items()
    assert id_ == "ws_support.W008"
    assert "begins with a slash" in message


def test_a_consumer_without_as_asgi_is_an_error(serve):
    serve(guarded(path("ws", EchoConsumer)))
    [(id_, message)] = found().items()
    assert id_ == "ws_support.E009"
    assert "leads to the class EchoConsumer itself" in message


def test_a_hub_in_the_place_of_a_consumer_is_told_where_it_belongs(serve):
    class Chat(Hub):
        pass

    serve(guarded(path("ws", Chat)))
    [error] = [each for each in check_application(None) if each.id == "ws_support.E009"]
    assert error.hint.startswith("Write HubRouter(application, {'chat': ")


def test_a_channel_layer_that_is_not_installed_is_an_error(settings, serve):
    serve(guarded(path("ws", echo)))
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "no_such.Layer"}}
    message = found()["ws_support.E012"]
    assert message.startswith(
        "CHANNEL_LAYERS cannot be used: InvalidChannelLayerError: Cannot import BACKEND"
    )
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": "redis://127.0.0.1"},
        }
    }
    assert found()["ws_support.E012"].startswith("CHANNEL_LAYERS cannot be used: ValueError: ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such.application", "cannot be imported: ModuleNotFoundError: No module named 'no"),
        ("application", "cannot be imported: ValueError: Empty module name"),
        ("a_project.missing", "and a_project has no application of that name."),
        ("a_project.__name__", "and a_project has no application of that name."),
    ],
)
def test_an_application_that_cannot_be_imported_is_an_error(settings, serve, name, message):
    serve(echo)
    settings.ASGI_APPLICATION = name
    [(id_, said)] = found().items()
    assert id_ == "ws_support.E008"
    assert said.startswith(f"ASGI_APPLICATION is {name!r}, ")
    assert message in said
    assert unguarded() == {}


def test_an_application_with_a_colon_is_told_to_have_a_dot(settings, serve):
    serve(echo)
    settings.ASGI_APPLICATION = "a_project:application"
    [error] = [each for each in check_application(None) if each.id == "ws_support.E008"]
    assert error.hint == 'Write "a_project.application", with a dot.'


def test_what_an_import_raises_is_one_line(settings, monkeypatch, tmp_path):
    (tmp_path / "raising_asgi.py").write_text(
        "from django.urls import include, path\nfrom channels.routing import URLRouter\n"
        "application = URLRouter([path('a/', include([path('ws', print)]))])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings.ASGI_APPLICATION = "raising_asgi.application"
    message = found()["ws_support.E008"]
    assert "include() is not supported in URLRouter" in message
    assert "\n" not in message


def test_settings_that_are_wrong_are_named_once(settings, serve):
    settings.ASGI_APPLICATION = "no_such.application"
    settings.WS_SUPPORT = {"MAX_MESSAGE_SIZE": 0}
    assert list(found()) == ["ws_support.E004"]


def test_sessions_and_users_need_their_applications(settings, serve):
    serve(ProtocolTypeRouter({"websocket": WebSocketSupport(AuthMiddlewareStack(echo))}))
    settings.INSTALLED_APPS = ["ws_support"]
    # Not by run_checks(): Daphne's own check has no answer without Daphne (4.2).
    messages = [each.msg for each in check_application(None) if each.id == "ws_support.E010"]
    assert [message.partition(", which needs ")[2].split()[0] for message in messages] == [
        "'django.contrib.sessions'",
        "'django.contrib.auth'",
    ]
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    [error] = [each for each in check_application(None) if each.id == "ws_support.E010"]
    assert "AuthMiddleware" in error.msg


def test_a_project_without_hubs_is_checked_without_what_they_need(settings, serve, monkeypatch):
    monkeypatch.delitem(sys.modules, "ws_support.hubs")
    serve(guarded(path("ws", echo)))
    assert check_application(None) == []


def test_hubs_behind_a_route_are_named(settings, serve):
    class Chat(Hub):
        pass

    router = HubRouter(echo, {"chat": Chat})
    serve(guarded(path("hubs", router)))
    assert "'hubs' of " in found()["ws_support.E011"]
    serve(ProtocolTypeRouter({"websocket": router}))
    assert found()["ws_support.W011"].startswith('A HubRouter is under the key "websocket" of a_p')
    serve(ProtocolTypeRouter({"websocket": router, "http": router}))
    assert found() == {}
    serve(router)
    assert found() == {}
    serve(HubRouter(guarded(path("ws", echo)), {"chat": Chat}))
    assert found() == {}


def test_a_hub_for_users_without_anything_that_finds_them_is_warned_of(settings, serve):
    @authorize()
    class Chat(Hub):
        pass

    settings.INSTALLED_APPS = ["ws_support"]
    for more, expected in (
        ({}, ["ws_support.W012"]),
        ({"middleware": lambda application: application}, []),
        ({"authenticate": lambda token: None}, []),
    ):
        serve(HubRouter(echo, {"chat": Chat}, **more))
        assert [each.id for each in check_application(None)] == expected


@pytest.mark.parametrize("name", ["WS_SUPORT", "WS_SUPPORTS", "WSSUPPORT", "WS_SUPPROT"])
def test_a_misspelt_setting_is_named(settings, serve, name):
    serve(guarded())
    setattr(settings, name, {"KEEP_ALIVE_INTERVAL": 30})
    assert found() == {}
    del settings.WS_SUPPORT
    [(id_, message)] = found().items()
    assert id_ == "ws_support.W006"
    assert message.startswith(f"There is a setting {name} and no WS_SUPPORT")


def test_a_project_without_the_setting_is_in_order(settings, serve):
    serve(guarded())
    del settings.WS_SUPPORT
    settings.WS_SUPPORT_TEAM = "admins@client.com"
    assert found() == {}


def test_a_consumer_at_two_paths_is_looked_at_twice(serve):
    serve(guarded(path("/one", echo), path("/two", echo)))
    messages = [each.msg for each in checks.run_checks() if each.id == "ws_support.W008"]
    assert ["'/one'" in messages[0], "'/two'" in messages[1]] == [True, True]


def test_routes_that_are_guarded_at_one_place_and_not_at_another_are_warned_of(serve):
    inner = URLRouter([path("ws", echo)])
    serve(routed(path("one/", WebSocketSupport(inner)), path("two/", inner)))
    assert list(found()) == ["ws_support.W009"]


def test_an_application_without_end_is_looked_at_for_a_while(serve, monkeypatch):
    monkeypatch.setattr("ws_support._project._MAX_NODES", 100)
    made = []

    class Endless:
        @property
        def __dict__(self):
            made.append(Endless())
            return {"inner": made[-1]}

        async def __call__(self, scope, receive, send):
            """Never called."""

    serve(Endless())
    assert found() == {}
    assert len(made) == 100
