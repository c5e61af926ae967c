"""Text that waits in a queue, kept as UTF-8 where that takes less memory."""

from __future__ import annotations

import sys
from typing import Any, Final

SLACK: Final = 2**16
"""Bytes of memory that UTF-8 has to save. Otherwise a text waits as it is."""

UTF_8: Final = "utf-8"
"""The key of a text in a `packed()` message."""


def as_utf_8(text: str, slack: int = SLACK) -> bytes | None:
    """Return `text` as UTF-8, or `None` if that does not save more than `slack` bytes of memory.

    Python stores every character of a `str` in as many bytes as the widest one needs: up to four.
    """
    held = sys.getsizeof(text)
    # UTF-8 has at least one byte for each character.
    if held <= len(text) + slack:
        return None
    # A message from a channel layer may hold half of a surrogate pair.
    encoded = text.encode("utf-8", "surrogatepass")
    return encoded if held > len(encoded) + slack else None


def packed(message: dict[str, Any]) -> dict[str, Any]:
    """Return `message`, a `websocket.receive`, in the form in which it takes less memory."""
    text = message.get("text")
    # Each character takes four bytes at most: what is not longer cannot save as much.
    if text is None or len(text) <= SLACK // 4:
        return message
    encoded = as_utf_8(text)
    return message if encoded is None else {UTF_8: encoded}


def unpacked(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message from which `packed()` has made `message`."""
    if UTF_8 in message:
        return {"type": "websocket.receive", "text": message[UTF_8].decode()}
    return message


def size(message: dict[str, Any]) -> int:
    """Return the number of characters, or of bytes, of a `packed()` message."""
    return len(message.get("bytes") or message.get("text") or message.get(UTF_8) or "")
