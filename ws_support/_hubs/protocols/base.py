"""The contract of a protocol: messages to bytes, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from django.db.models import Model, QuerySet
from django.utils.functional import Promise

from ws_support._hubs.messages import Message, Undecoded


class ProtocolError(Exception):
    """The client has broken the protocol. Its connection ends."""


class MessageTooLarge(ProtocolError):
    """A message of the client has more bytes than a message may have."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"The maximum message size of {most}B was exceeded. The message size can be configured"
            ' with WS_SUPPORT["HUBS"]["MAXIMUM_RECEIVE_MESSAGE_SIZE"].'
        )


class InvalidValue(ValueError):
    """A value cannot be read as what is expected, or cannot be sent. The connection lives on."""


class WrongNumber(InvalidValue):
    """An invocation has more or fewer arguments than its method."""

    def __init__(self, provided: int, expected: int) -> None:
        super().__init__(
            f"Invocation provides {provided} argument(s) but target expects {expected}."
        )


class Splitter(ABC):
    """Cuts the bytes that come into frames: one message each, without what separates them.

    The bytes may come in pieces of every size. At most `most` bytes are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that are complete with `data`, in their order.

        Raises `ProtocolError`, after the frames before it, for one that is broken, and
        `MessageTooLarge` for one with more than `most` bytes, also while it is incomplete; both end
        the connection. The iterator has to be read to its end before the next call.
        """

    @abstractmethod
    def is_empty(self) -> bool:
        """Return True if no frame has begun."""

    @abstractmethod
    def take(self) -> bytes:
        """Return the bytes of the frame that has begun, and forget them."""


class HubProtocol(ABC):
    """How messages are written. It has no state, so one is enough for all connections."""

    name: ClassVar[str]
    is_binary: ClassVar[bool]
    """True if it needs binary frames, which server-sent events do not have."""

    def prepare(self, type_: Any) -> None:
        """Prepare to read values of a type. Raises `TypeError` if there can be none."""
        self.decoder(type_)

    def arguments(self, undecoded: Undecoded, type_: Any, count: int) -> tuple[Any, ...]:
        """Return the arguments of an invocation, converted to `type_`, a tuple of `count` types.

        `Any` takes what has come. Raises `WrongNumber` and `InvalidValue`.
        """
        try:
            arguments: tuple[Any, ...] = self.value(undecoded, type_)
        except InvalidValue:
            given = self.value(undecoded, list[Undecoded])
            if len(given) != count:
                raise WrongNumber(len(given), count) from None
            raise
        return arguments

    def value(self, undecoded: Undecoded, type_: Any) -> Any:
        """Return an item or a result, converted to `type_`. Raises `InvalidValue`."""
        return read(self.decoder(type_), undecoded)

    @abstractmethod
    def decoder(self, type_: Any) -> Any:
        """Return a decoder of msgspec for values of a type, the same at each call."""

    @abstractmethod
    def splitter(self, most: int) -> Splitter:
        """Return a new splitter for messages of at most `most` bytes, framing included."""

    @abstractmethod
    def parse(self, frame: bytes) -> Message | None:
        """Return the message in `frame`, or None if its type is unknown: it is to be ignored.

        Raises `ProtocolError`.
        """

    @abstractmethod
    def write(self, message: Message) -> bytes:
        """Return `message` as it is sent, with its framing.

        Raises `InvalidValue` if it holds what cannot be sent.
        """


def read(decoder: Any, data: bytes | Undecoded) -> Any:
    """Return what `decoder`, one of msgspec, reads in `data`. Raises `InvalidValue`."""
    try:
        return decoder.decode(data)
    except Exception as error:  # A class of the project may raise anything.
        raise InvalidValue(str(error)) from error


def encode(encoder: Any, value: Any) -> bytes:
    """Return what `encoder`, one of msgspec, writes for `value`. Raises `InvalidValue`."""
    try:
        data: bytes = encoder.encode(value)
    except Exception as error:  # A class of the project may raise anything.
        raise InvalidValue(str(error)) from error
    return data


def expect(decoder: Any, data: bytes | Undecoded) -> Any:
    """Return what `decoder` reads where the protocol says what is there. Raises `ProtocolError`."""
    try:
        return read(decoder, data)
    except InvalidValue as error:
        raise ProtocolError(str(error)) from error.__cause__


def encode_other(value: Any) -> Any:
    """Return what msgspec can write for a value that it does not know."""
    if isinstance(value, Promise):  # A text that is translated when it is needed.
        return str(value)
    if hasattr(value, "__pydantic_validator__"):
        return value.model_dump()
    if isinstance(value, str):  # A subclass, such as Django's SafeString.
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    what = f"A hub cannot send an object of type {type(value).__qualname__}"
    raise TypeError(what + _advice(value))


def _advice(value: Any) -> str:
    """Return what to send in place of a value of Django."""
    if isinstance(value, Model):
        return ": send its fields, as a dictionary or a dataclass"
    if isinstance(value, QuerySet):
        return ": send a list, such as [row async for row in queryset.values()]"
    return ""


def decode_other(type_: Any, value: Any) -> Any:
    """Return `value` as a type that msgspec does not know: a model of pydantic."""
    if hasattr(type_, "__pydantic_validator__"):
        return type_.model_validate(value)
    raise TypeError(f"A hub cannot receive an object of type {type_.__qualname__}")
