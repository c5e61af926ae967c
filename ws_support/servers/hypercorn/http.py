"""HTTP requests in Hypercorn (0.18), with an end when the client leaves."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import hypercorn.protocol.h2
from hypercorn.protocol import http_stream
from hypercorn.protocol.events import StreamClosed


def install() -> None:
    hypercorn.protocol.h2.HTTPStream = HTTPStream  # type: ignore[attr-defined]


class HTTPStream(http_stream.HTTPStream):
    """A request whose application hears of the end, also when it has not read the body.

    Hypercorn waits for room in a queue that is full of chunks.
    """

    def handle(self, event: Any) -> Coroutine[Any, Any, None]:
        if type(event) is StreamClosed:
            queue: Any = self.app_put
            if queue.full():
                queue.get_nowait()
            queue.let_in_the_end()
        return super().handle(event)
