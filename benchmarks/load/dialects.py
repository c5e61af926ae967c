"""What is said to the applications, and what they answer, to the byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
from picows import WSMsgType

from benchmarks.applications import HUB_PATH, HUB_PUBLISH, PATH, PUBLISH, TOPIC, TOPICS_PATH

_SEPARATOR: Final = b"\x1e"


class Dialect(NamedTuple):
    """How a client and an application talk. Every text is ASCII."""

    exchange: Callable[[str, str], tuple[bytes, bytes]]
    """Return a request with this id and text, and the answer to it."""
    delivery: Callable[[str], bytes] = str.encode
    """Return how a text that is published comes to a subscriber."""
    published: Callable[[str], bytes] = str.encode
    """Return what tells the application to publish a text."""
    kind: WSMsgType = WSMsgType.TEXT
    hello: bytes = b""
    """What is said first; nothing if it is empty."""
    welcome: bytes = b""
    """The answer to that."""
    path: str = PATH
    subscribers: str = TOPIC
    publisher: str = PUBLISH


def _json(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + _SEPARATOR


def _prefixed(message: object) -> bytes:
    """Return a message in MessagePack with its length, which is less than 2 ** 14, before it."""
    data: bytes = msgspec.msgpack.encode(message)
    size = len(data)
    return (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + data


def _invocation(text: str) -> bytes:
    return _json({"type": 1, "target": "Price", "arguments": [text]})


def _message(text: str) -> bytes:
    return _json({"type": 1, "target": "Message", "arguments": ["prices", None, text]})


def _exchange_in_json(id_: str, text: str) -> tuple[bytes, bytes]:
    call = {"type": 1, "invocationId": id_, "target": "Echo", "arguments": [text]}
    return _json(call), _json({"type": 3, "invocationId": id_, "result": text})


def _exchange_in_messagepack(id_: str, text: str) -> tuple[bytes, bytes]:
    return _prefixed([1, {}, id_, "Echo", [text]]), _prefixed([3, {}, id_, 3, text])


def _exchange_with_consumer(id_: str, text: str) -> tuple[bytes, bytes]:
    content = json.dumps({"id": id_, "value": text}).encode()
    return content, content


def _subscribe(topic: str) -> bytes:
    call = {"type": 1, "invocationId": "0", "target": "Subscribe", "arguments": [topic, None]}
    return _json(call)


def _hello(protocol: str) -> bytes:
    return _json({"protocol": protocol, "version": 1})


DIALECTS: Final = {
    "text": Dialect(lambda id_, text: (text.encode(), text.encode())),
    # It is told to publish the bytes that a hub makes of a text by itself.
    "json-consumer": Dialect(_exchange_with_consumer, _invocation, _invocation),
    "hub": Dialect(
        _exchange_in_json,
        _invocation,
        hello=_hello("json"),
        welcome=_json({}),
        path=HUB_PATH,
        subscribers=HUB_PATH,
        publisher=HUB_PUBLISH,
    ),
    # The handshake and the call come in one frame; of their answers, the second is waited for.
    "topics-hub": Dialect(
        _exchange_in_json,
        _message,
        hello=_hello("json") + _subscribe("prices"),
        welcome=_json(
            {"type": 3, "invocationId": "0", "result": {"recovered": False, "position": None}}
        ),
        path=TOPICS_PATH,
        subscribers=TOPICS_PATH,
    ),
    "hub-messagepack": Dialect(
        _exchange_in_messagepack,
        kind=WSMsgType.BINARY,
        hello=_hello("messagepack"),
        welcome=_json({}),
        path=HUB_PATH,
    ),
}
"""By the names of applications."""
