"""HTTP/2 in Hypercorn (0.18), without what one stream does to the others of its connection, and one
connection to all others."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from http import HTTPStatus
from time import monotonic
from typing import Any, Final

import hypercorn.protocol
from h2.errors import ErrorCodes
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol import h2

from ws_support.servers._run.limits import MAX_HEAD, MAX_HEADERS

logger = logging.getLogger("ws_support.servers")

_PREFACE: Final = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
_HEAD: Final = 9
"""Bytes of a frame's head (RFC 9113, section 4.1)."""

_DATA, _HEADERS, _RST_STREAM, _CONTINUATION = 0, 1, 3, 9

_FRAMES_AT_ONCE: Final = 32
"""After so many, others have their turn: 1 to 2 ms."""

_FRAMES_OF_A_REQUEST: Final = 4
"""For so many frames counts one that begins a request, and as many more as it has 64 bytes."""

_TURN: Final = 0.005
"""Seconds of taking frames apart, after which others have as much time: 16 KiB of small headers
take 10 ms."""

_FRAMES_OF_A_REFUSAL: Final = 50
"""For so many frames that carry nothing counts a request with too many headers."""

_MAX_APPLICATIONS: Final = 150
"""That may run for one connection. It may have 100 streams, and those of others that were reset end
in their own time."""

_LAST_TIMEOUT: Final = 1.0
"""Seconds for a client that is cut off to take what it is told."""


def install() -> None:
    hypercorn.protocol.H2Protocol = H2Protocol  # type: ignore[attr-defined]
    h2.StreamBuffer = StreamBuffer  # type: ignore[misc]


