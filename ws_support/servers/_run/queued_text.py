"""Messages that wait for the application: text as it was sent, where it takes less so."""

from __future__ import annotations

import sys
from typing import Any, Final

_WIDE: Final = 2**16
"""Bytes that a text may take more than it has characters, and waits as it is."""

_UTF_8: Final = "utf-8"


def packed(message: dict[str, Any]) -> dict[str, Any]:
    """Return `message`, or what `unpacked()` makes it of."""
    text = message.get("text")
    if text and not text.isascii() and sys.getsizeof(text) > len(text) + _WIDE:
        # One character takes as much as each of the others does.
        return {_UTF_8: text.encode()}
    return message


def unpacked(message: dict[str, Any]) -> dict[str, Any]:
    if _UTF_8 in message:
        return {"type": "websocket.receive", "text": message[_UTF_8].decode()}
    return message


def size(message: dict[str, Any]) -> int:
    """Characters or bytes of what is `packed()`."""
    return len(message.get("bytes") or message.get("text") or message.get(_UTF_8) or "")
