"""What the clients of hubs get of a topic: written once for each protocol, and framed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ws_support._hubs.messages import Invocation
from ws_support._hubs.protocols import PROTOCOLS
from ws_support._hubs.protocols.base import HubProtocol, InvalidValue
from ws_support._hubs.published import Published
from ws_support._topics.messages import JSONText
from ws_support._topics.subscriber import Published as PublishedUnderTopic


def for_hubs(published: PublishedUnderTopic) -> Published:
    """Return what was published under a topic as an invocation of clients, the same for all."""
    if published.for_hubs is None:

        def write(protocol: HubProtocol) -> bytes:
            data = value_of(published.message, protocol)
            return protocol.write(
                Invocation("Message", [published.topic, published.position, data])
            )

        published.for_hubs = written_by(write)
    message: Published = published.for_hubs
    return message


def written_by(write: Callable[[HubProtocol], bytes]) -> Published:
    """Return a message for many connections: `write` is called for each protocol that is used."""
    return Published(_Written(write))


def value_of(message: dict[str, Any], protocol: HubProtocol) -> Any:
    """Return the data of a `websocket.send`, as `protocol` can write it."""
    text = message.get("text")
    if text is None:
        return message["bytes"]
    return json_for(text, protocol) if isinstance(text, JSONText) else text


def json_for(text: str, protocol: HubProtocol) -> Any:
    """Return the value that is in a JSON text, as `protocol` can write it.

    A value that MessagePack cannot express stays JSON text.
    """
    if not protocol.is_binary:
        return msgspec.Raw(text.encode())
    try:
        value = msgspec.json.decode(text.encode())
        protocol.write(Invocation("", [value]))
    except (msgspec.DecodeError, RecursionError, InvalidValue):
        return str(text)
    return value


class _Written(dict[str, bytes]):
    """The bytes of a message by the name of the protocol, written when somebody needs them."""

    def __init__(self, write: Callable[[HubProtocol], bytes]) -> None:
        super().__init__()
        self._write = write

    def __missing__(self, name: str) -> bytes:
        data = self[name] = self._write(PROTOCOLS[name])
        return data
