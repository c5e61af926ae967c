"""The pattern of some topics, which Django's path converters read, and the way back to a name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.urls import get_resolver
from django.urls.converters import get_converters
from django.urls.resolvers import RoutePattern

from ws_support._topics.messages import checked_topic
from ws_support._validators import Problem

INTERNAL: Final = "ws_support."
"""What the names of topics of this package begin with: no pattern matches them."""

_PARAMETER: Final = re.compile(r"<(?:[^>:]+:)?([^>]+)>")
"""A parameter, as Django finds it in a route."""


class TopicPattern:
    """A pattern such as "room/<int:room_id>". It has to match a whole name.

    A topic has one name: "room/007" does not match, since `name(room_id=7)` is "room/7". Otherwise,
    a client could open any number of topics where a rule means one.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def problems(self) -> Iterator[Problem]:
        """Yield what keeps the pattern from being used: each message continues a sentence."""
        if self.text.startswith(INTERNAL):
            message = f'begins with "{INTERNAL}", as topics of this package do, and never matches.'
            yield Problem("E014", message, "Begin it with another word.")
            return
        literal = _PARAMETER.sub("", self.text)
        if "<" in literal or ">" in literal:
            message = "has a bracket without its counterpart."
            yield Problem("E014", message, 'Write parameters as in "room/<int:room_id>".')
            return
        try:
            checked_topic(literal)
        except ValueError as error:
            yield Problem("E014", f"can match no topic. {error}", "Write a shorter name.")
            return
        try:
            self._route  # noqa: B018  # It is made.
        except (ImproperlyConfigured, re.error, OverflowError, RecursionError) as error:
            message = f"cannot be read: {str(error).rstrip('.'):.200}."
            known = ", ".join(get_converters())
            hint = f'Write parameters as in "room/<int:room_id>". The converters are {known}.'
            yield Problem("E014", message, hint)

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters, in their order."""
        return _PARAMETER.findall(self.text)

    @property
    def shape(self) -> str:
        """The regular expression without names: equal if two patterns match the same topics."""
        return re.sub(r"\(\?P<[^>]+>", "(", self._route.regex.pattern)

    def match(self, topic: str) -> dict[str, Any] | None:
        """Return the arguments that `topic` has for the parameters; None if it does not match."""
        found = self._route.match(topic)
        if found is None:
            return None
        kwargs = found[2]
        with suppress(ValueError):
            if self._filled(self._texts(kwargs)) == topic:
                return kwargs
        return None

    def name(self, kwargs: Mapping[str, Any]) -> str:
        """Return the name of the topic that has these arguments.

        Raises `TypeError` if they are not those of the pattern, and `ValueError` if one of them
        does not fit, or if the name would be read with other arguments than these.
        """
        if kwargs.keys() != set(self.parameters):
            raise TypeError(
                f"The arguments of {self.text!r:.100} are ({', '.join(self.parameters)}): got"
                f" ({', '.join(kwargs)})."
            )
        texts = self._texts(kwargs)
        topic = checked_topic(self._filled(texts))
        matched = None if topic.startswith(INTERNAL) else self.match(topic)
        if matched is None or self._texts(matched) != texts:
            raise ValueError(
                f"No topic of {self.text!r:.100} has the arguments {dict(kwargs)!r:.200}:"
                f" {topic!r:.100} would not be read like that."
            )
        return topic

    def _texts(self, kwargs: Mapping[str, Any]) -> dict[str, str]:
        converters = self._route.converters
        return {name: str(converters[name].to_url(value)) for name, value in kwargs.items()}

    def _filled(self, texts: Mapping[str, str]) -> str:
        return _PARAMETER.sub(lambda found: texts[found[1]], self.text)

    @cached_property
    def _route(self) -> RoutePattern:
        try:
            route = RoutePattern(self.text, is_endpoint=True)
        except ImproperlyConfigured:
            # Projects register converters of their own in urls.py, which may not be loaded yet.
            with suppress(Exception):  # Django reports what is wrong there.
                get_resolver().url_patterns  # noqa: B018  # They are loaded.
            route = RoutePattern(self.text, is_endpoint=True)
        route.regex  # noqa: B018  # It is compiled.
        return route
