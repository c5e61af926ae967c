"""Which methods of a hub clients may call, and what these take."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import pytest
from django.core.exceptions import ImproperlyConfigured

from ws_support._hubs.methods import HubMethod, find, hub_method_name, methods_of

if TYPE_CHECKING:
    from decimal import Decimal


class Hub:
    clients = None

    async def on_connected(self) -> None: ...

    async def on_disconnected(self, error: Exception | None) -> None: ...

    @classmethod
    def get_user_identifier(cls, user: Any) -> str | None: ...

    def helper_of_all(self) -> None: ...


def method_of(hub: type, target: str) -> HubMethod | None:
    return find(methods_of(hub, Hub), target)


class Chat(Hub):
    room = "blue"

    async def on_connected(self) -> None: ...

    async def send_message(self, user: str, message: str) -> None: ...

    def plain(self, first, second: int = 5): ...

    async def counter(self, count: int, delay: float) -> AsyncIterator[int]:
        yield count

    async def unannotated(self):
        yield 1

    def made(self) -> AsyncIterable[str]: ...

    async def upload(
        self, before: int, parts: AsyncIterator[str], after: str, more: AsyncGenerator
    ) -> int: ...

    @hub_method_name("Ban")
    async def remove_from_room(self, name: str) -> None: ...

    @property
    def secret(self) -> str:
        return "secret"

    @classmethod
    def of_class(cls) -> None: ...

    @staticmethod
    def of_nobody() -> None: ...

    class Inner: ...

    async def _private(self) -> None: ...


@pytest.mark.parametrize(
    "target", ["SendMessage", "sendMessage", "SENDMESSAGE", "send_message", "Send_Message"]
)
def test_a_method_answers_to_its_name_in_every_spelling(target):
    assert method_of(Chat, target).function is Chat.send_message


@pytest.mark.parametrize(
    "target",
    [
        "", "send-message", "_private", "__init__", "__class__", "on_connected", "OnConnected",
        "clients", "helper_of_all", "room", "secret", "of_class", "of_nobody", "Inner",
        "remove_from_room", "toString", "mro",
    ],
)  # fmt: skip
def test_nothing_else_can_be_called(target):
    assert method_of(Chat, target) is None


@pytest.mark.parametrize("target", ["Ban", "ban", "BAN"])
def test_a_method_may_be_given_a_name(target):
    assert method_of(Chat, target).function is Chat.remove_from_room


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ImproperlyConfigured, match="is a text, not"):
        hub_method_name(name)


def test_arguments_have_the_types_of_their_parameters():
    assert method_of(Chat, "SendMessage").types == (str, str)
    assert method_of(Chat, "Plain").types == (Any, int)


@pytest.mark.parametrize(
    ("target", "item"), [("Counter", int), ("Unannotated", Any), ("Made", str)]
)
def test_a_method_that_answers_with_a_stream_is_known(target, item):
    method = method_of(Chat, target)
    assert (method.is_stream, method.result) == (True, item)
    assert not method_of(Chat, "SendMessage").is_stream


def test_streams_of_the_client_stand_where_their_parameters_do():
    method = method_of(Chat, "Upload")
    assert method.types == (int, str)
    assert method.streams == {1: str, 3: Any}
    assert method.arrange([1, "a"], ["first", "second"]) == [1, "first", "a", "second"]
    assert method_of(Chat, "SendMessage").arrange(["a", "b"], []) == ["a", "b"]


def test_what_a_subclass_hides_cannot_be_called():
    class Quiet(Chat):
        send_message = None

    assert method_of(Quiet, "SendMessage") is None
    assert method_of(Quiet, "Counter") is not None


def test_what_a_subclass_overrides_is_called():
    class Loud(Chat):
        async def send_message(self, message: bytes) -> None: ...

    assert method_of(Loud, "SendMessage").types == (bytes,)


def test_a_decorated_method_takes_what_the_method_takes():
    def decorated(method):
        @functools.wraps(method)
        async def wrapper(*arguments):
            return await method(*arguments)

        return wrapper

    class Decorated(Hub):
        @decorated
        async def add(self, one: int, two: int) -> int: ...

    assert method_of(Decorated, "Add").types == (int, int)


@pytest.mark.parametrize("other", ["sendmessage", "Send_message", "SendMessage"])
def test_two_methods_that_clients_cannot_tell_apart_are_an_error(other):
    class Twice(Hub):
        async def send_message(self) -> None: ...

    setattr(Twice, other, lambda self: None)
    with pytest.raises(ImproperlyConfigured, match=r"cannot tell .*send_message") as raised:
        methods_of(Twice, Hub)
    assert f"{other}()" in str(raised.value)


@pytest.mark.parametrize("name", ["on_connect", "on_disconnect"])
def test_a_method_that_is_likely_misspelt_is_an_error(name):
    async def method(self) -> None: ...

    given = hub_method_name("Hello")(lambda self: None)
    assert methods_of(type("Right", (Hub,), {name: None}), Hub) == {}
    assert methods_of(type("Right", (Hub,), {name: given}), Hub).keys() == {"hello"}
    wrong = type("Wrong", (Hub,), {name: method})
    with pytest.raises(
        ImproperlyConfigured, match=rf"could call Wrong\.{name}\(\): write {name}ed"
    ):
        methods_of(wrong, Hub)


def test_a_given_name_that_is_taken_is_an_error():
    class Twice(Hub):
        async def ban(self) -> None: ...

        @hub_method_name("BAN")
        async def remove(self) -> None: ...

    with pytest.raises(ImproperlyConfigured, match=r"ban\(\) from remove\(\)"):
        methods_of(Twice, Hub)


async def any_number(self, *names: str) -> None: ...
async def any_names(self, **names: str) -> None: ...
async def by_name(self, *, name: str) -> None: ...


@pytest.mark.parametrize("method", [any_number, any_names, by_name])
def test_a_parameter_that_no_client_can_give_is_an_error(method):
    hub = type("Wrong", (Hub,), {"send": method})
    with pytest.raises(ImproperlyConfigured, match=r"Wrong\.send\(\) takes \*"):
        methods_of(hub, Hub)


def test_a_method_without_self_is_an_error():
    hub = type("Wrong", (Hub,), {"send": lambda: None})
    with pytest.raises(ImproperlyConfigured, match=r"Wrong\.send\(\) needs a first parameter"):
        methods_of(hub, Hub)


@dataclass
class Point:
    x: int


@dataclass
class Place:
    name: str


async def either(self, where: Point | Place) -> None: ...
async def many(self, where: AsyncIterator[Point | Place]) -> None: ...


@pytest.mark.parametrize("method", [either, many])
def test_a_type_that_nothing_can_be_read_as_is_an_error(method):
    hub = type("Wrong", (Hub,), {"go": method})
    with pytest.raises(
        ImproperlyConfigured, match=r"Wrong\.go\(\), parameter 'where': Type unions"
    ):
        methods_of(hub, Hub)


def test_an_annotation_that_cannot_be_read_is_an_error():
    class Wrong(Hub):
        async def pay(self, amount: Decimal) -> None: ...

    with pytest.raises(ImproperlyConfigured, match=r"Wrong\.pay\(\) cannot be read.*Decimal"):
        methods_of(Wrong, Hub)


def test_a_generator_that_is_not_asynchronous_is_an_error():
    class Wrong(Hub):
        def count(self):
            yield 1

    with pytest.raises(ImproperlyConfigured, match=r"Wrong\.count\(\) is a generator.* async def"):
        methods_of(Wrong, Hub)


async def without_error(self) -> None: ...


async def with_defaults(self, error=None, *more) -> None: ...


def plain(self, *arguments) -> None: ...


@pytest.mark.parametrize(
    ("name", "method", "problem"),
    [
        ("on_connected", plain, "is awaited: write async def"),
        ("on_disconnected", without_error, r"has to take \(self, error\)"),
        ("get_user_identifier", plain, "is a class method: write @classmethod"),
        ("clients", plain, "hides an attribute that every hub has: rename it"),
    ],
)
def test_a_method_that_hides_what_every_hub_needs_is_an_error(name, method, problem):
    hub = type("Wrong", (Hub,), {name: method})
    with pytest.raises(ImproperlyConfigured, match=rf"Wrong\.{name}\(\) {problem}"):
        methods_of(hub, Hub)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("on_disconnected", with_defaults),
        ("on_disconnected", AsyncMock()),
        ("get_user_identifier", staticmethod(plain)),
        ("clients", property(plain)),
        ("helper_of_all", plain),
    ],
)
def test_what_every_hub_has_may_be_overridden(name, method):
    assert methods_of(type("Fine", (Hub,), {name: method}), Hub) == {}


@pytest.mark.parametrize(
    ("target", "name"), [("send_message", "SendMessage"), ("plain", "Plain"), ("ban", "Ban")]
)
def test_a_method_has_one_name_that_is_shown(target, name):
    assert method_of(Chat, target).name == name
