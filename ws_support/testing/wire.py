"""A client without a WebSocket library: bytes of the test's choice in, and all that comes out."""

from __future__ import annotations

import base64
import os
import re
import socket
import struct
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

from ws_support.testing.waiting import BOUND, wait_until

__all__ = ["RawClient"]

_Self = TypeVar("_Self", bound="RawClient")

_DRIP_INTERVAL: Final = 0.5
"""Seconds."""


class RawClient:
    """Send handshakes and frames that no library would send, and read the answers.

    The client connects when it is created. Each wait takes at most `BOUND` seconds (30) and ends
    with `TimeoutError`. Use it as a context manager, which closes the socket.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.socket = socket.create_connection((host, port), BOUND)
        # What is sent in pieces is on its way at once, not when the piece before is acknowledged.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def handshake(self, *arguments: Any, **options: Any) -> tuple[int, bytes]:
        """Send a `request()` and return its `response()`."""
        self.request(*arguments, **options)
        return self.response()

    def open(self, *arguments: Any, **options: Any) -> bytes:
        """Send a `request()` that is accepted, and return the head of the answer.

        Raises `AssertionError` for another answer, and closes the socket.
        """
        try:
            status, head = self.handshake(*arguments, **options)
            if status != 101:
                raise AssertionError(f"the handshake was refused: {head!r}")
        except BaseException:
            self.socket.close()
            raise
        return head

    def request(
        self,
        path: str = "/ws",
        headers: Sequence[tuple[bytes, bytes]] | None = None,
        *,
        method: str = "GET",
        without: Sequence[bytes] = (),
        piece: int | None = None,
        then: bytes = b"",
    ) -> None:
        """Send a handshake, whose answer is left for `response()`.

        `headers` follow those that every handshake has, except for those named in `without`. By
        default they are one `Origin`, the server's own. The request is sent in pieces of `piece`
        bytes, and `then` right behind it.
        """
        if headers is None:
            headers = [(b"Origin", f"http://{self.host}:{self.port}".encode())]
        usual = [
            (b"Host", f"{self.host}:{self.port}".encode()),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", base64.b64encode(os.urandom(16))),
            (b"Sec-WebSocket-Version", b"13"),
        ]
        lines = [f"{method} {path} HTTP/1.1".encode()]
        lines += [b"%b: %b" % header for header in usual if header[0] not in without]
        lines += [b"%b: %b" % header for header in headers]
        data = b"\r\n".join([*lines, b"", then])
        for start in range(0, len(data), piece or len(data)):
            self.socket.sendall(data[start : start + (piece or len(data))])

    def response(self) -> tuple[int, bytes]:
        """Return the status of the answer, and its head; unless it is a 101, with its body.

        The status is 0 if the server has closed without an answer.
        """
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill():
                break
        if not self._buffer:
            return 0, b""
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        self._buffer = rest
        if status != 101:
            while not _is_complete(head.lower(), self._buffer) and self._fill():
                pass
            head, self._buffer = head + b"\r\n\r\n" + self._buffer, b""
        return status, head

    def send_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        """Send a frame: 1 is text, 2 binary, 8 close, 9 ping, 10 pong (RFC 6455, section 5.2)."""
        self.socket.sendall(self.frame_of(opcode, payload, fin=fin))

    @staticmethod
    def frame_of(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        """Return the bytes of a frame of a client."""
        length = len(payload)
        if length < 126:
            size = bytes([0x80 | length])
        elif length < 65536:
            size = bytes([0x80 | 126]) + struct.pack("!H", length)
        else:
            size = bytes([0x80 | 127]) + struct.pack("!Q", length)
        # A mask of zeros is a mask (RFC 6455, section 5.3).
        return bytes([fin << 7 | opcode]) + size + bytes(4) + payload

    def burst_of(self, count: int) -> bytes:
        """Return the frames of `count` short texts: 0, 1, 2 ..."""
        return b"".join(self.frame_of(1, b"%d" % number) for number in range(count))

    def drip(self, data: bytes) -> None:
        """Send `data` twice a second until the connection ends."""
        self.socket.settimeout(_DRIP_INTERVAL)
        wait_until(lambda: self._drop(data), "end of the connection")

    def frame(self, timeout: float = BOUND) -> tuple[int, bytes] | None:
        """Return opcode and payload of the next frame, or `None` if the server has closed.

        Raises `TimeoutError` after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while (frame := self._parse()) is None:
            if not self._fill(deadline):
                return None
        return frame

    def _drop(self, data: bytes) -> bool:
        """Send `data`. Return True if the connection has ended."""
        try:
            self.socket.sendall(data)
            return self.socket.recv(10_000) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def _parse(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < 2:
            return None
        length, start = self._buffer[1] & 0x7F, 2
        if length == 126:
            if len(self._buffer) < 4:
                return None
            length, start = struct.unpack("!H", self._buffer[2:4])[0], 4
        elif length == 127:
            if len(self._buffer) < 10:
                return None
            length, start = struct.unpack("!Q", self._buffer[2:10])[0], 10
        if len(self._buffer) < start + length:
            return None
        opcode, payload = self._buffer[0] & 0x0F, self._buffer[start : start + length]
        self._buffer = self._buffer[start + length :]
        return opcode, payload

    def _fill(self, deadline: float | None = None) -> bool:
        """Read once. Return False if the server has closed."""
        self.socket.settimeout(
            BOUND if deadline is None else max(deadline - time.monotonic(), 0.001)
        )
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self._buffer += data
        return bool(data)


def _is_complete(head: bytes, body: bytes) -> bool:
    """Return True if all of a response is there, as far as it says how long it is."""
    if length := re.search(rb"content-length: *(\d+)", head):
        return len(body) >= int(length[1])
    return b"chunked" in head and body.endswith(b"0\r\n\r\n")
