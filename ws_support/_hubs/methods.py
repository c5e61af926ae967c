"""The methods of a hub that clients may call, and what each of them takes."""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from typing import Any, Final, get_args, get_origin, get_type_hints

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured

from ws_support._hubs.protocols import PROTOCOLS

_STREAMS: Final = (AsyncGenerator, AsyncIterable, AsyncIterator)
"""The annotations of a stream. The first argument of each is the type of an item."""

_NAME: Final = "_hub_method_name"

_MISTAKEN: Final = {"on_connect": "on_connected", "on_disconnect": "on_disconnected"}
"""Names that are likely meant for a method of `Hub`."""


def hub_method_name(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a method of a hub the name that clients call it by::

        @hub_method_name("Ban")
        async def remove_from_room(self, name: str) -> None: ...

    Its own name is not known to clients then. Raises `ImproperlyConfigured` for what is no name.
    """
    if not isinstance(name, str) or not name:
        raise ImproperlyConfigured(f"The name of a hub method is a text, not {name!r}.")

    def named(method: Callable[..., Any]) -> Callable[..., Any]:
        setattr(method, _NAME, name)
        return method

    return named


def shown_name(function: Callable[..., Any], attribute: str) -> str:
    """Return the name of a method on the other side: `SendMessage` for `send_message`.

    A name that `@hub_method_name` has given is returned as it is.
    """
    given: str | None = getattr(function, _NAME, None)
    return pascal_case(attribute) if given is None else given


def pascal_case(name: str) -> str:
    """Return a name as .NET writes it: `receive_message` is `ReceiveMessage`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def client_of(hub: type, base: type) -> type | None:
    """Return the class that describes the clients of a hub: `ChatClient` of `Hub[ChatClient]`."""
    for cls in hub.__mro__:
        for each in cls.__dict__.get("__orig_bases__", ()):
            origin, argument = get_origin(each), (*get_args(each), None)[0]
            if isinstance(origin, type) and issubclass(origin, base) and _is_class(argument):
                client: type = argument
                return client
    return None


@dataclass(frozen=True)
class ClientMethod:
    """A method that the clients of a hub have."""

    name: str
    """What the page calls it: `ReceiveMessage`."""
    result: Any = None
    """The type of its answer; None if nobody waits for one."""
    signature: inspect.Signature | None = None
    """Its parameters behind `self`, if they are known."""
    count: int = -1
    """How many there are, if that many arguments need no further look."""

    def arrange(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
        """Return the arguments in their order. Raises `TypeError` if they do not fit."""
        if self.signature is None or (len(arguments) == self.count and not named):
            if named:
                raise TypeError(
                    f"{self.name}() takes no keyword arguments: what a client gets has an order and"
                    " no names."
                )
            return list(arguments)
        try:
            bound = self.signature.bind(*arguments, **named)
        except TypeError as error:
            raise TypeError(f"{self.name}(): {error}") from None
        # Defaults are sent only in front of what is given.
        given = bound.arguments
        arranged = []
        for name, parameter in self.signature.parameters.items():
            if len(given) == 0:
                break
            value = given.pop(name, parameter.default)
            if value is ...:  # As stubs have it.
                raise TypeError(f"{self.name}(): {name!r} has to be given, too")
            arranged.append(value)
        return arranged


def client_methods(client: type | None) -> dict[str, ClientMethod]:
    """Return the methods of a client class by the name of their attribute.

    Raises `ImproperlyConfigured` for the type of an answer that cannot be read.
    """
    found: dict[str, ClientMethod] = {}
    for cls in getattr(client, "__mro__", ()):
        # Declared as attributes: `ticked: Callable[[int], Awaitable[None]]`.
        for attribute in inspect.get_annotations(cls):
            if not attribute.startswith("_"):
                found[attribute] = ClientMethod(pascal_case(attribute))
    for attribute in dir(client):
        function = inspect.getattr_static(client, attribute)
        if not attribute.startswith("_") and inspect.isfunction(function):
            title = f"{client.__name__}.{attribute}"  # type: ignore[union-attr]
            name = shown_name(function, attribute)
            signature, count = _signature_of(function)
            found[attribute] = ClientMethod(name, _answer_of(function, title), signature, count)
    return found


def _signature_of(function: Callable[..., Any]) -> tuple[inspect.Signature | None, int]:
    """Return the signature behind `self`, and how many parameters it has. None for `*arguments`."""
    whole = inspect.signature(function)
    parameters = list(whole.parameters.values())
    if any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters):
        return None, -1
    parameters = parameters[1:]
    return whole.replace(parameters=parameters), len(parameters)


def _answer_of(function: Callable[..., Any], title: str) -> Any:
    # What can only be read by type checkers is no error where nothing is answered.
    if function.__annotations__.get("return") in (None, "None"):
        return None
    result = hints_of(function, title)["return"]
    _check_type(result, f"{title}(), answer")
    return result


@dataclass(frozen=True)
class HubMethod:
    """A method that clients may call."""

    function: Callable[..., Any]
    """As the class has it: its first argument is the hub."""
    types: tuple[Any, ...]
    """The types of the arguments that a client sends. Without an annotation: `Any`."""
    streams: Mapping[int, Any] = field(default_factory=dict)
    """The upload streams: the position of the parameter, and the type of an item."""
    result: Any = Any
    """The type of the result, or of an item if it `is_stream`."""
    is_stream: bool = False
    """True if it answers with a stream."""
    name: str = ""
    """The name that documentation gives it: `SendMessage`. It answers to other spellings, too."""
    arguments_type: Any = field(init=False)
    """`types` as the type of one tuple."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments_type", tuple[self.types or ()])  # type: ignore[misc]

    def arrange(self, arguments: Sequence[Any], streams: list[Any]) -> Sequence[Any]:
        """Return the arguments for the function: those of the client, and the streams."""
        if not self.streams:
            return arguments
        given, uploads = iter(arguments), iter(streams)
        count = len(self.types) + len(self.streams)
        return [next(uploads if at in self.streams else given) for at in range(count)]


def methods_of(hub: type, base: type) -> dict[str, HubMethod]:
    """Return the methods that clients may call on `hub`, a subclass of `base`, by name.

    These are the public functions that `base` does not have. A method is found by its name in lower
    case, with and without underscores: `send_message` also answers to `SendMessage` and
    `sendMessage`, since .NET ignores case (`find()`). Raises `ImproperlyConfigured` if two methods
    have one name, if a method takes what a client cannot send, or if one hides what `base` needs.
    """
    for attribute in dir(base):
        if not attribute.startswith("_"):
            _check_override(hub, base, attribute)
    public = _public_functions(hub, base)
    for wrong, right in _MISTAKEN.items():
        if wrong in public and not hasattr(inspect.getattr_static(hub, wrong), _NAME):
            raise ImproperlyConfigured(
                f"Clients could call {hub.__qualname__}.{wrong}(): write {right}()."
            )
    found: dict[str, HubMethod] = {}
    owners: dict[str, str] = {}
    for attribute in sorted(public):
        function = inspect.getattr_static(hub, attribute)
        title = f"{hub.__qualname__}.{attribute}"
        method = replace(_describe(function, title), name=shown_name(function, attribute))
        for name in _names(function, attribute):
            if name in found:
                raise ImproperlyConfigured(
                    f"Clients of {hub.__qualname__} cannot tell {owners[name]}() from"
                    f" {attribute}(): case and underscores are ignored. Rename one of them, or give"
                    " it a name with @hub_method_name."
                )
            found[name] = method
            owners[name] = attribute
    return found


def find(methods: Mapping[str, HubMethod], target: str) -> HubMethod | None:
    """Return the method that a client means by `target`, or None if there is none."""
    return methods.get(target) or methods.get(target.lower())


def _public_functions(hub: type, base: type) -> set[str]:
    return {
        name
        for name in dir(hub)
        if not name.startswith("_")
        and not hasattr(base, name)
        and inspect.isfunction(inspect.getattr_static(hub, name))
    }


def _check_override(hub: type, base: type, attribute: str) -> None:
    """Raise `ImproperlyConfigured` if what `hub` has under a name of `base` cannot work."""
    title = f"{hub.__qualname__}.{attribute}()"
    theirs = inspect.getattr_static(base, attribute)
    ours = inspect.getattr_static(hub, attribute)
    if iscoroutinefunction(theirs):
        if not iscoroutinefunction(ours):
            raise ImproperlyConfigured(f"{title} is awaited: write async def.")
        parameters = inspect.signature(theirs).parameters
        try:
            inspect.signature(ours).bind(*parameters)
        except TypeError:
            expected = ", ".join(parameters)
            raise ImproperlyConfigured(f"{title} has to take ({expected}).") from None
    elif not inspect.isfunction(ours) or inspect.isfunction(theirs):
        pass
    elif isinstance(theirs, classmethod):
        raise ImproperlyConfigured(f"{title} is a class method: write @classmethod above it.")
    else:
        raise ImproperlyConfigured(f"{title} hides an attribute that every hub has: rename it.")


def _names(function: Callable[..., Any], attribute: str) -> set[str]:
    """Return the names that a method answers to, in lower case."""
    given: str | None = getattr(function, _NAME, None)
    if given is not None:
        return {given.lower()}
    return {attribute.lower(), attribute.lower().replace("_", "")}


def hints_of(
    function: Callable[..., Any], title: str, *, include_extras: bool = False
) -> dict[str, Any]:
    """Return the annotations of a function. Raises `ImproperlyConfigured` with its title."""
    try:
        return get_type_hints(function, include_extras=include_extras)
    except Exception as error:  # An annotation of the project may raise anything.
        raise ImproperlyConfigured(
            f"The annotations of {title}() cannot be read: {error}. Import what they name where"
            " the module is loaded, and not only for type checking."
        ) from error


def _describe(function: Callable[..., Any], title: str) -> HubMethod:
    hints = hints_of(inspect.unwrap(function), title)
    if inspect.isgeneratorfunction(inspect.unwrap(function)):
        raise ImproperlyConfigured(f"{title}() is a generator: a stream needs async def.")
    types: list[Any] = []
    streams: dict[int, Any] = {}
    for at, parameter in enumerate(_parameters(function, title)):
        hint = hints.get(parameter.name, Any)
        if get_origin(hint) in _STREAMS or hint in _STREAMS:
            hint = streams[at] = (*get_args(hint), Any)[0]
        else:
            types.append(hint)
        _check_type(hint, f"{title}(), parameter {parameter.name!r}")
    result = hints.get("return", Any)
    is_annotated = get_origin(result) in _STREAMS or result in _STREAMS
    is_stream = is_annotated or inspect.isasyncgenfunction(inspect.unwrap(function))
    if is_annotated:
        result = (*get_args(result), Any)[0]
    return HubMethod(function, tuple(types), streams, result, is_stream)


def _check_type(hint: Any, title: str) -> None:
    try:
        for protocol in PROTOCOLS.values():
            protocol.prepare(hint)
    except TypeError as error:
        raise ImproperlyConfigured(f"{title}: {error}") from error


def _parameters(function: Callable[..., Any], title: str) -> list[inspect.Parameter]:
    """Return the parameters behind `self`."""
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise ImproperlyConfigured(f"{title}() needs a first parameter for the hub: self.")
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            star = "*, " if parameter.kind is parameter.KEYWORD_ONLY else ""
            raise ImproperlyConfigured(
                f"{title}() takes {star}{parameter}, which a client cannot send: its arguments"
                " have an order and no names, and their number is fixed."
            )
    return parameters[1:]


def _is_class(value: Any) -> bool:
    # Since Python 3.11, Any is a class.
    return isinstance(value, type) and get_origin(value) is None and value is not Any
