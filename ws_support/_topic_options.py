"""The rules of topics in the settings: `WS_SUPPORT["TOPICS"]`, a dictionary for each pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from ws_support._validators import Problem, boolean, dictionary_problems, number, short


def _permission(value: object) -> Iterator[Problem]:
    """Validate `True`, `False`, or the dotted path of a function."""
    if not isinstance(value, bool) and not _is_dotted_path(value):
        message = f"is {short(value)}, which is neither True nor False nor a dotted path."
        yield Problem("E003", message, 'Write True, False, or "app.rules.may_read".')


def _snapshot(value: object) -> Iterator[Problem]:
    """Validate the dotted path of a function, or `None`."""
    if value is not None and not _is_dotted_path(value):
        message = f"is {short(value)}, which is not a dotted path."
        yield Problem("E003", message, 'Write "app.rules.state_of", or None for no snapshot.')


def _is_dotted_path(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value) is not None


def _option(default: Any, validate: Any, description: str) -> Any:
    return field(default=default, metadata={"validate": validate, "description": description})


@dataclass(frozen=True, kw_only=True)
class TopicOptions:
    """The rules of one pattern: each key, with its default and its validator."""

    history: int = _option(
        0,
        number("a whole number of messages from 0", integer=True, zero=True),
        "Messages that are kept; 0: none.",
    )
    history_seconds: float = _option(
        600,
        number("a number of seconds above 0"),
        "Seconds that they are kept after the last one.",
    )
    presence: bool = _option(False, boolean, "Say who is there.")
    may_subscribe: bool | str = _option(
        False,
        _permission,
        "Which users may subscribe from a page: all, nobody, or those for whom a function of"
        " `(user, **kwargs)` returns True.",
    )
    may_publish: bool | str = _option(
        False,
        _permission,
        "Which users may publish from a page; a function gets `(user, message, **kwargs)`.",
    )
    snapshot: str | None = _option(
        None,
        _snapshot,
        "A function of `(user, **kwargs)` that returns the state of a topic; `None`: none.",
    )


OPTIONS: Final = {each.name: each.metadata for each in fields(TopicOptions)}
"""The keys of one pattern."""

_EXAMPLE: Final = '{"history": 100, "may_subscribe": True}'

VALUES: Final = ("history", "history_seconds", "presence")
"""The keys that are attributes of a `Topic` as well; the others are its methods."""


def topics_problems(value: object) -> Iterator[Problem]:
    """Validate the value of `WS_SUPPORT["TOPICS"]`, but for patterns and what paths lead to.

    For those, converters and applications have to be loaded: `manage.py check` judges them.
    """
    if not isinstance(value, Mapping):
        message = f"is {short(value)}, which is not a dictionary."
        yield Problem("E003", message, 'Write {"news/<slug:name>": {"history": 100}}.')
        return
    for pattern, options in value.items():
        if not isinstance(pattern, str):
            message = f"has the pattern {short(pattern)}, which is not a string."
            yield Problem("E003", message, 'Write "news/<slug:name>".')
            continue
        for problem in dictionary_problems(options, OPTIONS, _EXAMPLE):
            yield problem._replace(key=f"[{short(pattern)}]{problem.key}")


def topic_options(given: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, TopicOptions], ...]:
    """Return the patterns of `WS_SUPPORT["TOPICS"]`, which has passed its validator."""
    return tuple((pattern, TopicOptions(**options)) for pattern, options in given.items())
