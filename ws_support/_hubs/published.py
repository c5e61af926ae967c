"""A message of a hub for many connections: written once for each protocol, and framed once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ws_support._hubs.messages import Invocation
from ws_support._hubs.protocols import PROTOCOLS
from ws_support._hubs.protocols.base import HubProtocol
from ws_support._protocol.frames import binary_frame, text_frame


class Published:
    """An invocation for many connections, except for those with some ids.

    Raises `InvalidValue` if the arguments cannot be sent.
    """

    __slots__ = ("_data", "excluded", "frames")

    def __init__(self, data: dict[str, bytes], excluded: Collection[str] = ()) -> None:
        self._data = data
        self.frames = _Frames(data)
        """The WebSocket frame for the message in each protocol."""
        self.excluded = frozenset(excluded)

    @classmethod
    def of(cls, target: str, arguments: list[Any], excluded: Collection[str] = ()) -> Published:
        """Return the message that invokes the method `target` of clients."""
        message = Invocation(target, arguments)
        return cls({name: each.write(message) for name, each in PROTOCOLS.items()}, excluded)

    def data(self, protocol: HubProtocol) -> bytes:
        """Return the message as bytes of a protocol."""
        return self._data[protocol.name]

    @property
    def by_protocol(self) -> dict[str, bytes]:
        return self._data


class _Frames(dict[HubProtocol, bytes]):
    """Builds a frame when it is asked for, once: later it is one look, for each connection."""

    def __init__(self, data: dict[str, bytes]) -> None:
        super().__init__()
        self._data = data

    def __missing__(self, protocol: HubProtocol) -> bytes:
        data = self._data[protocol.name]
        frame = self[protocol] = binary_frame(data) if protocol.is_binary else text_frame(data)
        return frame
