"""How many connections the hub of topics has in this process. The page at /room follows that."""

from __future__ import annotations

import os
from contextlib import suppress

from ws_support.broadcast import BroadcastError, broadcast_json
from ws_support.hubs import TopicsHub

CONNECTIONS = "demo/connections"
"""The topic. Each process publishes its own number, with its id."""

_open: set[str] = set()
"""The ids of the connections."""


def connections_here() -> dict[str, int]:
    """Return the id of this process, and how many connections it has."""
    return {"process": os.getpid(), "connections": len(_open)}


class CountedTopicsHub(TopicsHub):
    """The hub of topics, whose connections are counted."""

    async def on_connected(self) -> None:
        _open.add(self.context.connection_id)
        try:
            await _publish()
        except BaseException:  # Then on_disconnected() is not called.
            _open.discard(self.context.connection_id)
            raise

    async def on_disconnected(self, error: Exception | None) -> None:
        _open.discard(self.context.connection_id)
        await _publish()


async def _publish() -> None:
    with suppress(BroadcastError):  # Redis is away: the next number reaches the pages.
        await broadcast_json(CONNECTIONS, connections_here())
