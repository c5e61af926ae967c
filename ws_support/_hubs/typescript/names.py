"""The names that classes of Python get in a file of TypeScript."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Final, get_args, get_origin

RESERVED_WORDS: Final = frozenset(
    {
        "arguments", "await", "break", "case", "catch", "class", "const", "continue",
        "debugger", "default", "delete", "do", "else", "enum", "eval", "export", "extends",
        "false", "finally", "for", "function", "if", "implements", "import", "in",
        "instanceof", "interface", "let", "new", "null", "package", "private", "protected",
        "public", "return", "static", "super", "switch", "this", "throw", "true", "try",
        "typeof", "var", "void", "while", "with", "yield",
    }
)  # fmt: skip
"""What nothing may be called in a module of JavaScript."""

_TYPES: Final = frozenset(
    {
        "any", "bigint", "boolean", "never", "number", "object", "string", "symbol",
        "undefined", "unknown", "Array", "AsyncIterable", "Omit", "Promise",
    }
)  # fmt: skip
"""What no class may be called in TypeScript besides. The last ones are used in our text."""


def choose_names(entries: list[tuple[Any, str]], taken: Iterable[str]) -> list[str]:
    """Return a name for each class with its suffix: its own, longer if another one has that.

    Two that cannot be told apart otherwise, such as the local classes of a function, get numbers.
    """
    reserved = {*RESERVED_WORDS, *_TYPES, *taken}
    levels = [0] * len(entries)
    for _ in range(2):
        names = [_name(*entry, level) for entry, level in zip(entries, levels, strict=True)]
        counts = Counter(names)
        levels = [
            level + (counts[name] > 1 or name in reserved)
            for name, level in zip(names, levels, strict=True)
        ]
    chosen: list[str] = []
    for entry, level in zip(entries, levels, strict=True):
        name, number = _name(*entry, level), 1
        while name in reserved or name in chosen:
            number += 1
            name = f"{_name(*entry, level)}{number}"
        chosen.append(name)
    return chosen


def _name(type_: Any, suffix: str, level: int) -> str:
    """Return the name of a class: alone, with the classes around it, or with its module, too."""
    cls = get_origin(type_) or type_
    outer = str(getattr(cls, "__qualname__", "")).replace("<locals>.", "").split(".")[:-1]
    module = cls.__module__.split(".")
    around = [(), outer, (*module, *outer)][level]
    first, *others = (word for each in (*around, _stem(type_)) for word in re.findall(r"\w+", each))
    return "".join([first if not around else _capital(first), *map(_capital, others), suffix])


def _stem(type_: Any) -> str:
    """Return a name as words: that of a class, and those of its arguments behind it."""
    cls, arguments = get_origin(type_) or type_, get_args(type_)
    if cls is Annotated:
        return _stem(arguments[0])
    name = getattr(cls, "__name__", None) or getattr(cls, "_name", None) or str(cls)
    return " ".join([name, *map(_stem, arguments)])


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]
