"""Presence: who is there under a topic, on every machine.

    async with present("room/7", user=user, meta={"page": "chat"}):
        ...
    people = await members("room/7")

Consumers and `WebSocket` objects have a method `present()`, which knows the user and ends with the
connection. `changes()` follows a topic: who joins and who leaves.

A user with three tabs is one member with three entries. Who has no user is a member of their own.

Presence needs Redis for several processes, or the in-memory layer, or no layer, for one process.
With any other channel layer, `ImproperlyConfigured` is raised.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Generator, Mapping
from types import TracebackType
from typing import Any, Protocol

from ws_support._topics.brokers.base import BrokerError
from ws_support._topics.messages import checked_topic
from ws_support._topics.presence.entries import (
    Change,
    Entry,
    Member,
    Members,
    checked_meta,
    checked_name,
    members_of,
)
from ws_support._topics.presence.tracker import Tracker
from ws_support._topics.registry import TopicRegistry

__all__ = [
    "Change",
    "Member",
    "Members",
    "Presence",
    "PresenceUnavailable",
    "changes",
    "members",
    "present",
]


class PresenceUnavailable(Exception):
    """Redis could not be reached: nobody can say who is present."""


class Holder(Protocol):
    """A connection, whose end is the end of what it holds."""

    def hold(self, presence: Presence) -> None:
        """Remember `presence`. Raises `RuntimeError` or `ValueError` if that is not possible."""

    def let_go_of(self, presence: Presence) -> None:
        """Forget `presence`."""


async def members(topic: str) -> Members:
    """Return everybody who is present under `topic`.

    Somebody who has just left is present for another 2 s, and somebody whose process was killed for
    up to 15 s. The order is that in which they came, by the clocks of their machines.

    Raises `PresenceUnavailable` within 10 s when Redis does not answer, `ImproperlyConfigured`
    when the broker has no presence, and `TypeError` or `ValueError` for an invalid topic.
    """
    tracker = Tracker.of(checked_topic(topic))
    try:
        entries = await tracker.read(topic)
    except BrokerError as error:
        title = TopicRegistry.of_this_loop().broker.title
        raise PresenceUnavailable(
            f"Who is present under {topic!r:.100} cannot be read from {title}: {error}."
        ) from error
    found = members_of(entries.values())
    return Members(len(found), found)


async def changes(topic: str) -> AsyncIterator[Change]:
    """Yield what changes under `topic`: who joins, who leaves, and who has other entries.

    The first change has everybody who is present in `joined`, also if that is nobody. Each later
    one tells what is different from the one before. When they come faster than they are read,
    several are told as one: what waits is never more than one change of all members.

    In an outage of Redis, nothing is told. What is different after it is told then. Entries that
    Redis has lost count as present for 10 s, in which their processes put them back.

    The iterator has to be closed: that is done when the task that reads it is cancelled, or by
    `contextlib.aclosing()`. Raises `ImproperlyConfigured` when the broker has no presence, and
    `TypeError` or `ValueError` for an invalid topic.
    """
    tracker = Tracker.of(checked_topic(topic))
    reader = tracker.watch(topic)
    try:
        while True:
            yield await reader.next()
    finally:
        await tracker.unwatch(reader)


def present(
    topic: str,
    *,
    user: Any = None,
    meta: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Presence:
    """Return an entry under `topic`, to be entered with `async with`.

    `user` is a user of Django, or any object with `pk` and `get_username()`. Without one, or with
    one that is not authenticated, the entry makes a member of its own. `meta` is a dictionary that
    JSON can hold, of at most 4096 bytes as JSON, nested up to 64 deep. `name` replaces the name of
    the user.

    Raises `TypeError` or `ValueError` for an invalid argument.
    """
    return Presence(topic, user=user, meta=meta, name=name)


class Presence:
    """Somebody's entry under a topic, made by `present()`.

    `async with` enters, and leaves at its end. `await` enters alone: for a consumer, whose
    connection leaves by itself at its end.

    Entering returns when others can see the entry, some 50 ms later. In an outage of Redis it
    returns as well, after at most 5 s, and the entry holds once Redis is back. The entry is removed
    2 s after its owner has left, so that a page that is loaded again does not leave.

    Entering raises `ImproperlyConfigured` when the broker has no presence, and `RuntimeError` for
    an entry that was entered before. That of a connection also raises `RuntimeError` after the end
    of the connection, and `ValueError` when it has as many entries as it may have subscriptions
    (`MAX_SUBSCRIPTIONS`).
    """

    __slots__ = ("_entry", "_holder", "_number", "_tracker", "topic")

    def __init__(
        self,
        topic: str,
        *,
        user: Any = None,
        meta: Mapping[str, Any] | None = None,
        name: str | None = None,
        holder: Holder | None = None,
    ) -> None:
        self.topic = checked_topic(topic)
        user_id, own_name = _identity(user)
        name = checked_name(own_name if name is None else name)
        key = "" if user_id is None else f"user:{user_id}"
        self._entry = Entry(key, user_id, name, 0.0, checked_meta(meta))
        self._holder = holder
        self._tracker: Tracker | None = None
        self._number = 0

    def __repr__(self) -> str:
        return f"<Presence under {self.topic!r:.100}>"

    @property
    def meta(self) -> dict[str, Any]:
        """The metadata of the entry."""
        meta: dict[str, Any] = self._entry.meta
        return meta

    @property
    def key(self) -> str:
        """The key of the member that the entry belongs to; empty before it is entered, if there is
        no user."""
        return self._entry.key

    async def __aenter__(self) -> Presence:
        if self._number:
            raise RuntimeError("A presence can be entered only once: call present() again.")
        tracker = Tracker.of(self.topic)
        if self._holder is not None:
            self._holder.hold(self)
        self._tracker = tracker
        self._number = tracker.worker.new_number()
        key = self._entry.key or f"guest:{tracker.worker.base}.{self._number}"
        self._entry = self._entry._replace(key=key, since=round(time.time(), 3))
        try:
            await self._put(tracker)
        except BaseException:
            self.end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def __await__(self) -> Generator[Any, Any, Presence]:
        return self.__aenter__().__await__()

    async def update(self, meta: Mapping[str, Any] | None) -> None:
        """Replace the metadata. Returns as entering does.

        Raises the same errors as `present()`, and `RuntimeError` if the entry is not entered, or
        has been left.
        """
        entry = self._entry._replace(meta=checked_meta(meta))
        if self._tracker is None:
            raise RuntimeError("update() was called for somebody who is not present.")
        self._entry = entry
        await self._put(self._tracker)

    async def leave(self) -> None:
        """Leave, as at the end of `async with`. After that, do nothing."""
        self.end()

    def end(self) -> None:
        """Leave, from code that cannot wait."""
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return
        tracker.worker.leave(self.topic, self._number)
        if self._holder is not None:
            self._holder.let_go_of(self)

    async def _put(self, tracker: Tracker) -> None:
        await tracker.worker.put(self.topic, self._number, self._entry.write())


def _identity(user: Any) -> tuple[int | str | None, str]:
    """Return the primary key and the name of `user`; `None` and an empty name without a user."""
    if user is None or not getattr(user, "is_authenticated", True):
        return None, ""
    key = user.pk
    if key is None:
        raise ValueError(f"The user {user!r:.100} has no primary key: save it first.")
    return key if isinstance(key, int) else str(key), str(user.get_username())
