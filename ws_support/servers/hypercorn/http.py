"""HTTP requests in Hypercorn (0.18), with an end when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import hypercorn.protocol.h2
from hypercorn.protocol import http_stream
from hypercorn.protocol.events import StreamClosed

from ws_support.servers.hypercorn.websocket import LATE_SENDS, ClientHasGone, is_never_full


def install() -> None:
    hypercorn.protocol.h2.HTTPStream = HTTPStream  # type: ignore[attr-defined]


class HTTPStream(http_stream.HTTPStream):
    """Gives other tasks a turn when the application sends after the end of the stream.

    Over HTTP/2, Hypercorn's `send()` then returns at once without an error: an application that
    only sends in a loop blocks the whole process.
    """

    _late_sends = 0

    def handle(self, event: Any) -> Coroutine[Any, Any, None]:
        if type(event) is StreamClosed:
            # Chunks of a body that the application does not read may fill its queue.
            queue = self.app_put.__self__  # type: ignore[attr-defined]
            if queue.full():
                queue.get_nowait()
            queue.full = is_never_full
        return super().handle(event)

    def app_send(self, message: Any) -> Coroutine[Any, Any, None]:
        is_late = self.closed and self.state is not http_stream.ASGIHTTPState.CLOSED
        if is_late and message is not None:
            return self._send_late()
        return super().app_send(message)

    async def _send_late(self) -> None:
        self._late_sends += 1
        if self._late_sends > LATE_SENDS:
            raise ClientHasGone("The connection has ended.")
        await asyncio.sleep(0)
