"""Frames for clients (RFC 6455, section 5), as bytes."""

from __future__ import annotations

from typing import Any, Final

# Frames to a client are not masked (section 5.1): each is a head and the payload (section 5.2).

_FIN: Final = 0x80


def _short_heads(opcode: int) -> list[bytes]:
    return [bytes((_FIN | opcode, size)) for size in range(126)]


TEXT_HEADS: Final = _short_heads(0x1)
"""The heads of text messages with fewer than 126 bytes; the index is the size."""
BINARY_HEADS: Final = _short_heads(0x2)
"""The same for binary messages."""


def message_frame(message: Any) -> bytes:
    """Return the frame for `message`, a `websocket.send` with text or bytes."""
    text: str | None = message.get("text")
    return binary_frame(message["bytes"]) if text is None else text_frame(text.encode())


def binary_frame(data: bytes) -> bytes:
    size = len(data)
    return (BINARY_HEADS[size] if size < 126 else long_binary_head(size)) + data


def text_frame(data: bytes) -> bytes:
    """Return the frame for a text, which is given as UTF-8."""
    size = len(data)
    return (TEXT_HEADS[size] if size < 126 else long_text_head(size)) + data


def long_text_head(size: int) -> bytes:
    return _long_head(0x1, size)


def long_binary_head(size: int) -> bytes:
    return _long_head(0x2, size)


def _long_head(opcode: int, size: int) -> bytes:
    if size < 2**16:
        return bytes((_FIN | opcode, 126)) + size.to_bytes(2, "big")
    return bytes((_FIN | opcode, 127)) + size.to_bytes(8, "big")


# The payload of a control frame has at most 125 bytes (section 5.5).


def ping_frame(payload: bytes) -> bytes:
    return bytes((_FIN | 0x9, len(payload))) + payload


def pong_frame(payload: bytes) -> bytes:
    return bytes((_FIN | 0xA, len(payload))) + payload


def close_frame(code: int | None, reason: str = "") -> bytes:
    """Return a close frame. A reason of more than 123 bytes is cut (section 5.5.1)."""
    payload = b""
    if code is not None:
        words = reason.encode("utf-8", "replace")[:123].decode("utf-8", "ignore")
        payload = code.to_bytes(2, "big") + words.encode()
    return bytes((_FIN | 0x8, len(payload))) + payload
