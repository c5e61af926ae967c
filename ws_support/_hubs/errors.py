"""What clients are told of errors, word for word as by .NET: programs compare these texts."""

from __future__ import annotations

import asyncio
from typing import Final

from ws_support._hubs.protocols.base import InvalidValue

WRONG_ITEM: Final = "Failed to bind Stream message."
"""For who reads an item that has another type."""
CLOSED: Final = "The underlying connection was closed."
"""For who still reads an item when the connection has ended."""
WRONG_TYPES: Final = (
    "Error binding arguments. Make sure that the types of the provided values match the types of"
    " the hub method being invoked."
)


class HubException(Exception):
    """An error whose text the client may read, raised by a method of a hub.

    Of every other exception the client reads only that there was one, unless
    `ENABLE_DETAILED_ERRORS` is set.
    """


class PublishError(Exception):
    """A message for clients was not taken by the broker."""


class InvalidName(ValueError):
    """A group or a user cannot have that name. The text does not hold the name."""


class InvalidNameType(TypeError):
    """The name of a group or of a user is no text. The text does not hold it."""


class NoAnswer(asyncio.TimeoutError):
    """A client has not answered in time."""


_OF_CLIENTS: Final = (PublishError, InvalidName, InvalidNameType, NoAnswer)

_OF_VALUES: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What writing a value raises that cannot be sent: a client may have sent it."""


def is_one_line(error: BaseException) -> bool:
    """Return True if a client, or the broker, is to blame for what a method has raised.

    Any client could fill the log with the tracebacks.
    """
    if isinstance(error, InvalidValue):
        return isinstance(error.__cause__, _OF_VALUES)
    return isinstance(error, _OF_CLIENTS)


class BindingError(Exception):
    """The arguments of an invocation are not those of its method. .NET: InvalidDataException."""


def failed(target: str) -> str:
    """Return the text for an invocation that never began."""
    return f"Failed to invoke '{target}' due to an error on the server."


def unexpected(target: str) -> str:
    """Return the text for a method that has raised."""
    return f"An unexpected error occurred invoking '{target}' on the server."


def unauthorized(target: str) -> str:
    return f"Failed to invoke '{target}' because user is unauthorized"


def in_use(invocation_id: str) -> str:
    return f"Invocation ID '{invocation_id}' is already in use."


def wrong_mode(target: str, *, is_stream: bool) -> str:
    """Return the text for a client that expects a stream, or none, and is wrong."""
    method, call = (
        ("streaming", "a non-streaming") if is_stream else ("non-streaming", "a streaming")
    )
    return f"The client attempted to invoke the {method} '{target}' method with {call} invocation."


def wrong_streams(sent: int, expected: int) -> str:
    return f"Client sent {sent} stream(s), Hub method expects {expected}."


def no_stream(target: str) -> str:
    """Return the text for a method that should have answered with a stream, and has not."""
    return f"The value returned by the streaming method '{target}' is not an asynchronous iterator."


STREAMING: Final = "An error occurred on the server while streaming results."


def describe(text: str, error: BaseException, *, is_detailed: bool) -> str:
    """Return `text`, with the class and the text of `error` if the client may read them."""
    if isinstance(error, HubException):
        return f"{text} HubException: {_text_of(error)}"
    if isinstance(error, BindingError):
        return f"{text} InvalidDataException: {error}" if is_detailed else text
    return f"{text} {type(error).__name__}: {_text_of(error)}" if is_detailed else text


def _text_of(error: BaseException) -> str:
    """Return the text of an error of the project, as far as it can be sent."""
    try:
        return str(error).encode(errors="replace").decode()
    except Exception:  # Of its own `__str__()`.
        return ""
