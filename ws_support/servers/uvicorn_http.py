"""Uvicorn's side of HTTP/1.1 (0.54), up to the upgrade."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger("ws_support.servers")

_HEAD_TIMEOUT: Final = 20.0
"""Seconds for the head of a connection's first request."""


class HTTPProtocol(HttpToolsProtocol):
    """Hands on what came right behind an upgrade request, and waits for no head for ever.

    Uvicorn's own drops the frames that a client sends without waiting for the answer, as it may,
    when they are read together with the request.
    """

    _read = b""
    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._limit = self.loop.call_later(_HEAD_TIMEOUT, self._give_up)

    def _give_up(self) -> None:
        logger.info("Closed: no request within %g s from %s.", _HEAD_TIMEOUT, self.client)
        self.transport.close()

    def _stop_waiting(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        self._read = data
        super().data_received(data)
        self._read = b""

    def handle_websocket_upgrade(self) -> None:
        # The parser says how much of what it was fed it has read (`HttpParserUpgrade`).
        error = sys.exc_info()[1]
        behind = self._read[error.args[0] :] if error is not None else b""
        super().handle_websocket_upgrade()
        if behind:
            self.transport.get_protocol().data_received(behind)  # type: ignore[attr-defined]
