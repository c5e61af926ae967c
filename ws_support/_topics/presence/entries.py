"""Entries, the members that they make, and the differences between two states."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ws_support._topics.messages import json_of

MAX_META: Final = 4096
"""The most bytes of the metadata of an entry, as JSON in ASCII."""

MAX_DEPTH: Final = 64
"""The most dictionaries and lists within one another in the metadata of an entry. Everybody who
watches reads them, and Python raises `RecursionError` for some hundreds."""

MAX_NAME: Final = 255
"""The most characters of a member's name."""

_INTERNAL: Final = "ws_support.presence:"


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody who is present under a topic, with one entry or several."""

    key: str
    """What tells members apart: the same for all entries of a user, on every machine."""

    user_id: int | str | None
    """The primary key of the user, a string unless it is an integer; `None` without a user."""

    name: str
    """The name of the user; empty without one."""

    entries: list[Any]
    """The metadata of each entry, such as that of each tab. The oldest entry comes first."""


@dataclass(frozen=True, slots=True)
class Members:
    """Everybody who is present under a topic."""

    count: int
    """The number of members. A user with three tabs is one."""

    members: list[Member]
    """Who came first is first."""


@dataclass(frozen=True, slots=True)
class Change:
    """The difference between two states of a topic."""

    joined: list[Member]
    left: list[Member]
    """Members as they were before they left."""
    changed: list[Member]
    """Members with other entries than before: a tab was opened or closed, or has new metadata."""
    count: int
    """The number of members after the change."""


class Entry(NamedTuple):
    """One tab, or one task, that is present under a topic."""

    key: str
    user_id: int | str | None
    name: str
    since: float
    """When the entry was made, in seconds since 1970 by the clock of its machine."""
    meta: Any

    def write(self) -> str:
        """Return the entry as JSON, as the storage keeps it."""
        return json.dumps(self, separators=(",", ":"))


def checked_meta(meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `meta` as JSON keeps it.

    Raises `TypeError` if it is no mapping or holds what JSON does not know, and `ValueError` if it
    takes more than `MAX_META` bytes, or is nested deeper than `MAX_DEPTH`.
    """
    if meta is not None and not isinstance(meta, Mapping):
        raise TypeError(f"The metadata of an entry is a dictionary: got {meta!r:.100}.")
    text = json_of(dict(meta or {}))
    if len(text) > MAX_META:
        raise ValueError(
            f"The metadata of an entry has up to {MAX_META} bytes as JSON: got {len(text)},"
            f" {text[:60]}..."
        )
    if _is_deep(meta):
        raise ValueError(
            f"The metadata of an entry is nested up to {MAX_DEPTH} deep: {text[:60]}..."
        )
    value: dict[str, Any] = json.loads(text)
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, (Mapping, list, tuple))
            for inner in (each.values() if isinstance(each, Mapping) else each)
        ]
        if not level:
            return False
    return any(isinstance(each, (Mapping, list, tuple)) for each in level)


def checked_name(name: object) -> str:
    """Return `name`.

    Raises `TypeError` if it is not a string, and `ValueError` if it is longer than `MAX_NAME`.
    """
    if not isinstance(name, str):
        raise TypeError(f"The name of a member is a string: got {name!r:.100}.")
    if len(name) > MAX_NAME:
        raise ValueError(f"The name of a member has up to {MAX_NAME} characters: got {len(name)}.")
    return name


def read_entries(texts: Mapping[str, str]) -> dict[str, Entry]:
    """Return the entries that `texts` hold, by the same ids."""
    # One call for all: each call takes longer than an entry.
    values = json.loads(f"[{','.join(texts.values())}]")
    return {each: Entry(*value) for each, value in zip(texts, values, strict=True)}


def members_of(entries: Iterable[Entry]) -> list[Member]:
    """Return the members that `entries` make. Who came first is first."""
    by_key: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda each: each.since):
        by_key.setdefault(entry.key, []).append(entry)
    return [_member(each) for each in by_key.values()]


def _member(entries: list[Entry]) -> Member:
    last = entries[-1]
    return Member(last.key, last.user_id, last.name, [each.meta for each in entries])


# The id of an entry: "WORKER.GENERATION:NUMBER". A worker whose lease was over has a new
# generation, so that a removal of the old one, which is under way, removes nothing else.


def id_of(worker: str, number: int) -> str:
    """Return the id of an entry."""
    return f"{worker}:{number}"


def worker_of(entry: str) -> str:
    """Return the worker, with its generation, that an entry belongs to."""
    return entry.partition(":")[0]


def slot_of(entry: str) -> str:
    """Return what stays the same when the worker of an entry has a new generation."""
    worker, _, number = entry.partition(":")
    return f"{worker.partition('.')[0]}:{number}"


# Differences, as messages.


def difference_topic(topic: str) -> str:
    """Return the topic under which the differences of `topic` are published."""
    return _INTERNAL + topic


class Difference(NamedTuple):
    """What one change has done to the entries under a topic."""

    epoch: str
    """Another one when the storage has begun with nothing."""
    version: int
    """The number of the change: one more than that of the change before, in the same epoch."""
    joined: dict[str, Entry]
    """Entries that are new, or have other data."""
    left: list[str]


def write_difference(
    epoch: str, version: int, joined: Mapping[str, str], left: Iterable[str]
) -> str:
    """Return a difference as text, as the script for Redis writes it."""
    pairs = ",".join(f'"{each}":{text}' for each, text in joined.items())
    ids = ",".join(f'"{each}"' for each in left)
    return f'{{"epoch":"{epoch}","version":{version},"joined":{{{pairs}}},"left":[{ids}]}}'


def read_difference(text: str) -> Difference:
    """Return the difference that `text` holds. Raises `ValueError` or `TypeError` if none is."""
    value = json.loads(text)
    if not isinstance(value, dict) or value.keys() != {"epoch", "version", "joined", "left"}:
        raise ValueError("no difference")
    joined = {each: Entry(*entry) for each, entry in value["joined"].items()}
    return Difference(value["epoch"], value["version"], joined, value["left"])
