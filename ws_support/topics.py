"""What may be published, and where."""

from __future__ import annotations

from typing import Any


def checked_topic(topic: object) -> str:
    """Any string is a topic. Raises `TypeError` for anything else, and `ValueError` for one that
    cannot be encoded."""
    if not isinstance(topic, str):
        raise TypeError(f"A topic is a string: got {topic!r:.100}.")
    _check(topic, "The topic")
    return topic


def message_of(data: object) -> dict[str, Any]:
    """The `websocket.send` for text or bytes. Raises the same errors."""
    if isinstance(data, str):
        _check(data, "The message")
        return {"type": "websocket.send", "text": data}
    if isinstance(data, (bytes, bytearray, memoryview)):
        return {"type": "websocket.send", "bytes": bytes(data)}
    raise TypeError(
        f"A message is text (str) or binary (bytes): got {data!r:.100}. For other values there is a"
        " function whose name ends in _json."
    )


def _check(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half of a surrogate pair, which cannot be sent.") from None
