"""Queued messages for the application, with text as UTF-8 where that takes less memory."""

from __future__ import annotations

import sys
from typing import Any, Final

_WIDE: Final = 2**16
"""Bytes of memory that a `str` may take beyond one for each character, to be queued as it is."""

_UTF_8: Final = "utf-8"


def packed(message: dict[str, Any]) -> dict[str, Any]:
    """Return `message`, or a smaller form that `unpacked()` turns back into `message`."""
    text = message.get("text")
    if text and not text.isascii() and sys.getsizeof(text) > len(text) + _WIDE:
        # Python stores every character of a str in as many bytes as the widest one needs.
        return {_UTF_8: text.encode()}
    return message


def unpacked(message: dict[str, Any]) -> dict[str, Any]:
    if _UTF_8 in message:
        return {"type": "websocket.receive", "text": message[_UTF_8].decode()}
    return message


def size(message: dict[str, Any]) -> int:
    """Return the size of a `packed()` message, in characters or bytes."""
    return len(message.get("bytes") or message.get("text") or message.get(_UTF_8) or "")
