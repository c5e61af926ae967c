"""Checks for topics and messages, and their ASGI form."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Collection, Mapping
from typing import Any, Final

from django.core.serializers.json import DjangoJSONEncoder

MAX_LENGTH: Final = 10_000
"""The most characters that a topic may have."""

MAX_EXCLUDED: Final = 1000
"""The most characters of who does not get a message: the id of a connection, or a primary key."""

MAX_SUBSCRIBED: Final = 2**18
"""The most characters that all topics of one connection may have together."""


class JSONText(str):
    """Text that is JSON. As a `str` it goes to clients; hubs send the value that it stands for."""

    __slots__ = ()


EXCLUDE: Final = "exclude"
"""The key of a `websocket.send` for who does not get it. It is taken out before it is sent."""


def checked_topic(topic: object) -> str:
    """Return `topic`, a string of at most `MAX_LENGTH` characters.

    Raises `TypeError` if it is not a string, and `ValueError` if it is longer or cannot be encoded.
    """
    if not isinstance(topic, str):
        raise TypeError(f"A topic is a string: got {topic!r:.100}.")
    if len(topic) > MAX_LENGTH:
        raise ValueError(
            f"A topic has up to {MAX_LENGTH} characters: got {len(topic)}, {topic[:60]!r}..."
        )
    check_text(topic, "The topic")
    return topic


def check_subscriptions(topics: Collection[str], length: int, topic: str, limit: int) -> None:
    """Raise `ValueError` if a connection that has `topics` may not subscribe to `topic` as well.

    `length` is how many characters `topics` have together.
    """
    if topic in topics:
        return
    if len(topics) >= limit:
        raise ValueError(
            f"One connection may subscribe to {limit} topics, and has: {topic!r:.60} would be one"
            ' more. To allow more, raise WS_SUPPORT["MAX_SUBSCRIPTIONS"].'
        )
    if length + len(topic) > MAX_SUBSCRIBED:
        raise ValueError(
            f"The topics of one connection have up to {MAX_SUBSCRIBED} characters together:"
            f" {topic!r:.60} would be too much."
        )


def message_of(data: object) -> dict[str, Any]:
    """Return the `websocket.send` for `data`, which is text or bytes.

    Raises `TypeError` for other values, and `ValueError` for text that cannot be encoded.
    """
    if isinstance(data, str):
        check_text(data, "The message")
        return {"type": "websocket.send", "text": data}
    if isinstance(data, (bytes, bytearray, memoryview)):
        return {"type": "websocket.send", "bytes": bytes(data)}
    raise TypeError(
        f"A message is text (str) or binary (bytes): got {data!r:.100}. For other values there is a"
        " function whose name ends in _json."
    )


def json_of(value: object, encoder: type[json.JSONEncoder] = DjangoJSONEncoder) -> str:
    """Return `value` as JSON.

    The default encoder also knows the values of models: dates and times, `Decimal`, `UUID` and lazy
    text. Raises `TypeError` for a value that `encoder` does not know, and `ValueError` for NaN and
    infinity, which JSON does not have, and for a value that is nested too deeply.
    """
    try:
        if encoder is DjangoJSONEncoder:
            return _ENCODER.encode(value)
        return json.dumps(value, cls=encoder, allow_nan=False)
    except RecursionError:
        raise ValueError("The value is nested too deeply for JSON.") from None


_ENCODER: Final = DjangoJSONEncoder(allow_nan=False)
"""One encoder for all messages, as in the json module: to create an encoder takes as long as to
encode a short message."""


def wrapped(topic: str, position: str | None, message: dict[str, Any]) -> str:
    """Return a `websocket.send` as JSON text, with its topic and position.

    It is under `json` (as the value itself), `text` or `bytes` (Base64).
    """
    head = _ENCODER.encode({"topic": topic, "position": position})[:-1]
    text = message.get("text")
    if text is None:
        return f'{head}, "bytes": "{b64encode(message["bytes"]).decode()}"}}'
    if isinstance(text, JSONText):
        return f'{head}, "json": {text}}}'
    return f'{head}, "text": {_ENCODER.encode(text)}}}'


def exclusion_of(who: object) -> str:
    """Return how a message names `who` does not get it: a connection, its id, or a user.

    Raises `TypeError` for anything else, and `ValueError` for an id that no message can name: pages
    send those of their connections.
    """
    identifier = getattr(who, "connection_id", who)
    if isinstance(identifier, str):
        return _checked_exclusion(f"c:{identifier}")
    if getattr(who, "is_authenticated", False) and getattr(who, "pk", None) is not None:
        return _checked_exclusion(f"u:{who.pk}")  # type: ignore[attr-defined]
    raise TypeError(
        "exclude is a consumer, a WebSocket, the id of a connection, or a user who is"
        f" authenticated: got {who!r:.100}."
    )


def _checked_exclusion(name: str) -> str:
    if len(name) > MAX_EXCLUDED:
        raise ValueError(f"exclude has up to {MAX_EXCLUDED - 2} characters: got {len(name) - 2}.")
    check_text(name, "exclude")
    return name


def names(name: str, connection_id: str | None, scope: Mapping[str, Any]) -> bool:
    """Return True if `name`, of `exclusion_of()`, stands for a connection or its user."""
    kind, _, value = name.partition(":")
    if kind == "c":
        return value == connection_id
    user = scope.get("user")
    try:
        return user is not None and str(user.pk) == value
    except Exception:  # A lazy user asks the database, which an event loop must not do.
        return False


def check_text(text: str, what: str) -> None:
    """Raise `ValueError` if `text`, which the error calls `what`, cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half of a surrogate pair, which cannot be sent.") from None
