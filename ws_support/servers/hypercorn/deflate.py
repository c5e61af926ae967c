"""Compression on Hypercorn (RFC 7692), with a size limit for inflated messages."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

_NAME: Final = b"permessage-deflate"
_LEAST_BITS: Final = 9
"""The smallest window that zlib supports, in bits."""

_BITS: Final = [b"%d" % bits for bits in range(8, 16)]

_PARAMETERS: Final[Mapping[bytes, Collection[bytes | None]]] = {
    b"client_no_context_takeover": (None,),
    b"server_no_context_takeover": (None,),
    b"client_max_window_bits": (None, *_BITS),
    b"server_max_window_bits": _BITS[_LEAST_BITS - 8 :],
}
"""The values that each parameter may have; `None`: the parameter has no value."""


def agree(offers: Iterable[bytes], limit: int) -> Deflate | None:
    """Return a `Deflate` for the first offer that is valid, or `None`.

    `limit` is the largest size of an inflated message, in bytes.
    """
    for offer in offers:
        name, *parameters = (part.strip(b" \t") for part in offer.split(b";"))
        if name.lower() != _NAME:
            continue
        wanted = dict(map(_parse, parameters))
        if len(wanted) == len(parameters) and all(
            value in _PARAMETERS.get(key, ()) for key, value in wanted.items()
        ):
            return Deflate(wanted, limit)
    return None


def _parse(parameter: bytes) -> tuple[bytes, bytes | None]:
    """Return the name and the value, which may be quoted (RFC 6455, section 9.1)."""
    name, has_value, value = parameter.partition(b"=")
    value = value.strip(b" \t")
    if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"'):
        value = value[1:-1].replace(b"\\", b"")
    return name.strip(b" \t").lower(), value if has_value else None


class Deflate(PerMessageDeflate):
    """Stops inflating a message that becomes too large.

    wsproto (1.3) inflates a whole read before the size is checked: a megabyte becomes a gigabyte.
    It also forgets that a message is compressed when a control frame comes between the fragments.
    """

    def __init__(self, wanted: Mapping[bytes, bytes | None], limit: int) -> None:
        client_bits = wanted.get(b"client_max_window_bits")
        server_bits = wanted.get(b"server_max_window_bits")
        super().__init__(
            client_no_context_takeover=b"client_no_context_takeover" in wanted,
            client_max_window_bits=max(int(client_bits), _LEAST_BITS) if client_bits else None,
            server_no_context_takeover=b"server_no_context_takeover" in wanted,
            server_max_window_bits=int(server_bits) if server_bits else None,
        )
        self._enabled = True
        self._limit = self._left = limit
        self._is_inflating = False
        self._is_data = False
        self.answer = b"; ".join(
            [
                _NAME,
                *(key if value is None else key + b"=" + value for key, value in _kept(wanted)),
            ]
        )

    def frame_inbound_header(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        is_first = opcode in (Opcode.TEXT, Opcode.BINARY)
        if rsv.rsv1 and not is_first:
            return CloseReason.PROTOCOL_ERROR
        self._is_data = not opcode.iscontrol()
        if is_first:
            self._is_inflating = rsv.rsv1
            self._left = self._limit
            if self._is_inflating and self._decompressor is None:
                self._decompressor = zlib.decompressobj(-self.client_max_window_bits)
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes | CloseReason:
        return self._inflate(data) if self._is_inflating and self._is_data else data

    def frame_inbound_complete(self, proto: Any, fin: bool) -> bytes | CloseReason | None:
        if not (fin and self._is_inflating and self._is_data):
            return None
        # A block that is marked as the last one ends the stream, so the next message begins a new
        # stream.
        has_ended = self._decompressor.eof  # type: ignore[union-attr]
        data = b"" if has_ended else self._inflate(b"\x00\x00\xff\xff")
        if self.client_no_context_takeover or has_ended:
            self._decompressor = None
        return data

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        decompressor: Any = self._decompressor
        try:
            inflated: bytes = decompressor.decompress(data, self._left + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._left -= len(inflated)
        if self._left < 0:
            return CloseReason.MESSAGE_TOO_BIG
        # After the last block comes at most the rest of an empty block (section 7.2.3.4).
        if len(decompressor.unused_data) > 1:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return inflated


def _kept(wanted: Mapping[bytes, bytes | None]) -> Iterable[tuple[bytes, bytes | None]]:
    """Return the parameters that the answer repeats.

    These are all but a `client_max_window_bits` without a value, which only says that the client
    could limit its window.
    """
    return (
        (key, value)
        for key, value in wanted.items()
        if value is not None or key != b"client_max_window_bits"
    )
