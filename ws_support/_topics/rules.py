"""The rules of a topic: those of the first pattern that matches its name.

Classes of the project come first, in the order in which they were imported, and then the patterns
of the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from inspect import isawaitable
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from ws_support._topics.patterns import INTERNAL
from ws_support._topics.sources import Rule, SettingsRule
from ws_support._validators import Problem, short
from ws_support.conf import get_options

_CACHED: Final = 4096
"""Names whose rules are kept, those without rules included."""

_LONGEST_CACHED: Final = 200
"""Characters of a name that is kept: clients choose names, and may choose long ones."""


def rules_of(topic: str) -> Rules | None:
    """Return the rules of `topic`; None if no pattern matches.

    Without any rules in the project, this costs one comparison. Raises `ImproperlyConfigured` for
    a rule that cannot be used, with the text of `manage.py check`.
    """
    table = _registry.table
    if table is _EMPTY:
        return None
    return (table or _registry.new_table()).rules_of(topic)


def register(rule: Rule) -> None:
    """Add the rule of a class behind those that there are."""
    _registry.add(rule)


def rules_problems() -> Iterator[Problem]:
    """Yield what is wrong with the rules of the project, each message a sentence."""
    try:
        rules = _registry.rules()
    except ImproperlyConfigured:  # The check of the settings says why.
        rules = tuple(_registry.of_classes)
    seen: dict[str, Rule] = {}
    for rule in rules:
        yield from rule.problems()
        if any(rule.pattern.problems()):
            continue
        first = seen.setdefault(rule.pattern.shape, rule)
        if first is not rule:
            message = f"{rule.title} matches the same topics as {first.title}, which comes first."
            yield Problem("E015", message, "Remove one of the two.")


def titles_of_kept() -> list[str]:
    """Return the names of the rules that ask for a history or for presence."""
    rules = [(rule.title, rule.values()) for rule in _registry.rules()]
    return [title for title, values in rules if values["history"] or values["presence"]]


class Rules:
    """The rules of one topic."""

    __slots__ = ("_behaviour", "history", "history_seconds", "kwargs", "presence", "topic_class")

    def __init__(self, rule: Rule, kwargs: Mapping[str, Any]) -> None:
        self._behaviour = behaviour = rule.behaviour
        self.kwargs: Final = kwargs
        """The arguments that the name of the topic has for the parameters of its pattern."""
        self.topic_class: Final = rule.topic_class
        """The class of the project; None for rules of the settings."""
        self.history: Final = behaviour.history
        """Messages that are kept; 0: none."""
        self.history_seconds: Final = behaviour.history_seconds
        self.presence: Final = behaviour.presence

    @property
    def has_snapshot(self) -> bool:
        """True if the project gives the state of the topic."""
        return self._behaviour.snapshot is not None

    async def may_subscribe(self, user: Any) -> bool:
        """Return True if a page of `user` may subscribe. Raises what the project's code raises."""
        return await self._ask(self._behaviour.may_subscribe, user)

    async def may_publish(self, user: Any, message: Any) -> bool:
        """Return True if a page of `user` may publish `message`. Raises as `may_subscribe()`."""
        return await self._ask(self._behaviour.may_publish, user, message)

    async def snapshot(self, user: Any) -> Any:
        """Return the state of the topic for `user`; None if `has_snapshot` is False."""
        function = self._behaviour.snapshot
        return None if function is None else await self._call(function, user)

    async def _ask(self, permission: Callable[..., Any] | bool, *arguments: Any) -> bool:
        if isinstance(permission, bool):
            return permission
        answer = await self._call(permission, *arguments)
        # Nearly everything is true, an asynchronous generator too.
        if not isinstance(answer, bool):
            name = getattr(permission, "__qualname__", repr(permission))
            raise TypeError(f"{name}() has to return True or False: got {short(answer)}.")
        return answer

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if not iscoroutinefunction(function):
            function = sync_to_async(function)  # It may ask the database.
        result = await function(*arguments, **self.kwargs)
        # Of a lambda, or where an `await` was forgotten: every coroutine is true.
        return await result if isawaitable(result) else result


class _Table:
    """The rules of the project at one time, with those of the last names."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self._kept = lru_cache(maxsize=_CACHED)(self._search)

    def rules_of(self, topic: str) -> Rules | None:
        return self._kept(topic) if len(topic) <= _LONGEST_CACHED else self._search(topic)

    def _search(self, topic: str) -> Rules | None:
        if topic.startswith(INTERNAL):
            return None
        for rule in self._rules:
            kwargs = rule.match(topic)
            if kwargs is not None:
                return Rules(rule, kwargs)
        return None


_EMPTY: Final = _Table(())


class _Registry:
    """The rules of the classes, and the table of all rules."""

    def __init__(self) -> None:
        self.of_classes: list[Rule] = []
        self.table: _Table | None = None
        """None: has to be made when it is needed."""

    def add(self, rule: Rule) -> None:
        self.of_classes.append(rule)
        self.table = None

    def rules(self) -> tuple[Rule, ...]:
        settings = get_options().topics
        return (*self.of_classes, *(SettingsRule(*each) for each in settings))

    def new_table(self) -> _Table:
        rules = self.rules()
        self.table = table = _Table(rules) if rules else _EMPTY
        return table


_registry = _Registry()


def _forget(*, setting: str, **_: object) -> None:
    if setting == "WS_SUPPORT":
        _registry.table = None


setting_changed.connect(_forget)
