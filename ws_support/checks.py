"""`manage.py check`: every wrong setting, named before the first connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004
from django.core.exceptions import ImproperlyConfigured

from ws_support import conf
from ws_support.hub import is_between_processes


def check_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """An error for each thing that is wrong with `WS_SUPPORT`."""
    return [
        Error(problem.message, hint=problem.hint, id=f"ws_support.{problem.id}")
        for problem in conf.settings_problems()
    ]


def check_project(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Warnings for a project in which something of ours cannot work."""
    found: list[CheckMessage] = []
    names = [config.name for config in apps.get_app_configs()]
    # Django takes a command from the first application that has it.
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
    if conf.asgi_application() is None:
        found.append(
            Warning(
                "ASGI_APPLICATION is not set, so that `manage.py runserver` does not start.",
                hint='Set ASGI_APPLICATION = "mysite.asgi.application".',
                id="ws_support.W005",
            )
        )
    return found


def check_deployment(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Warnings for what is fine on your own machine and is not in production."""
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
                id="ws_support.W015",
            )
        )
    return found
