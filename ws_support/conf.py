"""The setting `WS_SUPPORT`, read once into a frozen `Options`.

No other module of the package reads Django's settings.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from ws_support._hub_options import HubOptions, hub_options, hub_options_problems
from ws_support._protocol.origins import OriginRules
from ws_support._topic_options import TopicOptions, topic_options, topics_problems
from ws_support._validators import (
    LISTS,
    Problem,
    Validator,
    boolean,
    broker,
    known_keys,
    number,
    optional_text,
    origins,
    pattern_error,
    regexes,
    short,
    text,
)

__all__ = ["FROM_SETTINGS", "SETTINGS", "Options", "get_options"]


class FromSettings(Enum):
    """The type of `FROM_SETTINGS`."""

    FROM_SETTINGS = "from the settings"


FROM_SETTINGS: Final = FromSettings.FROM_SETTINGS
"""The default of a middleware's keyword argument: the value in `WS_SUPPORT` is used."""


class Setting(NamedTuple):
    """One key of `WS_SUPPORT`."""

    type: str
    default: Any
    validate: Validator
    description: str
    """One line of Markdown, with the unit."""


def _setting(default: Any, validate: Validator, description: str) -> Any:
    return field(default=default, metadata={"validate": validate, "description": description})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The values of `WS_SUPPORT`: each key in lower case, with its default and its validator.

    A new key needs only a row here, and its headings in README.md and docs/settings.md.
    """

    allowed_origins: tuple[str, ...] | None = _setting(
        None,
        origins,
        "Patterns of origins that may connect; `None`: the hosts of `ALLOWED_HOSTS`.",
    )
    allowed_origin_regexes: tuple[str | re.Pattern[str], ...] = _setting(
        (), regexes, "Regular expressions that match a whole serialized origin."
    )
    allow_missing_origin: bool = _setting(
        False, boolean, "Admit clients that send no `Origin` header."
    )
    keep_alive_interval: float | None = _setting(
        120,
        number("a number of seconds from 0", zero=True, none="for no pings"),
        "Seconds between ping frames from the server; `None` or 0: no pings.",
    )
    keep_alive_timeout: float | None = _setting(
        20,
        number("a number of seconds above 0", none="to wait forever"),
        "Seconds to wait for a pong before the connection is dropped; `None`: forever.",
    )
    heartbeat_interval: float | None = _setting(
        None,
        number("a number of seconds above 0", none="for no heartbeat"),
        "Seconds within which every client has to send a message; `None`: no heartbeat.",
    )
    heartbeat_message: str | None = _setting(
        "\x05",
        optional_text,
        "The text that a client sends as its heartbeat; `None`: every message is handed on.",
    )
    heartbeat_reply: str = _setting("\x06", text, "The text that answers a heartbeat.")
    max_message_size: int = _setting(
        1024 * 1024,
        number("a whole number of bytes above 0", integer=True),
        "Bytes; a larger message closes the connection with 1009.",
    )
    per_message_deflate: bool = _setting(
        False, boolean, "Compress messages for clients that offer it (RFC 7692)."
    )
    broadcast_queue: int = _setting(
        64,
        number("a whole number of messages above 0", integer=True),
        "Messages that wait for a subscriber; one more closes its connection with 1013.",
    )
    broker: str | None = _setting(
        None,
        broker,
        'What carries broadcasts between processes: `"redis"` with the hosts of the channel layer,'
        ' `"channel_layer"`, or the URL of a Redis or a Redis Cluster; `None`: `"redis"` if the'
        " layer has one.",
    )
    max_subscriptions: int = _setting(
        1000,
        number("a whole number of topics above 0", integer=True),
        "Topics that one connection may subscribe to.",
    )
    topics_publish_rate: float | None = _setting(
        20,
        number("a number of messages above 0", none="for no limit"),
        "Messages a second that one connection may publish through `TopicsHub`, five seconds' worth"
        " of them at once; `None`: no limit.",
    )
    shutdown_timeout: float = _setting(
        10,
        number("a number of seconds above 0"),
        "Seconds from the signal to stop until the server has ended.",
    )
    hubs: HubOptions = _setting(  # noqa: RUF009  # It is frozen.
        HubOptions(), hub_options_problems, "A dictionary with the options of all hubs."
    )
    topics: tuple[tuple[str, TopicOptions], ...] = _setting(
        (),
        topics_problems,
        "A dictionary of patterns, each with a dictionary of the rules of its topics.",
    )

    allowed_hosts: tuple[str, ...] = ()
    """The hosts of `ALLOWED_HOSTS`. This is not a key of `WS_SUPPORT`."""

    def origin_rules(self) -> OriginRules:
        """Return the compiled rules for the origins that these options admit."""
        if self.allowed_origins is None:
            return OriginRules(filter(_is_host, self.allowed_hosts), self.allowed_origin_regexes)
        return OriginRules(self.allowed_origins, self.allowed_origin_regexes)


SETTINGS: Final = {
    each.name.upper(): Setting(str(each.type), each.default, **each.metadata)
    for each in fields(Options)
    if each.metadata
}
"""The keys of `WS_SUPPORT`."""


def get_options() -> Options:
    """Return the options of the settings, which are read again when a test overrides them.

    Raises `ImproperlyConfigured` with a line for each problem that `settings_problems()` finds.
    """
    return _read_settings()


@lru_cache(maxsize=1)
def _read_settings() -> Options:
    found = list(settings_problems())
    if found:
        raise ImproperlyConfigured("\n".join(f"{each.message} {each.hint}" for each in found))
    given = {key.lower(): _frozen(value) for key, value in _settings_dict().items()}
    if "hubs" in given:
        given["hubs"] = hub_options(given["hubs"])
    if "topics" in given:
        given["topics"] = topic_options(given["topics"])
    return Options(**given, allowed_hosts=_allowed_hosts())


def settings_problems() -> Iterator[Problem]:
    """Yield the problems of `WS_SUPPORT`; none if it can be used."""
    given = _settings_dict()
    if not isinstance(given, dict):
        message = f"WS_SUPPORT is {short(given)}, which is not a dictionary."
        yield Problem("E001", message, 'Write WS_SUPPORT = {"KEEP_ALIVE_INTERVAL": 30}.')
        return
    for key, value in given.items():
        if key not in SETTINGS:
            hint = known_keys(key, SETTINGS)
            yield Problem("E002", f"WS_SUPPORT has no key {short(key)}.", hint)
            continue
        for problem in SETTINGS[key].validate(value):
            name = f'WS_SUPPORT["{key}"]{problem.key}'
            yield problem._replace(message=f"{name} {problem.message}")


class MiddlewareOptions:
    """The options of a middleware: those of the settings, some replaced by its keyword arguments.

    `owner` is the name of the middleware, for error messages. `names` maps each key of `WS_SUPPORT`
    to the argument that replaces it. Raises `ImproperlyConfigured` at once for an argument or a
    setting that cannot be used.
    """

    def __init__(self, owner: str, names: Mapping[str, str], **arguments: Any) -> None:
        given = {
            key: arguments[name]
            for key, name in names.items()
            if arguments[name] is not FROM_SETTINGS
        }
        for key, value in given.items():
            for problem in SETTINGS[key].validate(value):
                raise ImproperlyConfigured(
                    f"{owner}(): {names[key]} {problem.message} {problem.hint}"
                )
        self._replaced = {key.lower(): _frozen(value) for key, value in given.items()}
        self._base: Options | None = None
        self._options = self()

    def __call__(self) -> Options:
        """Return the options. The cost is one comparison, unless the settings were overridden."""
        base = get_options()
        if base is not self._base:
            self._base = base
            self._options = self.over(base)
        return self._options

    def over(self, options: Options) -> Options:
        """Return `options` with the arguments of this middleware in place of some values."""
        return replace(options, **self._replaced)


def is_debug() -> bool:
    """Return the setting `DEBUG`."""
    return bool(settings.DEBUG)


def asgi_application() -> str | None:
    """Return the setting `ASGI_APPLICATION`, the dotted path of an application, or `None`."""
    return getattr(settings, "ASGI_APPLICATION", None) or None


def needs_the_sessions_application() -> bool:
    """Return True if sessions are kept in the database, by `django.contrib.sessions`."""
    return settings.SESSION_ENGINE in {
        "django.contrib.sessions.backends.db",
        "django.contrib.sessions.backends.cached_db",
    }


def misspelt_setting() -> str | None:
    """Return the name of a setting that is nearly `WS_SUPPORT`, if `WS_SUPPORT` is missing."""
    if hasattr(settings, "WS_SUPPORT"):
        return None
    close = difflib.get_close_matches("WS_SUPPORT", dir(settings), n=1, cutoff=0.85)
    return close[0] if close else None


def _settings_dict() -> Any:
    return getattr(settings, "WS_SUPPORT", {})


def _allowed_hosts() -> tuple[str, ...]:
    if settings.DEBUG and not settings.ALLOWED_HOSTS:
        # The same hosts as in Django's HttpRequest.get_host().
        return (".localhost", "127.0.0.1", "[::1]")
    return tuple(settings.ALLOWED_HOSTS)


def _forget(*, setting: str, **_: object) -> None:
    if setting in {"WS_SUPPORT", "ALLOWED_HOSTS", "DEBUG"}:
        _read_settings.cache_clear()


setting_changed.connect(_forget)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, LISTS) else value


def _is_host(host: object) -> bool:
    """Return True if Django could match a host with this entry of `ALLOWED_HOSTS`."""
    return (
        isinstance(host, str)
        and "://" not in host
        and host != "null"
        and pattern_error(host) is None
    )
