"""Types of Python in TypeScript, as they go over the wire in JSON."""

from __future__ import annotations

import json
import re
import typing
from collections import OrderedDict, defaultdict
from collections.abc import (
    Awaitable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
    Set,
)
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from itertools import repeat
from operator import itemgetter
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin
from uuid import UUID

import msgspec

from ws_support._hubs.protocols.base import encode_other
from ws_support._hubs.typescript.names import choose_names
from ws_support._hubs.typescript.shapes import Alias, Items, Part, Shape, shape_of

_PLAIN: Final[dict[Any, str]] = {
    # `any` would be accepted everywhere, also where the page is wrong. A page that knows more than
    # the annotation says so with `as`.
    Any: "unknown",
    object: "unknown",
    msgspec.Raw: "unknown",
    None: "null",
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    Decimal: "number",
    **dict.fromkeys((str, bytes, bytearray, memoryview, UUID), "string"),
    **dict.fromkeys((datetime, date, time, timedelta), "string"),
}
_ARRAYS: Final = (
    *(list, set, frozenset, Collection, Iterable, MutableSequence, MutableSet, Sequence, Set),
)
_MAPPINGS: Final = (dict, Mapping, MutableMapping, OrderedDict, defaultdict)
_QUALIFIERS: Final = ("ClassVar", "Final", "NotRequired", "ReadOnly", "Required")

_MARK: Final = re.compile(r"\0(\d+)([rw])\0")

_encoder: Final = msgspec.json.Encoder(enc_hook=encode_other, decimal_format="number")


class Types:
    """The types of one file.

    What a class is called depends on the other classes of the file, and on whether what a client
    sends differs from what is sent to it. So the texts hold marks until `finish()`.
    """

    def __init__(self) -> None:
        self._classes: list[Any] = []
        self._declarations: dict[str, str] = {}
        """By mark. Both directions of each class are there, also if only one of them is needed."""

    def text(self, type_: Any, is_read: bool) -> str:
        """Return `type_` in TypeScript, with marks.

        With `is_read`, it is what is accepted from a client, otherwise what is sent to one.
        """
        origin, arguments = get_origin(type_), get_args(type_)
        if origin is Annotated or getattr(origin, "_name", None) in _QUALIFIERS:
            return self.text(arguments[0], is_read)
        if origin in (Awaitable, Coroutine):
            return self.text(arguments[-1], is_read)
        if origin is Literal:
            return _union(map(_literal, arguments))
        if origin in (Union, UnionType):
            # A field that is not set is not sent.
            given = (each for each in arguments if each is not msgspec.UnsetType)
            return _union(self.text(each, is_read) for each in given)
        if isinstance(type_, TypeVar):
            constraints = type_.__constraints__ or (type_.__bound__ or Any,)
            return _union(self.text(each, is_read) for each in constraints)
        if hasattr(type_, "__supertype__"):
            return self.text(type_.__supertype__, is_read)
        return self._text_of_class(type_, is_read)

    def finish(self, text: str, taken: Iterable[str]) -> str:
        """Return `text` with names in place of marks, and the declarations of these behind it.

        None of the names is one of `taken`.
        """
        needed = self._needed(text)
        asymmetric = self._asymmetric()
        entries: dict[tuple[int, str], list[str]] = {}
        for mark, index, direction in needed:
            both = {other for _, same, other in needed if same == index} == {"r", "w"}
            suffix = "Input" if both and index in asymmetric and direction == "r" else ""
            entries.setdefault((index, suffix), []).append(mark)
        chosen = choose_names([(self._classes[at], suffix) for at, suffix in entries], taken)
        names: dict[str, str] = {}
        declarations: list[tuple[str, str]] = []
        for (index, suffix), name in zip(entries, chosen, strict=True):
            marks = entries[index, suffix]
            names |= dict.fromkeys(marks, name)
            title = _title(self._classes[index]) + (", as a client sends it" if suffix else "")
            declarations.append((name, f"/** {title} */\nexport {self._declarations[marks[0]]}\n"))
        behind = (declaration for _, declaration in sorted(declarations))
        return _MARK.sub(lambda mark: names[mark[0]], "\n".join([text, *behind]))

    def _text_of_class(self, type_: Any, is_read: bool) -> str:
        cls, arguments = get_origin(type_) or type_, get_args(type_)
        if cls in _ARRAYS:
            return _array(self.text((*arguments, Any)[0], is_read))
        if cls is tuple:
            if arguments[1:] == (...,) or type_ is tuple or type_ is typing.Tuple:  # noqa: UP006
                return _array(self.text((*arguments, Any)[0], is_read))
            items = (self.text(each, is_read) for each in arguments if each != ())
            return f"[{', '.join(items)}]"
        if cls in _MAPPINGS:
            key, value = arguments or (Any, Any)
            text = self.text(value, is_read)
            if _has_literal_keys(key):
                return f"{{ [key in {self.text(key, is_read)}]?: {text} }}"
            return f"{{ [key: string]: {text} }}"
        if cls in _PLAIN:
            return _PLAIN[cls]
        if isinstance(cls, type) and issubclass(cls, Flag):
            return "number"  # Members that are joined are no members.
        return self._mark(type_, is_read) or _unknown(type_)

    def _mark(self, type_: Any, is_read: bool) -> str | None:
        """Return the mark of a class that has a name, and None for any other type."""
        cls = get_origin(type_)
        if cls is not None and getattr(cls, "__parameters__", ()) == get_args(type_):
            type_ = cls  # Page[T] in the annotations of Page
        if type_ not in self._classes:
            if not _is_enum(type_) and shape_of(type_, is_read) is None:
                return None
            self._classes.append(type_)
            for direction in (True, False):
                mark = self._mark_of(type_, direction)
                self._declarations[mark] = self._declare(type_, mark, direction)
        return self._mark_of(type_, is_read)

    def _mark_of(self, type_: Any, is_read: bool) -> str:
        return f"\0{self._classes.index(type_)}{'r' if is_read else 'w'}\0"

    def _declare(self, type_: Any, mark: str, is_read: bool) -> str:
        if _is_enum(type_):
            return f"type {mark} = {_union(map(_literal, type_))};"
        shape = cast("Shape", shape_of(type_, is_read))
        if isinstance(shape, Alias):
            return f"type {mark} = {self.text(shape.type, is_read)};"
        if isinstance(shape, Items):
            labels = (re.sub(r"\W|^(?=\d)", "_", each.name) for each in shape.parts)
            items = map(self._part, labels, shape.parts, repeat(is_read))
            return f"type {mark} = [{', '.join(items)}];"
        keys = (f"  {self._part(_key(each.name), each, is_read)};\n" for each in shape.parts)
        return f"interface {mark} {{\n{''.join(keys)}}}"

    def _part(self, name: str, part: Part, is_read: bool) -> str:
        return f"{name}{'?' * part.is_optional}: {self.text(part.type, is_read)}"

    def _needed(self, text: str) -> list[tuple[str, int, str]]:
        """Return the marks that `text` needs: its own, and those of their declarations.

        Each is a mark, the index of its class, and its direction.
        """
        found: dict[str, tuple[str, int, str]] = {}
        waiting = [text]
        for each in waiting:
            for mark in _MARK.finditer(each):
                if mark[0] not in found:
                    found[mark[0]] = (mark[0], int(mark[1]), mark[2])
                    waiting.append(self._declarations[mark[0]])
        return sorted(found.values(), key=itemgetter(1, 2))

    def _asymmetric(self) -> set[int]:
        """Return the classes that differ between the directions, or hold one that does."""
        found: set[int] = set()
        while True:
            before = len(found)
            for index in range(len(self._classes)):
                read, written = (
                    _MARK.sub(
                        lambda mark: mark[0] if int(mark[1]) in found else mark[1],
                        self._declarations[f"\0{index}{direction}\0"],
                    )
                    for direction in "rw"
                )
                if read != written:
                    found.add(index)
            if len(found) == before:
                return found


