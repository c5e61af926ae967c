"""Hub messages in MessagePack: an array each, with its length in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal

import msgspec
from msgspec import Raw, Struct

from ws_support._hubs import messages
from ws_support._hubs.messages import Message, Undecoded
from ws_support._hubs.protocols.base import (
    HubProtocol,
    MessageTooLarge,
    ProtocolError,
    Splitter,
    decode_other,
    encode,
    encode_other,
    expect,
)

_ERROR, _VOID, _RESULT = 1, 2, 3
"""The kinds of a Completion."""


class LengthSplitter(Splitter):
    """Reads the length in front of each message.

    It has seven bits in each byte, the lowest ones first, and the high bit in all but the last of
    at most five bytes.
    """

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._begun = bytearray()
        self._needed = 0
        """The bytes that have to be there for a look at them to be worthwhile."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._begun:
            self._begun += data
            if len(self._begun) < self._needed:
                return
            data = bytes(self._begun)
            self._begun.clear()
        at = 0
        while at < len(data):
            size, start = self._read_length(data, at)
            if start + size - at > self._most:
                raise MessageTooLarge(self._most)
            if not size or start + size > len(data):
                self._begun += data[at:]
                self._needed = start + size - at if size else len(self._begun) + 1
                return
            at = start + size
            yield data[start:at]

    def is_empty(self) -> bool:
        return not self._begun

    def take(self) -> bytes:
        begun = bytes(self._begun)
        self._begun.clear()
        return begun

    def _read_length(self, data: bytes, at: int) -> tuple[int, int]:
        """Return the length at `at` and where it ends; 0 if it is not whole yet."""
        if 0 < data[at] < 0x80:
            return data[at], at + 1
        size = 0
        for index, byte in enumerate(data[at : at + 5]):
            size |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if not size or size > 0x7FFFFFFF:
                    raise ProtocolError("A message of that length is not possible.")
                return size, at + index + 1
            if index == 4:
                raise ProtocolError("The length of a message has more than five bytes.")
        return 0, at


class _Invocation(Struct, array_like=True):
    """All that an invocation holds, read in one go."""

    kind: Literal[1]
    headers: dict[str, str]
    id: str | None
    target: str
    arguments: Raw
    stream_ids: tuple[str, ...] = ()


_invocations: Final = msgspec.msgpack.Decoder(_Invocation)
_arrays: Final = msgspec.msgpack.Decoder(list[Raw])
_numbers: Final = msgspec.msgpack.Decoder(int)
_texts: Final = msgspec.msgpack.Decoder(str)
_texts_or_none: Final = msgspec.msgpack.Decoder(str | None)
_flags: Final = msgspec.msgpack.Decoder(bool)
_headers: Final = msgspec.msgpack.Decoder(dict[str, str])
_ids: Final = msgspec.msgpack.Decoder(tuple[str, ...])
_encoder: Final = msgspec.msgpack.Encoder(enc_hook=encode_other, decimal_format="number")


@lru_cache(maxsize=1024)
def _decoder(type_: Any) -> Any:
    return msgspec.msgpack.Decoder(type_, dec_hook=decode_other)


