"""Positions in the histories of topics."""

from __future__ import annotations

import re
import secrets
from typing import Final

Position = str
"""An offset, which counts the messages of a topic, and a random mark: "17-8412345678901".

The mark tells two messages with the same offset apart: a history that was lost, expired or restored
from an older copy begins again with offsets that there were before.
"""

_POSITION: Final = re.compile(rb"[0-9]{1,15}-[0-9]{1,18}")

_MARKS: Final = 10**15


def position(offset: int) -> Position:
    """Return a new position with an offset."""
    return f"{offset}-{mark()}"


def mark() -> int:
    """Return a random mark."""
    return secrets.randbelow(_MARKS)


def offset_of(position: Position) -> int:
    """Return the offset of a position."""
    return int(position.partition("-")[0])


def is_position(data: bytes) -> bool:
    """Return True if `data` is a position."""
    return _POSITION.fullmatch(data) is not None


def checked_position(since: object) -> Position:
    """Return `since`, if it is a position. Raises `TypeError` or `ValueError` if it is none."""
    if not isinstance(since, str):
        raise TypeError(f"A position is a string, as broadcast() returns it: got {since!r:.100}.")
    if not is_position(since.encode("utf-8", "replace")):
        raise ValueError(
            f'A position is a string like "17-8412345678901", as broadcast() returns it: got'
            f" {since!r:.100}."
        )
    return since