class H2Protocol(h2.H2Protocol):
    """Passes over what comes for a stream that has ended: it raised KeyError, which cut off the
    connection with all of its streams.

    A connection has limits for frames that carry nothing, for resets (CVE-2023-44487) and for
    applications that run. A read may be 7,000 frames, and nobody else was served before they were
    taken apart and answered.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.streams = _Streams()
        self._frames = _Frames()
        self._is_cut_off = False
        self._has_requests = False
        self._running = 0
        self._application, self.app = self.app, self._run  # type: ignore[assignment]
        send_data = self.connection.send_data

        def send_and_earn(*args: Any, **options: Any) -> None:
            self._frames.earn()
            send_data(*args, **options)

        self.connection.send_data = send_and_earn  # type: ignore[method-assign]
        receive_data = self.connection.receive_data
        self._spent = 0.0

        def receive_and_measure(data: Any) -> Any:
            began_at = monotonic()
            try:
                return receive_data(data)
            finally:
                self._spent = monotonic() - began_at

        self.connection.receive_data = receive_and_measure  # type: ignore[method-assign]

    async def handle(self, event: Any) -> None:
        if not isinstance(event, RawData):
            await super().handle(event)
            return
        for piece in self._frames.pieces(event.data):
            if self._is_cut_off:
                return
            if self._frames.excess:
                await self._cut_off(self._frames.excess)
                return
            await super().handle(RawData(piece))
            if self._spent > _TURN:
                await asyncio.sleep(self._spent)
            elif piece is not event.data:
                await asyncio.sleep(0)
        if self._has_requests:
            # Hypercorn takes a connection for busy also when it has refused what came.
            self._has_requests = False
            if self.idle:
                await self.send(Updated(idle=True))

    async def _cut_off(self, excess: str) -> None:
        self._is_cut_off = True
        logger.warning("An HTTP/2 connection was cut off: its client sent too many %s.", excess)
        self.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
        try:
            await asyncio.wait_for(self._flush(), _LAST_TIMEOUT)
        except asyncio.TimeoutError:
            logger.debug("The client does not read why.")
        await super().handle(Closed())
        await self.send(Closed())

    async def _close_stream(self, stream_id: int) -> None:
        """End this side of a stream as well, when the client has read what is left.

        Hypercorn did so only where its application had closed first. After 100 sockets that their
        client has closed, it could open no more.
        """
        stream = self.streams.get(stream_id)
        await super()._close_stream(stream_id)
        if stream_id in self.stream_buffers:
            if getattr(stream, "is_cut_off", False):
                self.connection.reset_stream(stream_id, ErrorCodes.CANCEL)
            await self.stream_buffers[stream_id].end()  # type: ignore[attr-defined]
            await self._window_updated(stream_id)

    async def _run(self, *arguments: Any) -> None:
        self._running += 1
        try:
            await self._application(*arguments)
        finally:
            self._running -= 1

    async def _create_stream(self, request: Any) -> None:
        self._has_requests = True
        if self._running >= _MAX_APPLICATIONS:
            self.connection.reset_stream(request.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        headers = dict(request.headers)
        if len(request.headers) > MAX_HEADERS:
            self._frames.carry_nothing(_FRAMES_OF_A_REFUSAL)
            self._refuse(request, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif headers[b":method"] == b"CONNECT" and headers.get(b":protocol") != b"websocket":
            # It was taken for a WebSocket (RFC 9220, section 3).
            self._refuse(request, HTTPStatus.NOT_IMPLEMENTED)
        elif not (headers[b":method"] + headers[b":path"]).isascii():
            self._refuse(request, HTTPStatus.BAD_REQUEST)  # UnicodeDecodeError, of the connection.
        else:
            await super()._create_stream(request)

    def _refuse(self, request: Any, status: HTTPStatus) -> None:
        stream_id = request.stream_id
        self.connection.send_headers(stream_id, [(b":status", b"%d" % status)], end_stream=True)
        if request.stream_ended is None:
            self.connection.reset_stream(stream_id, ErrorCodes.NO_ERROR)


class _Allowance:
    """What may come at once, and how much more each second."""

    def __init__(self, most: int, each_second: int) -> None:
        self._most = self._left = float(most)
        self._each_second = each_second
        self._at = monotonic()

    def take(self, count: int = 1) -> bool:
        """Return False when less is left."""
        if self._left < count:
            now = monotonic()
            earned = (now - self._at) * self._each_second
            self._left = min(self._left + earned, self._most)
            self._at = now
        self._left -= count
        return self._left >= 0

    def earn(self, count: int) -> None:
        self._left = min(self._left + count, self._most)


class _Frames:
    """What a client sends, frame by frame, before anything is done for it."""

    def __init__(self) -> None:
        self._skip = _PREFACE
        self._head = b""
        self._idle = _Allowance(2000, 200)
        self._resets = _Allowance(200, 20)
        self._reset: deque[bytes] = deque(maxlen=256)
        # Bytes of the head that is being read.
        self._block = 0
        self.excess = ""
        """What there are too many of."""

    def earn(self) -> None:
        """Allow for what a frame with data is answered with: WINDOW_UPDATE, for the stream and for
        the connection."""
        self._idle.earn(2)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield `data`, of which each piece begins no more than a few frames."""
        start = at = count = 0
        while at < len(data):
            step = min(self._skip or _HEAD - len(self._head), len(data) - at)
            if self._skip:
                self._skip -= step
            else:
                self._head += data[at : at + step]
            at += step
            if len(self._head) == _HEAD:
                self._skip = int.from_bytes(self._head[:3], "big")
                count += self._count(self._head[3], self._head[5:])
                self._head = b""
                if count >= _FRAMES_AT_ONCE:
                    yield data[start:at]
                    start, count = at, 0
        if start < len(data):
            yield data[start:]

    def carry_nothing(self, count: int = 1) -> None:
        if not self._idle.take(count):
            self.excess = "frames that carry nothing"

    def _count(self, kind: int, stream_id: bytes) -> int:
        """Return for how many frames this one counts until others have their turn."""
        if kind in (_HEADERS, _CONTINUATION):
            self._block = self._skip + (self._block if kind == _CONTINUATION else 0)
            if self._block > MAX_HEAD:
                self.excess = "bytes of a head"
        if kind == _HEADERS or (kind == _DATA and self._skip):
            self.earn()
        elif kind == _RST_STREAM and stream_id not in self._reset:
            # Some clients (Python's h2) reset a stream again for each frame that was on its way.
            self._reset.append(stream_id)
            if not self._resets.take():
                self.excess = "resets"
        else:
            self.carry_nothing()
        if kind in (_HEADERS, _CONTINUATION):
            return _FRAMES_OF_A_REQUEST + self._skip // 64
        return 1


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

    async def end(self) -> None:
        """Take nothing more, and let whoever waits for room go on."""
        self.set_complete()
        await self._paused.set()

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < h2.BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data
