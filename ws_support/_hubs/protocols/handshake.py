"""The handshake of a hub connection: the client names a protocol, always in JSON."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from ws_support._hubs.protocols import PROTOCOLS
from ws_support._hubs.protocols.base import HubProtocol, expect
from ws_support._hubs.protocols.json import SEPARATOR

NEWEST: Final = 2
"""The newest version of both protocols. Clients ask for it when they want a stateful reconnect."""


class HandshakeRequest(Struct, frozen=True):
    protocol: str
    version: int


class HandshakeRefused(Exception):
    """The handshake is answered with this text, and the connection ends."""


_decoder: Final = msgspec.json.Decoder(HandshakeRequest)


def read_request(frame: bytes) -> HandshakeRequest:
    """Return the client's first message, without its separator. Raises `ProtocolError`."""
    request: HandshakeRequest = expect(_decoder, frame)
    return request


def choose(request: HandshakeRequest, *, takes_binary: bool) -> HubProtocol:
    """Return the protocol that the client asks for. Raises `HandshakeRefused`.

    `takes_binary` is False for server-sent events, which carry text only.
    """
    protocol = PROTOCOLS.get(request.protocol.lower())
    if protocol is None:
        raise HandshakeRefused(f"The protocol '{request.protocol}' is not supported.")
    if request.version > NEWEST:
        raise HandshakeRefused(
            f"The server does not support version {request.version} of the"
            f" '{request.protocol}' protocol."
        )
    if protocol.is_binary and not takes_binary:
        raise HandshakeRefused(
            f"Cannot use the '{request.protocol}' protocol on the current transport."
            " The transport does not support 'Binary' transfer format."
        )
    return protocol


def write_response(error: str | None = None) -> bytes:
    """Return the answer to the handshake, with its separator."""
    return msgspec.json.encode({} if error is None else {"error": error}) + SEPARATOR
