"""What the classes of a project look like in a message: objects with keys, or arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import get_annotations
from types import UnionType
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from django.core.exceptions import ImproperlyConfigured
from msgspec import NODEFAULT, UnsetType


@dataclass(frozen=True)
class Part:
    """A key of an object, or an item of an array."""

    name: str
    type: Any
    is_optional: bool = False


@dataclass(frozen=True)
class Keys:
    """An object with these keys."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Items:
    """An array with these items. Those that are optional are at its end."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Alias:
    """Another type."""

    type: Any


Shape: TypeAlias = Keys | Items | Alias


def shape_of(type_: Any, is_read: bool) -> Shape | None:
    """Return what objects of `type_` look like, or None if it is no class with fields.

    With `is_read`, it is what is accepted from a client: a field with a default may be missing.
    Otherwise it is what is sent to one. `type_` is a class, or a generic class with its arguments.
    Raises `ImproperlyConfigured` if annotations cannot be read.
    """
    cls = get_origin(type_) or type_
    if hasattr(cls, "__value__"):  # type Numbers = list[int], since Python 3.12
        return Alias(_bind(cls.__value__, _arguments(type_)))
    if not isinstance(cls, type):
        return None
    describe = next((describe for known, describe in _KINDS if known(cls)), None)
    if describe is None:
        return None
    try:
        return describe(type_, cls, is_read)
    except NameError as error:
        raise ImproperlyConfigured(
            f"The annotations of {cls.__qualname__} cannot be read: {error}. Import what they name"
            " where the module is loaded, and not only for type checking."
        ) from error


def _struct(type_: Any, cls: type[msgspec.Struct], is_read: bool) -> Shape:
    config, parts = cls.__struct_config__, []
    if config.tag is not None:
        parts.append(Part(config.tag_field or "", Literal[config.tag]))
    for each in msgspec.structs.fields(type_):
        # What a factory of the project makes is compared with nothing, and always sent.
        is_comparable = each.default is not NODEFAULT or each.default_factory in (list, dict, set)
        is_omitted = (config.omit_defaults and is_comparable) or _may_be_unset(each.type)
        is_optional = not each.required if is_read else is_omitted and not config.array_like
        parts.append(Part(each.encode_name, each.type, is_optional))
    return _items(parts) if config.array_like else Keys(tuple(parts))


def _dataclass(type_: Any, cls: Any, is_read: bool) -> Shape:
    hints, parts = _hints(type_, cls), []
    for each in dataclasses.fields(cls):
        has_default = each.default is not dataclasses.MISSING
        has_factory = each.default_factory is not dataclasses.MISSING
        hint = hints[each.name]
        # Only what is in an instance is sent: a default that no __init__() sets is in the class.
        is_missing = not (each.init or has_factory) or _may_be_unset(hint)
        parts.append(Part(each.name, hint, has_default or has_factory if is_read else is_missing))
    return Keys(tuple(parts))


def _typed_dict(type_: Any, cls: Any, is_read: bool) -> Shape:
    required, parts = cls.__required_keys__, []
    for name, hint in _hints(type_, cls).items():
        # Python does not see these qualifiers where annotations are texts.
        qualifier = getattr(get_origin(hint), "_name", None)
        is_optional = qualifier == "NotRequired" or (
            name not in required and qualifier != "Required"
        )
        parts.append(Part(name, hint, is_optional))
    return Keys(tuple(parts))


def _named_tuple(type_: Any, cls: Any, is_read: bool) -> Shape:
    hints, defaults = _hints(type_, cls), cls._field_defaults
    return _items(
        [Part(name, hints.get(name, Any), is_read and name in defaults) for name in cls._fields]
    )


def _model(type_: Any, cls: Any, is_read: bool) -> Shape:
    """Describe a model of pydantic: msgspec sends what `model_dump()` returns."""
    decorators = cls.__pydantic_decorators__
    if not is_read and decorators.model_serializers:
        return Alias(Any)
    if getattr(cls, "__pydantic_root_model__", False):
        return Alias(cls.model_fields["root"].annotation)
    serialized = {
        name for each in decorators.field_serializers.values() for name in each.info.fields
    }
    parts = []
    for name, each in cls.model_fields.items():
        if is_read:
            key = _validation_alias(name, each, cls.model_config)
            parts.append(Part(key, each.annotation, not each.is_required()))
        elif not each.exclude:
            by_alias = cls.model_config.get("serialize_by_alias") and each.serialization_alias
            is_changed = {name, "*"} & serialized or any(map(_is_serializer, each.metadata))
            parts.append(Part(by_alias or name, Any if is_changed else each.annotation))
    if not is_read:
        computed = cls.model_computed_fields.items()
        parts += [Part(name, each.return_type) for name, each in computed]
    return Keys(tuple(parts))


def _validation_alias(name: str, field: Any, config: Any) -> str:
    if config.get("validate_by_name") or config.get("populate_by_name"):
        return name
    alias = field.validation_alias or name
    choices: list[Any] = getattr(alias, "choices", [alias])
    return next((each for each in choices if isinstance(each, str)), name)


def _is_serializer(metadata: Any) -> bool:
    return type(metadata).__name__ in ("PlainSerializer", "WrapSerializer")


_KINDS: Final[tuple[tuple[Callable[[type], bool], Callable[[Any, Any, bool], Shape]], ...]] = (
    (lambda cls: issubclass(cls, msgspec.Struct), _struct),
    (dataclasses.is_dataclass, _dataclass),
    (lambda cls: hasattr(cls, "__required_keys__"), _typed_dict),
    (lambda cls: issubclass(cls, tuple) and hasattr(cls, "_fields"), _named_tuple),
    (lambda cls: hasattr(cls, "__pydantic_decorators__"), _model),
)
"""How a class is recognized, and what describes it. A dataclass of pydantic is one, too."""


def _items(parts: list[Part]) -> Items:
    """Return an array of `parts`, of which only those at its end may be missing."""
    last = max((at for at, each in enumerate(parts) if not each.is_optional), default=-1)
    return Items(
        tuple(dataclasses.replace(each, is_optional=at > last) for at, each in enumerate(parts))
    )


def _may_be_unset(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType) and UnsetType in get_args(hint)


def _hints(type_: Any, cls: type) -> dict[str, Any]:
    """Return the annotations of a class, with what the parameters of its generic bases stand for.

    Without arguments, a parameter stands for itself.
    """
    bound = dict(_bindings(type_))
    found: dict[str, Any] = {}
    for each in reversed(cls.__mro__):
        names = get_annotations(each)
        hints = get_type_hints(each, include_extras=True) if names else {}
        found |= {name: _bind(hints[name], bound.get(each, {})) for name in names}
    return found


def _bindings(type_: Any) -> Iterator[tuple[Any, dict[Any, Any]]]:
    """Yield each generic class among `type_` and its bases, with the arguments that it is given."""
    cls, arguments = get_origin(type_) or type_, _arguments(type_)
    yield cls, arguments
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        # TypedDict and NamedTuple are functions.
        if isinstance(get_origin(base) or base, type) and get_origin(base) is not Generic:
            yield from _bindings(_bind(base, arguments))


def _arguments(type_: Any) -> dict[Any, Any]:
    """Return what the parameters of a generic class stand for in `type_`."""
    parameters = getattr(get_origin(type_), "__parameters__", ())
    return dict(zip(parameters, get_args(type_), strict=False))


def _bind(hint: Any, arguments: dict[Any, Any]) -> Any:
    """Return `hint` with the arguments in place of the parameters."""
    if isinstance(hint, TypeVar):
        return arguments.get(hint, hint)
    # A generic class without arguments has parameters as well, but they are its own.
    parameters = getattr(hint, "__parameters__", ()) if get_origin(hint) is not None else ()
    return hint[tuple(arguments.get(each, each) for each in parameters)] if parameters else hint
