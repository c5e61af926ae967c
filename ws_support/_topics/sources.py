"""What a project says of topics: in classes of its own, and in the settings."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ws_support._topic_options import OPTIONS, VALUES, TopicOptions
from ws_support._topics.patterns import TopicPattern
from ws_support._validators import Problem, short

_ARGUMENTS: Final = {
    "may_subscribe": ("user",),
    "may_publish": ("user", "message"),
    "snapshot": ("user",),
}
"""The functions of a rule, and what each gets in front of the arguments of the pattern."""


class Behaviour(NamedTuple):
    """What a rule says, with functions in place of their names."""

    history: int
    history_seconds: float
    presence: bool
    may_subscribe: Callable[..., Any] | bool = False
    may_publish: Callable[..., Any] | bool = False
    snapshot: Callable[..., Any] | None = None


class Rule(ABC):
    """The rules of all topics that one pattern matches."""

    topic_class: type[Any] | None = None

    def __init__(self, pattern: str) -> None:
        self.pattern: Final = TopicPattern(pattern)

    @property
    @abstractmethod
    def title(self) -> str:
        """The name of this rule in errors."""

    @abstractmethod
    def values(self) -> dict[str, Any]:
        """Return the options that are no functions."""

    @abstractmethod
    def values_problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the values, each message a sentence."""

    @abstractmethod
    def functions(self) -> Iterator[Function]:
        """Yield the functions, which are imported or made now. That may raise anything."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong, each message a sentence."""
        of_pattern = list(self._pattern_problems())
        yield from of_pattern
        yield from self.values_problems()
        if not of_pattern:
            yield from self._functions_problems()

    def name(self, kwargs: Mapping[str, Any]) -> str:
        """Return the name of the topic with these arguments. Raises as `match()` does."""
        return self._usable_pattern.name(kwargs)

    def match(self, topic: str) -> dict[str, Any] | None:
        """Return the arguments of `topic`, or None.

        Raises `ImproperlyConfigured` if the pattern cannot be read: it may be meant to match.
        """
        return self._usable_pattern.match(topic)

    # An error is not kept: converters may be registered later.

    @cached_property
    def behaviour(self) -> Behaviour:
        """What the rule says. Raises `ImproperlyConfigured` if some of it cannot be used."""
        _raise_first(self.problems())
        return Behaviour(**self.values(), **{each.name: each.value for each in self.functions()})

    @cached_property
    def _usable_pattern(self) -> TopicPattern:
        _raise_first(self._pattern_problems())
        return self.pattern

    def _pattern_problems(self) -> Iterator[Problem]:
        for problem in self.pattern.problems():
            yield problem._replace(message=f"{self.title} {problem.message}")

    def _functions_problems(self) -> Iterator[Problem]:
        try:
            functions = list(self.functions())
        except Exception as error:  # The modules of a project may raise anything.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            yield Problem("E016", f"{self.title} cannot be used: {reason:.300}", "Mend it there.")
            return
        for function in functions:
            yield from function.problems(self.pattern.parameters)


class ClassRule(Rule):
    """The rules of a class of the project; `base` is the class whose methods it replaces.

    One instance serves all topics of the class. It is made when it is used first.
    """

    topic_class: type[Any]

    def __init__(self, pattern: str, topic_class: type[Any], base: type[Any]) -> None:
        super().__init__(pattern)
        self.topic_class = topic_class
        self._owner = f"{topic_class.__module__}.{topic_class.__qualname__}"
        self._replaced = [
            name for name in _ARGUMENTS if getattr(topic_class, name) is not getattr(base, name)
        ]

    @property
    def title(self) -> str:
        return f"@topic({short(self.pattern.text)}) of {self._owner}"

    def values(self) -> dict[str, Any]:
        return {name: getattr(self.topic_class, name) for name in VALUES}

    def values_problems(self) -> Iterator[Problem]:
        for name, value in self.values().items():
            for problem in OPTIONS[name]["validate"](value):
                yield problem._replace(message=f"{self._owner}.{name} {problem.message}")

    def functions(self) -> Iterator[Function]:
        for name in self._replaced:
            title = f"{self._owner}.{name}"
            yield Function(name, getattr(self._instance, name), title, "self, ")

    @cached_property
    def _instance(self) -> Any:
        return self.topic_class()


class SettingsRule(Rule):
    """The rules of one pattern in `WS_SUPPORT["TOPICS"]`, whose values have been validated."""

    def __init__(self, pattern: str, options: TopicOptions) -> None:
        super().__init__(pattern)
        self._functions = {
            name: path for name in _ARGUMENTS if isinstance(path := getattr(options, name), str)
        }
        self._options = options

    @property
    def title(self) -> str:
        return f'WS_SUPPORT["TOPICS"][{short(self.pattern.text)}]'

    def values(self) -> dict[str, Any]:
        return {
            name: getattr(self._options, name) for name in OPTIONS if name not in self._functions
        }

    def values_problems(self) -> Iterator[Problem]:
        yield from ()  # There are none, or WS_SUPPORT could not be read.

    def functions(self) -> Iterator[Function]:
        for name, path in self._functions.items():
            yield Function(name, import_string(path), f'{self.title}["{name}"]')


class Function(NamedTuple):
    """A function of a rule."""

    name: str
    value: Any
    title: str
    """Its name in errors."""

    first: str = ""
    """What stands in front of the other parameters: "self, " in a class."""

    def problems(self, parameters: list[str]) -> Iterator[Problem]:
        """Yield a problem if the function cannot be called with `parameters`."""
        arguments = _ARGUMENTS[self.name]
        shown = ", ".join([*arguments, *parameters])
        hint = f"Write: async def {self.name}({self.first}{shown})."
        if not callable(self.value):
            message = f"{self.title} is {short(self.value)}, which is no function."
            yield Problem("E016", message, hint)
            return
        try:
            inspect.signature(self.value).bind(*arguments, **dict.fromkeys(parameters))
        except ValueError:
            return  # Compiled code does not say what it takes.
        except TypeError as error:
            yield Problem("E016", f"{self.title} cannot be called with ({shown}): {error}.", hint)


def _raise_first(found: Iterable[Problem]) -> None:
    for problem in found:
        raise ImproperlyConfigured(f"{problem.message} {problem.hint}")
