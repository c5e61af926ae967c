"""Validators for the values of `WS_SUPPORT`.

A validator yields a `Problem` for each thing that is wrong with a value. Its message continues a
sentence that begins with the name of the setting or argument: a validator does not know that name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from ws_support._protocol.origins import OriginRules, PatternError, WildcardError

Validator: TypeAlias = Callable[[object], "Iterator[Problem]"]

MAX_NUMBER: Final = 2**31 - 1
"""The largest number that the timers and counters of every server can hold."""

LISTS: Final = (list, tuple, set, frozenset)


class Problem(NamedTuple):
    """A problem of a value: why it cannot be used (`message`), and what to write (`hint`)."""

    id: str
    message: str
    hint: str
    key: str = ""
    """Where in the value it is, for a dictionary: '["KEEP_ALIVE_INTERVAL"]'."""


def number(kind: str, *, integer: bool = False, zero: bool = False, none: str = "") -> Validator:
    """Return a validator for `kind`, for example "a number of seconds above 0".

    `none` says what the value `None` stands for, for example "to wait forever". Without `none`, the
    value `None` is refused.
    """
    types = (int,) if integer else (int, float)
    hint = f"Write {kind}, or None {none}." if none else f"Write {kind}."

    def validate(value: object) -> Iterator[Problem]:
        if value is None and none:
            return
        if isinstance(value, bool) or not isinstance(value, types):
            yield Problem("E003", f"is {short(value)}, which is not {kind}.", hint)
        elif not 0 <= value <= MAX_NUMBER or (value == 0 and not zero):
            yield Problem("E004", f"is {short(value)}, which is out of range.", hint)

    return validate


def text(value: object) -> Iterator[Problem]:
    """Validate a string that can be sent."""
    if not isinstance(value, str):
        yield Problem("E003", f"is {short(value)}, which is not a string.", "Write a string.")
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        message = f"is {short(value)}, which cannot be sent: half of a surrogate pair."
        yield Problem("E003", message, "Write whole characters.")


def optional_text(value: object) -> Iterator[Problem]:
    """Validate a string that can be sent, or `None`."""
    if value is not None:
        yield from text(value)


def broker(value: object) -> Iterator[Problem]:
    """Validate a broker. The URL of a Redis may have a password, so no message has it."""
    if value is None or value in ("redis", "channel_layer"):
        return
    hint = 'Write "redis://127.0.0.1:6379/0", "redis", "channel_layer", or None.'
    if not isinstance(value, str):
        yield Problem("E003", f"is {short(value)}, which is not a string.", hint)
    elif not re.match(r"(rediss?(\+cluster)?|unix)://[^\s]+\Z", value):
        message = 'is neither "redis" nor "channel_layer" nor the URL of a Redis.'
        yield Problem("E003", message, hint)


def boolean(value: object) -> Iterator[Problem]:
    """Validate `True` or `False`."""
    if not isinstance(value, bool):
        message = f"is {short(value)}, which is neither True nor False."
        yield Problem("E003", message, "Write True or False.")


def origins(value: object) -> Iterator[Problem]:
    """Validate a list of origin patterns, or `None`."""
    if value is None:
        return
    if not isinstance(value, LISTS):
        hint = 'Write a list of origins, for example ["https://client.com"].'
        yield Problem("E003", f"is {short(value)}, which is not a list.", hint)
        return
    for pattern in value:
        if not isinstance(pattern, str):
            message = f"holds {short(pattern)}, which is not a string."
            yield Problem("E003", message, 'Write "https://client.com".')
        elif error := pattern_error(pattern):
            id_ = "E006" if isinstance(error, WildcardError) else "E005"
            yield Problem(id_, f"holds {short(pattern)}, which {error}.", error.hint)


def pattern_error(pattern: str) -> PatternError | None:
    """Return what is wrong with an origin pattern, or `None`."""
    try:
        OriginRules([pattern])
    except PatternError as error:
        return error
    return None


def regexes(value: object) -> Iterator[Problem]:
    """Validate a list of regular expressions for text, compiled or not."""
    example = r'r"https://\w+\.client\.com"'
    if not isinstance(value, LISTS):
        message = f"is {short(value)}, which is not a list."
        yield Problem("E003", message, f"Write a list of regular expressions: [{example}].")
        return
    for regex in value:
        if isinstance(regex, re.Pattern) and isinstance(regex.pattern, str):
            continue
        if not isinstance(regex, str):
            message = f"holds {short(regex)}, which is not a regular expression for text."
            yield Problem("E003", message, f"Write {example}.")
            continue
        try:
            re.compile(regex)
        except (re.error, OverflowError, RecursionError) as error:
            message = f"holds {short(regex)}, which is not a regular expression: {error}."
            yield Problem("E007", message, f"Write it as Python's re module reads it: {example}.")


def dictionary_problems(
    value: object, options: Mapping[str, Mapping[str, Any]], example: str
) -> Iterator[Problem]:
    """Validate a dictionary whose keys are among `options`, each of which has a validator under
    `validate`."""
    if not isinstance(value, Mapping):
        yield Problem("E003", f"is {short(value)}, which is not a dictionary.", f"Write {example}.")
        return
    for key, option in value.items():
        if key not in options:
            yield Problem("E002", f"has no key {short(key)}.", known_keys(key, options))
            continue
        for problem in options[key]["validate"](option):
            yield problem._replace(key=f'["{key}"]{problem.key}')


def known_keys(key: object, known: Iterable[str]) -> str:
    """Return the hint for a key that is none of those that are known."""
    by_letters = {each.upper(): each for each in known}
    close = difflib.get_close_matches(str(key).upper(), by_letters, n=1)
    if close:
        return f"Did you mean {by_letters[close[0]]!r}?"
    return f"The keys are {', '.join(by_letters.values())}."


def short(value: object) -> str:
    """Return `repr(value)`, cut off after 100 characters."""
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:97]}..."
