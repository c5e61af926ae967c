"""HTTP/2 in Hypercorn (0.18), with limits for each connection, and streams that fail alone."""

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
"""Bytes of a frame's header (RFC 9113, section 4.1)."""

_DATA, _HEADERS, _RST_STREAM, _CONTINUATION = 0, 1, 3, 9

_FRAMES_AT_ONCE: Final = 32
"""Frames that are parsed before other tasks get a turn: 1 to 2 ms."""

_FRAMES_OF_A_REQUEST: Final = 4
"""Weight of a frame that begins a request, in frames. Each 64 bytes of its payload add one."""

_TURN: Final = 0.005
"""Seconds of parsing frames after which other tasks get as much time: 16 KiB of small headers take
10 ms."""

_HEADERS_OF_A_FRAME: Final = 5
"""In a request with too many headers, so many weigh as much as a frame that carries nothing."""

_MAX_APPLICATIONS: Final = 150
"""Applications that may run for one connection. A connection may have 100 open streams, and the
applications of streams that were reset may still be running."""

_LAST_TIMEOUT: Final = 1.0
"""Seconds that a client which is cut off has to read the reason (GOAWAY)."""


def install() -> None:
    hypercorn.protocol.H2Protocol = H2Protocol  # type: ignore[attr-defined]
    h2.StreamBuffer = StreamBuffer  # type: ignore[misc]


class H2Protocol(h2.H2Protocol):
    """An HTTP/2 connection with limits, and without the faults of Hypercorn 0.18.

    Frames of a stream that has ended are ignored. Hypercorn raises KeyError for them, which cuts
    off the connection with all of its streams.

    A connection has limits for frames that carry nothing, for resets (CVE-2023-44487) and for
    running applications. One read may hold 7,000 frames: Hypercorn parses and answers all of them
    before it serves any other connection.
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
            # Hypercorn keeps a connection marked as busy even after a request was refused.
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
        """End the server's side of a stream, too, when the client has read what is left.

        Hypercorn 0.18 does this only for a stream that the application has closed first. So a
        client that has opened and closed 100 WebSockets can open no more over its connection.
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
            self._frames.carry_nothing(len(request.headers) // _HEADERS_OF_A_FRAME)
            self._refuse(request, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif headers[b":method"] == b"CONNECT" and headers.get(b":protocol") != b"websocket":
            # Hypercorn takes each CONNECT for a WebSocket. The status: RFC 9220, section 3.
            self._refuse(request, HTTPStatus.NOT_IMPLEMENTED)
        elif not (headers[b":method"] + headers[b":path"]).isascii():
            # Hypercorn raises UnicodeDecodeError, which ends the whole connection.
            self._refuse(request, HTTPStatus.BAD_REQUEST)
        else:
            await super()._create_stream(request)

    def _refuse(self, request: Any, status: HTTPStatus) -> None:
        stream_id = request.stream_id
        self.connection.send_headers(stream_id, [(b":status", b"%d" % status)], end_stream=True)
        if request.stream_ended is None:
            self.connection.reset_stream(stream_id, ErrorCodes.NO_ERROR)


class _Allowance:
    """A token bucket: `most` tokens at once, and `each_second` more in each second."""

    def __init__(self, most: int, each_second: int) -> None:
        self._most = self._left = float(most)
        self._each_second = each_second
        self._at = monotonic()

    def take(self, count: int = 1) -> bool:
        """Take `count` tokens. Return False if fewer were left."""
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
    """Counts a client's frames before Hypercorn parses them, and finds what exceeds a limit."""

    def __init__(self) -> None:
        self._skip = _PREFACE
        self._head = b""
        self._idle = _Allowance(2000, 200)
        self._resets = _Allowance(200, 20)
        self._reset: deque[bytes] = deque(maxlen=256)
        # Bytes of the request's head that is being read.
        self._block = 0
        self.excess = ""
        """What the client has sent too many of, for the log; empty while there is nothing."""

    def earn(self) -> None:
        """Add two tokens: a frame with data is answered with two WINDOW_UPDATE frames.

        One is for the stream and one for the connection.
        """
        self._idle.earn(2)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield `data` in pieces, in each of which only a few frames begin."""
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
        """Check one frame against the limits, and return its weight in frames."""
        if kind in (_HEADERS, _CONTINUATION):
            self._block = self._skip + (self._block if kind == _CONTINUATION else 0)
            if self._block > MAX_HEAD:
                self.excess = "bytes of a head"
        if kind == _HEADERS or (kind == _DATA and self._skip):
            self.earn()
        elif kind == _RST_STREAM and stream_id not in self._reset:
            # Some clients (Python's h2) reset a stream again for each frame that still arrives.
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
    """A send buffer that lets the application go on only when there is room in the buffer.

    Hypercorn 0.18 also lets it go on when the client's window is closed: memory grows by 1 GB a
    second for a client that does not read.
    """

    async def end(self) -> None:
        """Mark the buffer as complete, and wake the tasks that wait for room."""
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
