"""The setting `WS_SUPPORT`, read once into a frozen `Options`.

Nothing else in the package reads Django's settings.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from ws_support.origins import OriginRules, PatternError, WildcardError


class FromSettings(Enum):
    """The type of `FROM_SETTINGS`."""

    FROM_SETTINGS = "from the settings"


FROM_SETTINGS: Final = FromSettings.FROM_SETTINGS
"""The default of a middleware's keyword argument: what `WS_SUPPORT` says."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `WS_SUPPORT` says, each key in lower case, with its default and unit."""

    allowed_origins: tuple[str, ...] | None = None
    """Origin patterns that may connect; `None`: the hosts of `ALLOWED_HOSTS`."""

    allowed_origin_regexes: tuple[str | re.Pattern[str], ...] = ()
    """Regular expressions that match a whole serialized origin."""

    allow_missing_origin: bool = False
    """Admit clients that send no `Origin` header."""

    keep_alive_interval: float | None = 120
    """Seconds between ping frames from the server; `None` or 0: none."""

    keep_alive_timeout: float | None = 20
    """Seconds to wait for a pong before the connection is dropped; `None`: forever."""

    heartbeat_interval: float | None = None
    """Seconds within which the client promises a message; `None`: it promises nothing."""

    heartbeat_message: str | None = "\x05"
    """The text that a client sends as its heartbeat; `None`: every message is handed on."""

    heartbeat_reply: str = "\x06"
    """The text that answers it."""

    max_message_size: int = 1024 * 1024
    """Bytes; a larger message closes the connection with 1009."""

    per_message_deflate: bool = False
    """Compress messages for clients that offer it (RFC 7692)."""

    broadcast_queue: int = 64
    """Messages that wait for a subscriber; one more closes its connection with 1013."""

    max_subscriptions: int = 1000
    """Topics that one connection may subscribe to."""

    shutdown_timeout: float = 10
    """Seconds from the signal to stop until the server has ended."""

    allowed_hosts: tuple[str, ...] = ()
    """The hosts of `ALLOWED_HOSTS`. No key of `WS_SUPPORT`."""

    def origin_rules(self) -> OriginRules:
        """The origins that these options admit, compiled."""
        if self.allowed_origins is None:
            return OriginRules(filter(_is_host, self.allowed_hosts), self.allowed_origin_regexes)
        return OriginRules(self.allowed_origins, self.allowed_origin_regexes)


class Problem(NamedTuple):
    """A value that cannot be used: `message` says which and why, `hint` what to write instead."""

    id: str
    message: str
    hint: str


def get_options() -> Options:
    """The options that the settings ask for; read again when a test overrides them.

    Raises `ImproperlyConfigured` with a line for each problem that `problems` finds.
    """
    return _read_settings()


@lru_cache(maxsize=1)
def _read_settings() -> Options:
    found = list(settings_problems())
    if found:
        raise ImproperlyConfigured("\n".join(f"{each.message} {each.hint}" for each in found))
    given = {key.lower(): _frozen(value) for key, value in _settings_dict().items()}
    return Options(**given, allowed_hosts=_allowed_hosts())


def settings_problems() -> Iterator[Problem]:
    """What is wrong with `WS_SUPPORT`: nothing when it can be used."""
    given = _settings_dict()
    if not isinstance(given, dict):
        message = f"WS_SUPPORT is {_short(given)}, which is not a dictionary."
        yield Problem("E001", message, 'Write WS_SUPPORT = {"KEEP_ALIVE_INTERVAL": 30}.')
        return
    for key, value in given.items():
        if key not in _VALIDATORS:
            yield Problem("E002", f"WS_SUPPORT has no key {_short(key)}.", _known_keys(key))
            continue
        for problem in _VALIDATORS[key](value):
            yield problem._replace(message=f'WS_SUPPORT["{key}"] {problem.message}')


class MiddlewareOptions:
    """`get_options()` with some values replaced by a middleware's keyword arguments.

    `owner` is the middleware's name and `names` maps each key of `WS_SUPPORT` to the argument that
    replaces it, for the error. Raises `ImproperlyConfigured` at once for a value that cannot be
    used, and for settings that cannot.
    """

    def __init__(self, owner: str, names: Mapping[str, str], **arguments: Any) -> None:
        given = {
            key: arguments[name]
            for key, name in names.items()
            if arguments[name] is not FROM_SETTINGS
        }
        for key, value in given.items():
            for problem in _VALIDATORS[key](value):
                raise ImproperlyConfigured(
                    f"{owner}(): {names[key]} {problem.message} {problem.hint}"
                )
        self._replaced = {key.lower(): _frozen(value) for key, value in given.items()}
        self._base: Options | None = None
        self._options = self()

    def __call__(self) -> Options:
        """The options now. Cheap: compares one reference unless the settings were overridden."""
        base = get_options()
        if base is not self._base:
            self._base = base
            self._options = self.over(base)
        return self._options

    def over(self, options: Options) -> Options:
        """`options` with what this middleware was given."""
        return replace(options, **self._replaced)


def asgi_application() -> str | None:
    """The ASGI application that the project says to serve, as a dotted path."""
    return getattr(settings, "ASGI_APPLICATION", None) or None


def needs_the_sessions_application() -> bool:
    """Return True if sessions are kept in the database, by `django.contrib.sessions`."""
    return settings.SESSION_ENGINE in {
        "django.contrib.sessions.backends.db",
        "django.contrib.sessions.backends.cached_db",
    }


