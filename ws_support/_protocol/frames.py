"""Frames to clients (RFC 6455, section 5)."""

from __future__ import annotations

from typing import Any, Final

# Frames to a client are not masked (section 5.1), so they are a head and the payload (section 5.2).

_FIN: Final = 0x80


def _short_heads(opcode: int) -> list[bytes]:
    return [bytes((_FIN | opcode, size)) for size in range(126)]


TEXT_HEADS: Final = _short_heads(0x1)
"""The heads of messages of less than 126 bytes, by their size."""
BINARY_HEADS: Final = _short_heads(0x2)


def message_frame(message: Any) -> bytes:
    """The frame of a whole `websocket.send`, which has text or bytes."""
    text: str | None = message.get("text")
    if text is None:
        data: bytes = message["bytes"]
        size = len(data)
        head = BINARY_HEADS[size] if size < 126 else long_binary_head(size)
    else:
        data = text.encode()
        size = len(data)
        head = TEXT_HEADS[size] if size < 126 else long_text_head(size)
    return head + data


def long_text_head(size: int) -> bytes:
    return _long_head(0x1, size)


def long_binary_head(size: int) -> bytes:
    return _long_head(0x2, size)


def _long_head(opcode: int, size: int) -> bytes:
    if size < 2**16:
        return bytes((_FIN | opcode, 126)) + size.to_bytes(2, "big")
    return bytes((_FIN | opcode, 127)) + size.to_bytes(8, "big")


# Control frames have 125 bytes at the most (section 5.5).


def ping_frame(payload: bytes) -> bytes:
    return bytes((_FIN | 0x9, len(payload))) + payload


def pong_frame(payload: bytes) -> bytes:
    return bytes((_FIN | 0xA, len(payload))) + payload


def close_frame(code: int | None, reason: str = "") -> bytes:
    """A reason that is too long is cut (section 5.5.1)."""
    payload = b""
    if code is not None:
        words = reason.encode("utf-8", "replace")[:123].decode("utf-8", "ignore")
        payload = code.to_bytes(2, "big") + words.encode()
    return bytes((_FIN | 0x8, len(payload))) + payload
