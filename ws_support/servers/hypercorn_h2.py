"""HTTP/2 in Hypercorn (0.18), without what one stream does to the others of its connection."""

from __future__ import annotations

from typing import Any

import hypercorn.protocol
from hypercorn.protocol import h2


def install() -> None:
    hypercorn.protocol.H2Protocol = H2Protocol  # type: ignore[attr-defined]
    h2.StreamBuffer = StreamBuffer  # type: ignore[misc]


class H2Protocol(h2.H2Protocol):
    """Passes over what comes for a stream that has ended. It raised KeyError, which cut off the
    connection with all of its streams."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.streams = _Streams()


class _Streams(dict[int, Any]):
    def __missing__(self, stream_id: int) -> _Ended:
        return _ENDED


class _Ended:
    async def handle(self, event: object) -> None:
        pass


_ENDED = _Ended()


class StreamBuffer(h2.StreamBuffer):
    """Lets the application go on when there is room. It also did so when the client's window was
    closed: a client that does not read cost 1 GB a second."""

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < h2.BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data
