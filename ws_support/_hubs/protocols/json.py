"""Hub messages in JSON, each with a byte 0x1E behind it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

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

SEPARATOR: Final = b"\x1e"


class RecordSplitter(Splitter):
    """Cuts at each separator."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._begun = bytearray()  # Not a list: of small pieces, each would take 60 bytes more.

    def feed(self, data: bytes) -> Iterator[bytes]:
        start = 0
        while (end := data.find(SEPARATOR, start)) >= 0:
            if len(self._begun) + end + 1 - start > self._most:
                raise MessageTooLarge(self._most)
            frame = data[start:end]
            start = end + 1
            yield self.take() + frame if self._begun else frame
        if start < len(data):
            if len(self._begun) + len(data) - start > self._most:
                raise MessageTooLarge(self._most)
            self._begun += data[start:]

    def is_empty(self) -> bool:
        return not self._begun

    def take(self) -> bytes:
        begun = bytes(self._begun)
        self._begun = bytearray()
        return begun


class _Envelope(Struct, rename="camel"):
    """The keys that a message may have. Those that its type does not need are read all the same."""

    type: int
    invocation_id: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    arguments: Raw | UnsetType = UNSET
    stream_ids: tuple[str, ...] | None = None
    item: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: str | None = None
    allow_reconnect: bool = False
    sequence_id: int | UnsetType = UNSET
    headers: dict[str, str] | None = None


# What is sent, with the number of its type.


class _Invocation(Struct, tag_field="type", rename="camel", tag=1, omit_defaults=True):
    target: str
    arguments: Any
    invocation_id: str | UnsetType = UNSET
    stream_ids: tuple[str, ...] = ()


class _StreamInvocation(_Invocation, tag=4):
    pass


class _StreamItem(Struct, tag_field="type", rename="camel", tag=2):
    invocation_id: str
    item: Any


class _Completion(Struct, tag_field="type", rename="camel", tag=3):
    invocation_id: str
    result: Any = UNSET
    error: str | UnsetType = UNSET


class _CancelInvocation(Struct, tag_field="type", rename="camel", tag=5):
    invocation_id: str


class _Ping(Struct, tag_field="type", rename="camel", tag=6):
    pass


class _Close(Struct, tag_field="type", rename="camel", tag=7, omit_defaults=True):
    error: str | None = None
    allow_reconnect: bool = False


class _Ack(Struct, tag_field="type", rename="camel", tag=8):
    sequence_id: int


class _Sequence(Struct, tag_field="type", rename="camel", tag=9):
    sequence_id: int


_envelopes: Final = msgspec.json.Decoder(_Envelope)
# .NET writes a decimal as a number, and expects one.
_encoder: Final = msgspec.json.Encoder(enc_hook=encode_other, decimal_format="number")


@lru_cache(maxsize=1024)
def _decoder(type_: Any) -> Any:
    return msgspec.json.Decoder(type_, dec_hook=decode_other)


class JSONProtocol(HubProtocol):
    name: ClassVar[str] = "json"
    is_binary: ClassVar[bool] = False

    def splitter(self, most: int) -> Splitter:
        return RecordSplitter(most)

    def parse(self, frame: bytes) -> Message | None:
        envelope: _Envelope = expect(_envelopes, frame)
        match envelope.type:
            case 1:
                return messages.Invocation(
                    _needed(envelope.target, "target"),
                    _arguments(envelope),
                    envelope.invocation_id or None,
                    envelope.stream_ids or (),
                )
            case 2:
                return messages.StreamItem(_id(envelope), _needed(envelope.item, "item"))
            case 3:
                if envelope.result is UNSET:
                    return messages.Completion(_id(envelope), None, envelope.error)
                if envelope.error is not None:
                    raise ProtocolError(
                        "The 'error' and 'result' properties are mutually exclusive."
                    )
                return messages.Completion(_id(envelope), envelope.result, has_result=True)
            case 4:
                return messages.StreamInvocation(
                    _needed(envelope.target, "target"),
                    _arguments(envelope),
                    _id(envelope),
                    envelope.stream_ids or (),
                )
            case 5:
                return messages.CancelInvocation(_id(envelope))
            case 6:
                return messages.Ping()
            case 7:
                return messages.Close(envelope.error, envelope.allow_reconnect)
            case 8:
                return messages.Ack(_needed(envelope.sequence_id, "sequenceId"))
            case 9:
                return messages.Sequence(_needed(envelope.sequence_id, "sequenceId"))
        return None

    def decoder(self, type_: Any) -> Any:
        return _decoder(type_)

    def write(self, message: Message) -> bytes:
        return encode(_encoder, _to_send(message)) + SEPARATOR


def _needed(value: Any, name: str) -> Any:
    if value is UNSET:
        raise ProtocolError(f"Missing required property '{name}'.")
    return value


def _arguments(envelope: _Envelope) -> Undecoded:
    arguments: Undecoded = _needed(envelope.arguments, "arguments")
    if memoryview(arguments)[0] != ord("["):
        raise ProtocolError("The property 'arguments' has to be an array.")
    return arguments


def _id(envelope: _Envelope) -> Any:
    return _needed(envelope.invocation_id, "invocationId")


def _to_send(message: Message) -> Struct:
    match message:
        case messages.Completion(id, result, error, has_result):
            if error is not None:
                return _Completion(id, error=error)
            return _Completion(id, result if has_result else UNSET)
        case messages.Invocation(target, arguments, id, stream_ids):
            return _Invocation(target, arguments, id or UNSET, stream_ids)
        case messages.StreamInvocation(target, arguments, id, stream_ids):
            return _StreamInvocation(target, arguments, id, stream_ids)
        case messages.StreamItem(id, item):
            return _StreamItem(id, item)
        case messages.CancelInvocation(id):
            return _CancelInvocation(id)
        case messages.Close(error, allow_reconnect):
            return _Close(error, allow_reconnect)
        case messages.Ack(sequence_id):
            return _Ack(sequence_id)
        case messages.Sequence(sequence_id):
            return _Sequence(sequence_id)
    return _Ping()