def misspelt_setting() -> str | None:
    """Return the setting whose name is nearly `WS_SUPPORT`, if `WS_SUPPORT` itself is missing."""
    if hasattr(settings, "WS_SUPPORT"):
        return None
    close = difflib.get_close_matches("WS_SUPPORT", dir(settings), n=1, cutoff=0.85)
    return close[0] if close else None


def _settings_dict() -> Any:
    return getattr(settings, "WS_SUPPORT", {})


def _allowed_hosts() -> tuple[str, ...]:
    if settings.DEBUG and not settings.ALLOWED_HOSTS:
        # The same as Django's HttpRequest.get_host().
        return (".localhost", "127.0.0.1", "[::1]")
    return tuple(settings.ALLOWED_HOSTS)


def _forget(*, setting: str, **_: object) -> None:
    if setting in {"WS_SUPPORT", "ALLOWED_HOSTS", "DEBUG"}:
        _read_settings.cache_clear()


setting_changed.connect(_forget)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, _LISTS) else value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _known_keys(key: object) -> str:
    close = difflib.get_close_matches(str(key).upper(), _VALIDATORS, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"The keys are {', '.join(_VALIDATORS)}."


# A validator yields a problem for each thing that is wrong with a value. The messages go on after
# the name of the setting or argument, which it does not know.


def _number(
    kind: str, *, integer: bool = False, zero: bool = False, none: str = ""
) -> Callable[[object], Iterator[Problem]]:
    """`none` says what `None` stands for; without it, `None` is no value."""
    types = (int,) if integer else (int, float)
    hint = f"Write {kind}, or None {none}." if none else f"Write {kind}."

    def validate(value: object) -> Iterator[Problem]:
        if value is None and none:
            return
        if isinstance(value, bool) or not isinstance(value, types):
            yield Problem("E003", f"is {_short(value)}, which is not {kind}.", hint)
        elif not 0 <= value <= _MAX_NUMBER or (value == 0 and not zero):
            yield Problem("E004", f"is {_short(value)}, which is out of range.", hint)

    return validate


def _text(value: object) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield Problem("E003", f"is {_short(value)}, which is not a string.", "Write a string.")
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        message = f"is {_short(value)}, which cannot be sent: half of a surrogate pair."
        yield Problem("E003", message, "Write whole characters.")


def _optional_text(value: object) -> Iterator[Problem]:
    if value is not None:
        yield from _text(value)


def _boolean(value: object) -> Iterator[Problem]:
    if not isinstance(value, bool):
        message = f"is {_short(value)}, which is neither True nor False."
        yield Problem("E003", message, "Write True or False.")


def _origins(value: object) -> Iterator[Problem]:
    if value is None:
        return
    if not isinstance(value, _LISTS):
        hint = 'Write a list of origins, for example ["https://client.com"].'
        yield Problem("E003", f"is {_short(value)}, which is not a list.", hint)
        return
    for pattern in value:
        if not isinstance(pattern, str):
            message = f"holds {_short(pattern)}, which is not a string."
            yield Problem("E003", message, 'Write "https://client.com".')
        elif error := _pattern_error(pattern):
            id_ = "E006" if isinstance(error, WildcardError) else "E005"
            yield Problem(id_, f"holds {_short(pattern)}, which {error}.", error.hint)


def _pattern_error(pattern: str) -> PatternError | None:
    try:
        OriginRules([pattern])
    except PatternError as error:
        return error
    return None


def _is_host(host: object) -> bool:
    """Whether Django could match this entry of `ALLOWED_HOSTS`."""
    return (
        isinstance(host, str)
        and "://" not in host
        and host != "null"
        and _pattern_error(host) is None
    )


def _regexes(value: object) -> Iterator[Problem]:
    example = r'r"https://\w+\.client\.com"'
    if not isinstance(value, _LISTS):
        message = f"is {_short(value)}, which is not a list."
        yield Problem("E003", message, f"Write a list of regular expressions: [{example}].")
        return
    for regex in value:
        if isinstance(regex, re.Pattern) and isinstance(regex.pattern, str):
            continue
        if not isinstance(regex, str):
            message = f"holds {_short(regex)}, which is not a regular expression for text."
            yield Problem("E003", message, f"Write {example}.")
            continue
        try:
            re.compile(regex)
        except (re.error, OverflowError, RecursionError) as error:
            message = f"holds {_short(regex)}, which is not a regular expression: {error}."
            yield Problem("E007", message, f"Write it as Python's re module reads it: {example}.")


_MAX_NUMBER: Final = 2**31 - 1  # What the timers and counters of every server can hold.
_LISTS: Final = (list, tuple, set, frozenset)

_VALIDATORS: Final[dict[str, Callable[[object], Iterator[Problem]]]] = {
    "ALLOWED_ORIGINS": _origins,
    "ALLOWED_ORIGIN_REGEXES": _regexes,
    "ALLOW_MISSING_ORIGIN": _boolean,
    "KEEP_ALIVE_INTERVAL": _number("a number of seconds from 0", zero=True, none="for no pings"),
    "KEEP_ALIVE_TIMEOUT": _number("a number of seconds above 0", none="to wait forever"),
    "HEARTBEAT_INTERVAL": _number("a number of seconds above 0", none="for no heartbeat"),
    "HEARTBEAT_MESSAGE": _optional_text,
    "HEARTBEAT_REPLY": _text,
    "MAX_MESSAGE_SIZE": _number("a whole number of bytes above 0", integer=True),
    "PER_MESSAGE_DEFLATE": _boolean,
    "BROADCAST_QUEUE": _number("a whole number of messages above 0", integer=True),
    "MAX_SUBSCRIPTIONS": _number("a whole number of topics above 0", integer=True),
    "SHUTDOWN_TIMEOUT": _number("a number of seconds above 0"),
}
