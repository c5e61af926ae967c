"""The topics of the page at /room. Django imports this module when it starts."""

from __future__ import annotations

import time
from typing import Any

from example_project.connections import CONNECTIONS, connections_here
from ws_support.topics import Topic, topic

MAX_NAME = 40
"""Characters of a name."""

MAX_TEXT = 500
"""Characters of a message."""

MAX_BROWSER = 40
"""Characters of what tells browsers apart."""

DAY = 24 * 60 * 60
"""Seconds."""


@topic("demo/room/<slug:room>")
class RoomTopic(Topic):
    """A room for everybody: the demo has no login."""

    history = 100
    history_seconds = DAY
    presence = True

    async def may_subscribe(self, user: Any, room: str) -> bool:
        return True

    async def may_publish(self, user: Any, message: Any, room: str) -> bool:
        return (
            isinstance(message, dict)
            and message.keys() == {"browser", "name", "text", "time"}
            and _is_text(message["browser"], MAX_BROWSER)
            and _is_text(message["name"], MAX_NAME)
            and _is_text(message["text"], MAX_TEXT)
            and _is_time(message["time"])
        )


@topic(CONNECTIONS)
class ConnectionsTopic(Topic):
    """How many connections each process has."""

    async def may_subscribe(self, user: Any) -> bool:
        return True

    async def snapshot(self, user: Any) -> dict[str, int]:
        """Return the number of the process to which the page is connected."""
        return connections_here()


def _is_text(value: object, most: int) -> bool:
    return isinstance(value, str) and value.strip() != "" and len(value) <= most


def _is_time(value: object) -> bool:
    """Return True for milliseconds since 1970. The clock of the sender may be wrong by a day."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and abs(value / 1000 - time.time()) < DAY
