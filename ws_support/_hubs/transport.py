"""What a hub connection needs of what carries it."""

from __future__ import annotations

from typing import Protocol

from ws_support._hubs.ends import End
from ws_support._hubs.protocols.base import HubProtocol
from ws_support._hubs.published import Published


class Transport(Protocol):
    """What carries the bytes of a connection at present."""

    def notify(self) -> None:
        """Take what waits, with `HubConnection.take()`, now or when that is possible."""

    def write_shared(self, published: Published, protocol: HubProtocol) -> bool:
        """Write a message for many at once. Return False if that cannot be done without waiting."""

    async def finish(self, end: End) -> None:
        """Write what waits, and end the request or the socket."""

    def drop(self) -> None:
        """End the socket: another one carries the connection now, or none has to any more."""