def _union(texts: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(texts)) or "never"


def _array(item: str) -> str:
    # A name or a mark needs no parentheses.
    return f"{item}[]" if re.fullmatch(r"[\w\0]+(\[\])*", item) else f"Array<{item}>"


def _literal(value: Any) -> str:
    """Return the type of one value. The JSON of a value is a type of TypeScript as well."""
    try:
        return json.dumps(json.loads(_encoder.encode(value)))
    except TypeError:
        return _unknown(type(value))


def _unknown(type_: Any) -> str:
    return f"unknown /* {_title(type_)}, which hubs do not send */"


def _key(name: str) -> str:
    """Return the name of a key, in quotes if it is no identifier."""
    return name if re.fullmatch(r"[A-Za-z_$][\w$]*", name, re.ASCII) else json.dumps(name)


def _is_enum(type_: Any) -> bool:
    return isinstance(type_, type) and get_origin(type_) is None and issubclass(type_, Enum)


def _has_literal_keys(key: Any) -> bool:
    """Return True if the keys of an object are known, each by its name."""
    if _is_enum(key) and not issubclass(key, Flag):
        values = [each.value for each in key]
    else:
        values = list(get_args(key)) if get_origin(key) is Literal else []
    return bool(values) and all(isinstance(each, str | int) for each in values)


def _title(type_: Any) -> str:
    """Return where a class is defined, for a comment; for anything else, how it is written."""
    cls = get_origin(type_) or type_
    name = getattr(cls, "__qualname__", None) or getattr(cls, "__name__", None)
    text = f"{cls.__module__}.{name}" if name else str(type_)
    return text.replace("*/", "* /")
