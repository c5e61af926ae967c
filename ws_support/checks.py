"""System checks for `manage.py check`, which find wrong settings before the first connection."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter
from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004
from django.core.exceptions import ImproperlyConfigured

from ws_support import conf
from ws_support._project import (
    Node,
    is_unguarded,
    load_application,
    websocket_parts,
)
from ws_support._topics.brokers import broker_class, is_between_processes
from ws_support._topics.rules import rules_problems, titles_of_kept
from ws_support._validators import Problem

__all__ = [
    "check_application",
    "check_deployment",
    "check_project",
    "check_settings",
    "check_topics",
]


def check_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Return an error for each problem of `WS_SUPPORT`."""
    return [_error(problem) for problem in conf.settings_problems()]


def check_topics(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Return an error for each problem of the rules of topics, in classes and in the settings."""
    return [_error(problem) for problem in rules_problems()]


def _error(problem: Problem) -> CheckMessage:
    return Error(problem.message, hint=problem.hint, id=f"ws_support.{problem.id}")


def check_project(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Return warnings for a project in which a part of this package cannot work."""
    found: list[CheckMessage] = []
    names = [config.name for config in apps.get_app_configs()]
    # Django runs a command from the first application that has it.
    for other in ("daphne", "django.contrib.staticfiles"):
        if other in names and names.index(other) < names.index("ws_support"):
            found.append(
                Warning(
                    f"INSTALLED_APPS has ws_support after {other}, so that `manage.py runserver`"
                    f" is the one of {other} and knows nothing of WS_SUPPORT.",
                    hint='Put "ws_support" first in INSTALLED_APPS.',
                    id="ws_support.W004",
                )
            )
            break
    if misspelt := conf.misspelt_setting():
        found.append(
            Warning(
                f"There is a setting {misspelt} and no WS_SUPPORT: every key has its default.",
                hint="Name it WS_SUPPORT.",
                id="ws_support.W006",
            )
        )
    try:
        get_channel_layer()
    except Exception as error:  # The backend is made, of any class.
        found.append(
            Error(
                f"CHANNEL_LAYERS cannot be used: {type(error).__name__}: {error}.",
                hint='For Redis: pip install "django-ws-support[redis]".',
                id="ws_support.E012",
            )
        )
    else:
        found += _broker_problems()
    if conf.asgi_application() is None:
        found.append(
            Warning(
                "ASGI_APPLICATION is not set, so that `manage.py runserver` does not start.",
                hint='Set ASGI_APPLICATION = "mysite.asgi.application".',
                id="ws_support.W005",
            )
        )
    return found


def _broker_problems() -> Iterator[CheckMessage]:
    if any(conf.settings_problems()):
        return
    try:
        broker = broker_class()
    except ImproperlyConfigured as error:
        yield Error(str(error), id="ws_support.E013")
        return
    if not broker.has_history and (titles := titles_of_kept()):
        yield Warning(
            f"A channel layer has no history and no presence, which {', '.join(titles)} asks for.",
            hint='For Redis, leave WS_SUPPORT["BROKER"] out, or write its URL there.',
            id="ws_support.W013",
        )


def check_application(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Return errors and warnings for the application that `ASGI_APPLICATION` names.

    The application is imported for that.
    """
    # Other checks report a missing ASGI_APPLICATION and wrong settings. With wrong settings, the
    # import of asgi.py would fail and report the same again.
    if conf.asgi_application() is None or any(conf.settings_problems()):
        return []
    try:
        application = load_application()
    except ImproperlyConfigured as error:
        name = conf.asgi_application() or ""
        # A colon stands there on the command lines of servers.
        hint = (
            f'Write "{name.replace(":", ".")}", with a dot.'
            if ":" in name
            else "Mend it there: no server can start without it."
        )
        return [Error(str(error), hint=hint, id="ws_support.E008")]
    parts = list(websocket_parts(application))
    return [
        *_missing_protocol(application),
        *(message for part in parts for message in _route_problems(part)),
        *_missing_applications(parts),
        *_routed_hubs(application, parts),
    ]


def _missing_protocol(application: Any) -> Iterator[CheckMessage]:
    if not isinstance(application, ProtocolTypeRouter):
        return
    if "websocket" not in application.application_mapping:
        yield Warning(
            f'{_name()} has no key "websocket", so that it serves no WebSockets.',
            hint='Add "websocket": WebSocketSupport(URLRouter([...])) to its ProtocolTypeRouter.',
            id="ws_support.W007",
        )


def _route_problems(part: Node) -> Iterator[CheckMessage]:
    if part.route is None or not part.is_last:
        return
    where = f"The WebSocket route {str(part.route.pattern)!r} of {_name()}"
    if inspect.isclass(part.application):
        name = part.application.__qualname__
        hubs = _hubs()
        is_hub = hubs is not None and issubclass(part.application, hubs.Hub)
        yield Error(
            f"{where} leads to the class {name} itself, and each connection there fails.",
            hint=f"Write HubRouter(application, {{'chat': {name}}}) around everything else."
            if is_hub
            else f"Write {name}.as_asgi().",
            id="ws_support.E009",
        )
    if str(part.route.pattern).lstrip("^").startswith("/"):
        yield Warning(
            f"{where} begins with a slash, which URLRouter takes off a path: nothing gets there.",
            hint="Leave the slash out.",
            id="ws_support.W008",
        )
    if is_unguarded(part):
        yield Warning(
            f"{where} has no WebSocketSupport around it: origins are not checked, and there are"
            " no heartbeat and no signals.",
            hint='Write "websocket": WebSocketSupport(URLRouter([...])).',
            id="ws_support.W009",
        )


def _missing_applications(parts: list[Node]) -> Iterator[CheckMessage]:
    # Imported here, not when Django starts: if asgi.py uses them, they are imported by now.
    from channels.auth import AuthMiddleware
    from channels.sessions import SessionMiddleware

    wanted = {
        SessionMiddleware: ("django.contrib.sessions", conf.needs_the_sessions_application()),
        AuthMiddleware: ("django.contrib.auth", True),
    }
    for middleware, (name, is_needed) in wanted.items():
        is_used = any(isinstance(part.application, middleware) for part in parts)
        if is_used and is_needed and not apps.is_installed(name):
            yield Error(
                f"{_name()} uses {middleware.__name__}, which needs {name!r} in INSTALLED_APPS:"
                " each connection fails.",
                hint=f"Add {name!r}, or leave {middleware.__name__} out.",
                id="ws_support.E010",
            )


def _routed_hubs(application: Any, parts: list[Node]) -> Iterator[CheckMessage]:
    if (hubs := _hubs()) is None:
        return
    hint = "Put it around everything else: application = HubRouter(application, {...})."
    routers = [part for part in parts if isinstance(part.application, hubs.HubRouter)]
    for part in routers:
        if part.application.without_users:
            yield Warning(
                f"{part.application.without_users[0]} has authorize(), and HubRouter has nothing"
                " that finds users: each request fails, unless a middleware around HubRouter sets"
                ' scope["user"].',
                hint="Give HubRouter a middleware= or authenticate=, or add 'django.contrib.auth'"
                " and 'django.contrib.sessions' to INSTALLED_APPS.",
                id="ws_support.W012",
            )
        if part.route is not None:
            yield Error(
                f"The WebSocket route {str(part.route.pattern)!r} of {_name()} leads to a"
                " HubRouter, which gets no HTTP requests there: clients cannot negotiate with its"
                " hubs.",
                hint=hint,
                id="ws_support.E011",
            )
    if routers and isinstance(application, ProtocolTypeRouter):
        of_http = websocket_parts(application.application_mapping.get("http"))
        if not any(isinstance(part.application, hubs.HubRouter) for part in of_http):
            yield Warning(
                f'A HubRouter is under the key "websocket" of {_name()}, and none under "http":'
                " clients that negotiate cannot connect to its hubs.",
                hint=hint,
                id="ws_support.W011",
            )


def _hubs() -> Any:
    """Return the module of hubs if it is in use: what it needs may not be installed."""
    return sys.modules.get("ws_support.hubs")


def _name() -> str:
    return conf.asgi_application() or ""


def check_deployment(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Return warnings for settings that are fine for development, but not in production."""
    try:
        options = conf.get_options()
    except ImproperlyConfigured:
        return []  # check_settings says why.
    found: list[CheckMessage] = []
    if options.allowed_origins is None and "*" in options.allowed_hosts:
        found.append(
            Warning(
                'ALLOWED_HOSTS holds "*" and WS_SUPPORT["ALLOWED_ORIGINS"] is not set, so that'
                " every site can open sockets as your users.",
                hint='Set WS_SUPPORT["ALLOWED_ORIGINS"] to the origins of your own pages.',
                id="ws_support.W001",
            )
        )
    interval = options.keep_alive_interval
    if not interval or interval > 60:
        found.append(
            Warning(
                f'WS_SUPPORT["KEEP_ALIVE_INTERVAL"] is {interval!r}, and proxies cut connections'
                " that are idle for 60 seconds.",
                hint=(
                    "Set it below the idle timeout of the proxy (nginx: proxy_read_timeout,"
                    " HAProxy: timeout tunnel, AWS: idle_timeout.timeout_seconds), for example"
                    " to 30."
                ),
                id="ws_support.W002",
            )
        )
    if options.allowed_origins is not None and "*" in options.allowed_origins:
        found.append(
            Warning(
                'WS_SUPPORT["ALLOWED_ORIGINS"] holds "*", so every site can open sockets as'
                " your users.",
                hint="List the origins of your own pages.",
                id="ws_support.W003",
            )
        )
    if not is_between_processes():
        found.append(
            Warning(
                "CHANNEL_LAYERS has no layer between processes, so that nobody hears what another"
                " worker, a task or a shell broadcasts or sends to a group.",
                hint=(
                    'Install "django-ws-support[redis]" and set the BACKEND to'
                    " channels_redis.core.RedisChannelLayer, or silence this if one process is all"
                    " there is."
                ),
                id="ws_support.W010",
            )
        )
    return found
