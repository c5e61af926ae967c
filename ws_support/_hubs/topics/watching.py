"""Who is present under topics, for the clients of hubs: one reader for all of an event loop."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, Protocol, TypedDict

from ws_support._asyncio import PerLoop, cancelled
from ws_support._hubs.messages import Invocation
from ws_support._hubs.protocols.base import HubProtocol, InvalidValue
from ws_support._hubs.published import Published
from ws_support._hubs.topics.written import json_for, written_by
from ws_support._topics.messages import json_of
from ws_support.presence import Change, Member, changes


class Audience(Protocol):
    """Who hears of changes."""

    def hear(self, message: Published) -> None:
        """Send a message to the client."""


class Difference(TypedDict):
    """What has changed, for clients."""

    whole: bool
    """True if this is everybody, and what was known before is void."""
    joined: list[Member]
    left: list[Member]
    changed: list[Member]
    count: int


class Watching:
    """The members of one topic, and who hears of their changes in this event loop.

    A change is written once for each protocol, however many hear of it.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._audience: dict[Audience, None] = {}
        self._members: dict[str, Member] | None = None
        """Who is present; None until that is known."""
        self._task = asyncio.create_task(self._run(), name="presence for hubs")

    @classmethod
    def begin(cls, topic: str, audience: Audience) -> None:
        """Tell `audience` who is present, and then what changes, until `end()`."""
        watchings = _watchings.get()
        watching = watchings.get(topic)
        if watching is None:
            watching = watchings[topic] = cls(topic)
        watching._audience[audience] = None
        if watching._members is not None:
            audience.hear(watching._everybody(watching._members))

    @classmethod
    async def end(cls, topic: str, audience: Audience) -> None:
        """Tell `audience` nothing more."""
        watchings = _watchings.get()
        watching = watchings[topic]
        watching._audience.pop(audience, None)
        if not watching._audience:
            del watchings[topic]
            await cancelled(watching._task)

    async def _run(self) -> None:
        async with aclosing(changes(self._topic)) as found:  # type: ignore[type-var]
            async for change in found:
                if self._members is None:
                    self._members = {each.key: each for each in change.joined}
                    message = self._everybody(self._members)
                else:
                    self._apply(self._members, change)
                    message = self._message(change, is_whole=False)
                for each in tuple(self._audience):
                    each.hear(message)

    @staticmethod
    def _apply(members: dict[str, Member], change: Change) -> None:
        for each in change.left:
            members.pop(each.key, None)
        members.update({each.key: each for each in (*change.joined, *change.changed)})

    def _everybody(self, members: dict[str, Member]) -> Published:
        change = Change(joined=list(members.values()), left=[], changed=[], count=len(members))
        return self._message(change, is_whole=True)

    def _message(self, change: Change, *, is_whole: bool) -> Published:
        def write(protocol: HubProtocol) -> bytes:
            difference: Difference = {
                "whole": is_whole,
                "joined": sendable(change.joined, protocol),
                "left": sendable(change.left, protocol),
                "changed": sendable(change.changed, protocol),
                "count": change.count,
            }
            return protocol.write(Invocation("Presence", [self._topic, difference]))

        return written_by(write)


def sendable(members: list[Member], protocol: HubProtocol) -> list[Member]:
    """Return members as `protocol` can write them: other metadata are JSON text."""
    try:
        protocol.write(Invocation("", members))
    except InvalidValue:
        return [
            replace(each, entries=[json_for(json_of(entry), protocol) for entry in each.entries])
            for each in members
        ]
    return members


_watchings: Final[PerLoop[dict[str, Any]]] = PerLoop(dict)
"""The topics that are watched in an event loop."""