class MessagePackProtocol(HubProtocol):
    name: ClassVar[str] = "messagepack"
    is_binary: ClassVar[bool] = True

    def splitter(self, most: int) -> Splitter:
        return LengthSplitter(most)

    def parse(self, frame: bytes) -> Message | None:
        if frame[1:2] == b"\x01":  # As nearly all are.
            try:
                call: _Invocation = _invocations.decode(frame)
            except Exception:  # noqa: S110  # What is wrong is said below.
                pass
            else:
                return messages.Invocation(
                    call.target, _arguments(call.arguments), call.id or None, call.stream_ids
                )
        parts: list[Raw] = expect(_arrays, frame)
        if not parts:
            raise ProtocolError("A message has to be an array that begins with its type.")
        kind = expect(_numbers, parts[0])
        least = _LEAST.get(kind)
        if least is None:
            return None
        if len(parts) < least:
            raise ProtocolError(f"A message of type {kind} has at least {least} elements.")
        if kind <= 5 and parts[1] != b"\x80":
            expect(_headers, parts[1])
        match kind:
            case 1:
                return messages.Invocation(
                    expect(_texts, parts[3]),
                    _arguments(parts[4]),
                    expect(_texts_or_none, parts[2]) or None,
                    expect(_ids, parts[5]) if len(parts) > 5 else (),
                )
            case 2:
                return messages.StreamItem(expect(_texts, parts[2]), parts[3])
            case 3:
                return _completion(parts)
            case 4:
                return messages.StreamInvocation(
                    expect(_texts, parts[3]),
                    _arguments(parts[4]),
                    expect(_texts, parts[2]),
                    expect(_ids, parts[5]) if len(parts) > 5 else (),
                )
            case 5:
                return messages.CancelInvocation(expect(_texts, parts[2]))
            case 7:
                return messages.Close(
                    expect(_texts_or_none, parts[1]),
                    expect(_flags, parts[2]) if len(parts) > 2 else False,
                )
            case 8:
                return messages.Ack(expect(_numbers, parts[1]))
            case 9:
                return messages.Sequence(expect(_numbers, parts[1]))
        return messages.Ping()

    def decoder(self, type_: Any) -> Any:
        return _decoder(type_)

    def write(self, message: Message) -> bytes:
        body = encode(_encoder, _to_send(message))
        return _length(len(body)) + body


_LEAST: Final = {1: 5, 2: 4, 3: 4, 4: 5, 5: 3, 6: 1, 7: 2, 8: 2, 9: 2}
"""The elements that a message has at least, by its type. Microsoft's client leaves out the last one
of an invocation without streams, and of a Close."""


def _arguments(part: Raw) -> Undecoded:
    first = memoryview(part)[0]
    if not 0x90 <= first <= 0x9F and first not in (0xDC, 0xDD):
        raise ProtocolError("The arguments of an invocation have to be an array.")
    return part


def _completion(parts: list[Raw]) -> messages.Completion:
    id_ = expect(_texts, parts[2])
    kind = expect(_numbers, parts[3])
    if kind == _VOID:
        return messages.Completion(id_)
    if kind not in (_ERROR, _RESULT):
        raise ProtocolError(f"There is no Completion of kind {kind}.")
    if len(parts) < 5:
        raise ProtocolError("A Completion with a result or an error has 5 elements.")
    if kind == _ERROR:
        return messages.Completion(id_, error=expect(_texts, parts[4]))
    return messages.Completion(id_, parts[4], has_result=True)


def _to_send(message: Message) -> list[Any]:
    match message:
        case messages.Completion(id, result, error, has_result):
            if error is not None:
                return [3, {}, id, _ERROR, error]
            return [3, {}, id, _RESULT, result] if has_result else [3, {}, id, _VOID]
        case messages.Invocation(target, arguments, id, stream_ids):
            return [1, {}, id, target, arguments, stream_ids]
        case messages.StreamInvocation(target, arguments, id, stream_ids):
            return [4, {}, id, target, arguments, stream_ids]
        case messages.StreamItem(id, item):
            return [2, {}, id, item]
        case messages.CancelInvocation(id):
            return [5, {}, id]
        case messages.Close(error, allow_reconnect):
            return [7, error, allow_reconnect]
        case messages.Ack(sequence_id):
            return [8, sequence_id]
        case messages.Sequence(sequence_id):
            return [9, sequence_id]
    return [6]


def _length(size: int) -> bytes:
    """Return the length that stands in front of a message of `size` bytes."""
    if size <= 0x7F:
        return bytes((size,))
    written = bytearray()
    while size > 0x7F:
        written.append(size & 0x7F | 0x80)
        size >>= 7
    written.append(size)
    return bytes(written)
