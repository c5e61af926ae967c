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
    return 1 + secrets.randbelow(_MARKS)


def offset_of(position: Position) -> int:
    """Return the offset of a position."""
    return int(position.partition("-")[0])


def is_position(data: bytes) -> bool:
    """Return True if `data` is a position."""
    return _POSITION.fullmatch(data) is not None


def checked_position(since: object) -> Position:
    """Return `since`, if it is a position, or else one that no message has.

    Clients send positions: one that cannot be read is that of another history. Raises `TypeError`
    if it is not a string.
    """
    if not isinstance(since, str):
        raise TypeError(f"A position is a string, as broadcast() returns it: got {since!r:.100}.")
    return since if is_position(since.encode("utf-8", "replace")) else "0-0"
