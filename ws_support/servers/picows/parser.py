"""A parser of clients' frames on picows, without its handshake, pings and close frames."""

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
"""Bytes of one read at most: 10,000 of the shortest messages, all of which are parsed before other
connections get a turn."""

_SMALL: Final = 2**13
"""Bytes of a buffer up to which it is not replaced by a smaller one."""

_INITIAL: Final = 2**11

_REQUEST: Final = (
    b"GET / HTTP/1.1\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"\r\n"
)
"""An opening handshake for picows (2.3), which expects one first. The client's own handshake is
over when the parser is made."""


class Listener(Protocol):
    """Receiver of the frames, which also has `on_ws_frame()` of `picows.WSListener`."""

    def parser_failed(self, code: int, reason: str) -> None:
        """Handle data that breaks the protocol.

        Frames before the error may still be passed to `on_ws_frame` after this call.
        """

    def parser_has_grown(self) -> None:
        """Handle a large buffer. Called before each read while the parser's buffer is large."""

    def eof_received(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...


class Parser(WSProtocol):  # type: ignore[misc]
    """A parser of frames, which neither writes nor closes nor answers pings.

    The parser is the protocol of the transport, so what is read goes to compiled code, which calls
    the listener with frames. picows parses one frame more than it passes on.
    """

    __slots__ = ()

    def __init__(self, listener: Any, max_size: int) -> None:
        wire = _Wire()
        super().__init__(
            *(None, None, False, lambda _: listener, _LOGGER, True, None),
            *(False, 0, 0, WSAutoPingStrategy.PING_PERIODICALLY, False),  # No pings and no pongs.
            *(max_size, None, _INITIAL),
        )
        super().connection_made(wire)
        self.feed(_REQUEST)
        wire.listener = listener

    def feed(self, data: bytes) -> None:
        """Parse `data`, as if it had been read from the transport."""
        view = memoryview(data)
        while view:
            room = self.get_buffer(-1)
            size = min(len(room), len(view))
            room[:size] = view[:size]
            self.buffer_updated(size)
            view = view[size:]

    # picows enlarges its buffer when the buffer is full, and never makes it smaller.

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
    """A substitute for picows' transport, to which picows writes a close frame after an error."""

    __slots__ = ("listener",)

    def __init__(self) -> None:
        self.listener: Listener | None = None

    def get_extra_info(self, name: str) -> Any:
        # With TLS, picows does not write to the socket itself.
        return _NO_SOCKET if name == "socket" else name == "ssl_object" or None

    get_write_buffer_size = None
    writelines = None

    def write(self, data: bytes) -> None:
        if self.listener is not None:  # Before that, picows writes its answer to the handshake.
            payload = data[2:] if data[1] < 126 else data[4:]
            code = int.from_bytes(payload[:2], "big")
            self.listener.parser_failed(code, payload[2:].decode())

    def close(self) -> None:
        """Ignore the close, which picows makes a moment after each error.

        The transport has another protocol by then.
        """


class _NoSocket:
    def setsockopt(self, *_: Any) -> None: ...

    def getsockopt(self, *_: Any) -> int:
        return 0

    def fileno(self) -> int:
        return -1


_NO_SOCKET: Final = _NoSocket()


class _Logger:
    """A logger that drops picows' lines about connections and errors, except for exceptions.

    The listener logs connections and errors itself; exceptions are defects.
    """

    def isEnabledFor(self, _: int) -> bool:  # noqa: N802  # As in `logging`.
        return False

    def info(self, *_: Any) -> None: ...

    debug = warning = error = info
    exception = logging.getLogger("ws_support.servers").exception


_LOGGER: Final = _Logger()
