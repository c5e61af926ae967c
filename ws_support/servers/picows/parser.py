"""picows takes the frames of clients apart, and does nothing else."""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

from picows import WSAutoPingStrategy, WSMsgType
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # Not in its stubs.

CONTINUATION: Final = WSMsgType.CONTINUATION
TEXT: Final = WSMsgType.TEXT
BINARY: Final = WSMsgType.BINARY
CLOSE: Final = WSMsgType.CLOSE
PING: Final = WSMsgType.PING
PONG: Final = WSMsgType.PONG

_READ: Final = 2**16
"""Bytes that are read in one go: 10,000 of the shortest messages, all of which are taken apart
before anybody else has a turn."""

_SMALL: Final = 2**13
"""Bytes of a buffer that is not worth to be given back."""

_INITIAL: Final = 2**11

_REQUEST: Final = (
    b"GET / HTTP/1.1\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"\r\n"
)
"""An opening handshake. picows (2.3) begins with one, and ours is over when it begins."""


class Listener(Protocol):
    """Who has the frames. `on_ws_frame` is that of `picows.WSListener`."""

    def parser_failed(self, code: int, reason: str) -> None:
        """What comes after the frame that is handed over next, if one is, breaks the protocol.

        Frames found by then are handed over first."""

    def parser_has_grown(self) -> None:
        """Its buffer is large. Said again and again, before each read."""

    def eof_received(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...


class Parser(WSProtocol):  # type: ignore[misc]
    """Takes frames apart, and nothing else: it neither writes nor closes nor answers pings.

    It is the protocol of the transport, so what is read goes to compiled code, and frames come out
    of it. picows looks at one frame more than it hands over.
    """

    __slots__ = ()

    def __init__(self, listener: Any, max_size: int) -> None:
        wire = _Wire()
        super().__init__(
            *(None, None, False, lambda _: listener, _LOGGER, True, None),
            *(False, 0, 0, WSAutoPingStrategy.PING_PERIODICALLY, False),  # No pings, no pongs.
            *(max_size, None, _INITIAL),
        )
        super().connection_made(wire)
        self.feed(_REQUEST)
        wire.listener = listener

    def feed(self, data: bytes) -> None:
        """Take `data` apart, as if it had been read."""
        view = memoryview(data)
        while view:
            room = self.get_buffer(-1)
            size = min(len(room), len(view))
            room[:size] = view[:size]
            self.buffer_updated(size)
            view = view[size:]

    # picows makes its buffer larger when it is full, and never smaller.

    def get_buffer(self, hint: int, _get_buffer: Any = WSProtocol.get_buffer) -> memoryview:
        room: memoryview = _get_buffer(self, hint)
        if len(room) <= _SMALL:
            return room
        self.listener.parser_has_grown()
        return room[:_READ]

    def eof_received(self) -> None:
        self.listener.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.listener.connection_lost(exc)


class _Wire:
    """What picows takes for its transport. It writes a close frame when it finds an error."""

    __slots__ = ("listener",)

    def __init__(self) -> None:
        self.listener: Listener | None = None

    def get_extra_info(self, name: str) -> Any:
        # With TLS it does not write to the socket itself.
        return _NO_SOCKET if name == "socket" else name == "ssl_object" or None

    get_write_buffer_size = None
    writelines = None

    def write(self, data: bytes) -> None:
        if self.listener is not None:  # Else it is the answer to its handshake.
            payload = data[2:] if data[1] < 126 else data[4:]
            code = int.from_bytes(payload[:2], "big")
            self.listener.parser_failed(code, payload[2:].decode())

    def close(self) -> None:
        """It closes a moment after each error, and has another protocol above it by then."""


class _NoSocket:
    def setsockopt(self, *_: Any) -> None: ...

    def getsockopt(self, *_: Any) -> int:
        return 0

    def fileno(self) -> int:
        return -1


_NO_SOCKET: Final = _NoSocket()


class _Logger:
    """picows logs each connection and each error. Those are ours; what is left are defects."""

    def isEnabledFor(self, _: int) -> bool:  # noqa: N802  # As in `logging`.
        return False

    def info(self, *_: Any) -> None: ...

    debug = warning = error = info
    exception = logging.getLogger("ws_support.servers").exception


_LOGGER: Final = _Logger()
