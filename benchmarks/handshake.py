"""Where the applications are, and the opening handshake as bytes (RFC 6455, section 4)."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

HOST: Final = "127.0.0.1"
PATH: Final = "/ws"
LAYER_PATH: Final = "/layer"
"""Where an application echoes, and where it does so in a group of a channel layer."""
TOPIC: Final = "/topic"
"""Where an application sends what comes at `PUBLISH`."""
PUBLISH: Final = "/publish"
ORIGIN: Final = "https://client.example"

_KEY: Final = base64.b64encode(b"0123456789abcdef")
_ACCEPT: Final = base64.b64encode(
    hashlib.sha1(_KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
)

CLOSE: Final = b"\x88\x82" + bytes(4) + b"\x03\xe8"
"""A close frame of a client, with 1000. A mask of zeros is a mask."""

CLOSED: Final = b"\x88\x02\x03\xe8"
"""How a server answers it."""

PING: Final = b"\x89\x00"
"""Hypercorn's, which it sends at once when it is told to send some."""


def request(port: int, path: str = PATH) -> bytes:
    """An opening handshake, the same each time: nobody but proxies minds that."""
    lines = [
        f"GET {path} HTTP/1.1".encode(),
        f"Host: {HOST}:{port}".encode(),
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + _KEY,
        b"Origin: " + ORIGIN.encode(),
    ]
    return b"\r\n".join([*lines, b"", b""])


def is_accepted(head: bytes) -> bool:
    """Whether `head` accepts `request`, and without compression, which nobody asked for."""
    return (
        head.startswith(b"HTTP/1.1 101 ")
        and _ACCEPT in head
        and b"sec-websocket-extensions" not in head.lower()
    )
