"""Daphne's side of a request, without the gaps that its users meet.

Each difference names the symptom and the version it was seen with, so that it can go on the day
it is mended there. Whatever is not named here is Daphne's (4.2.3) and Twisted's (26.10).
"""

from __future__ import annotations

from typing import Any

import daphne.server  # It chooses the reactor, and imports its `http_protocol` after that.


class WebRequest(daphne.http_protocol.WebRequest):  # type: ignore[misc]
    """One request, which may become a WebSocket."""

    def leave(self) -> None:
        """Tell the application that its client has left."""
        if self.application_queue is not None:
            self.send_disconnect()


class HTTPFactory(daphne.http_protocol.HTTPFactory):  # type: ignore[misc]
    """Makes a channel for each connection."""

    def buildProtocol(self, address: Any) -> Any:
        protocol = super().buildProtocol(address)
        protocol.requestFactory = WebRequest
        return protocol
