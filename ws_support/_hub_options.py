"""The options of hubs: the keys of `WS_SUPPORT["HUBS"]`, with the names and defaults of .NET."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured

from ws_support._validators import LISTS, Problem, boolean, dictionary_problems, number, short

TRANSPORTS: Final = ("WebSockets", "ServerSentEvents", "LongPolling")
"""The transports by their names in the protocol, in the order in which clients try them."""


def _transports(value: object) -> Iterator[Problem]:
    """Validate a list of transports."""
    hint = f"Write a list with some of {', '.join(map(repr, TRANSPORTS))}."
    if not isinstance(value, LISTS):
        yield Problem("E003", f"is {short(value)}, which is not a list.", hint)
        return
    for each in value:
        if each not in TRANSPORTS:
            yield Problem("E003", f"holds {short(each)}, which is no transport.", hint)
    if not value:
        yield Problem("E003", "is empty: nobody could connect.", hint)


def _version(value: object) -> Iterator[Problem]:
    """Validate a version of negotiate."""
    yield from (problems := list(number("0 or 1", integer=True, zero=True)(value)))
    if not problems and value not in (0, 1):
        yield Problem("E004", f"is {short(value)}, which is out of range.", "Write 0 or 1.")


def _option(default: Any, validate: Any, description: str) -> Any:
    return field(default=default, metadata={"validate": validate, "description": description})


_SECONDS: Final = number("a number of seconds above 0")
_BYTES: Final = number("a whole number of bytes above 0", integer=True)
_COUNT: Final = number("a whole number above 0", integer=True)


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """The options of one hub: each key in lower case, with its default and its validator."""

    handshake_timeout: float = _option(
        15, _SECONDS, "Seconds until a client has to have sent its handshake request."
    )
    keep_alive_interval: float = _option(
        15, _SECONDS, "Seconds between pings to a client. Clients give up after 30 s without any."
    )
    client_timeout_interval: float = _option(
        30,
        _SECONDS,
        "Seconds of silence after which a client that has sent pings is given up. Four times that,"
        " when what it has sent still waits for its methods.",
    )
    maximum_receive_message_size: int | None = _option(
        32 * 1024,
        number("a whole number of bytes above 0", integer=True, none="for no limit"),
        "Bytes of one message of a client; `None`: no limit.",
    )
    maximum_parallel_invocations_per_client: int = _option(
        1, _COUNT, "Methods of one client that run at the same time, streams not counted."
    )
    maximum_streams_per_client: int = _option(
        100, _COUNT, "Streams of one client, in both directions, at the same time."
    )
    stream_buffer_capacity: int = _option(
        10, _COUNT, "Items of an upload stream that wait for its method."
    )
    enable_detailed_errors: bool = _option(
        False, boolean, "Tell clients the class and the text of each exception."
    )
    transports: tuple[str, ...] = _option(
        TRANSPORTS, _transports, "The transports that clients may use."
    )
    minimum_protocol_version: int = _option(
        0,
        _version,
        "The oldest version of negotiate; 1 refuses clients that use one id for all.",
    )
    allow_stateful_reconnects: bool = _option(
        False, boolean, "Let clients that ask for it carry on after a lost WebSocket."
    )
    stateful_reconnect_buffer_size: int = _option(
        100_000, _BYTES, "Bytes that are kept until a client acknowledges them; then methods wait."
    )
    disconnect_timeout: float = _option(
        15, _SECONDS, "Seconds that a connection lives between two polls, or before the first one."
    )
    poll_timeout: float = _option(
        90, _SECONDS, "Seconds after which a poll without messages is answered."
    )
    close_timeout: float = _option(
        5, _SECONDS, "Seconds that the last messages of a connection may take."
    )
    transport_send_timeout: float = _option(
        10, _SECONDS, "Seconds that one write may wait for a client that reads nothing."
    )
    transport_max_buffer_size: int = _option(
        64 * 1024, _BYTES, "Bytes that wait for a client; then methods wait for it."
    )
    application_max_buffer_size: int = _option(
        64 * 1024, _BYTES, "Bytes of a client that wait for the hub; then no more are read."
    )


OPTIONS: Final = {each.name.upper(): each.metadata for each in fields(HubOptions)}
"""The keys of `WS_SUPPORT["HUBS"]`."""


def hub_options_problems(value: object) -> Iterator[Problem]:
    """Validate the value of `WS_SUPPORT["HUBS"]`, or of `options` of a hub."""
    return dictionary_problems(value, OPTIONS, '{"KEEP_ALIVE_INTERVAL": 15}')


def hub_options(given: Mapping[str, Any]) -> HubOptions:
    """Return the options of `WS_SUPPORT["HUBS"]`, which has passed its validator."""
    return with_options(HubOptions(), given)


def with_options(options: HubOptions, given: Mapping[str, Any]) -> HubOptions:
    """Return `options`, some replaced by those of one hub."""
    values: dict[str, Any] = {
        key.lower(): tuple(value) if isinstance(value, LISTS) else value
        for key, value in given.items()
    }
    return replace(options, **values)


def checked_options(title: str, given: object) -> Mapping[str, Any]:
    """Return the `options` of a hub. Raises `ImproperlyConfigured` if they cannot be used."""
    for problem in hub_options_problems(given):
        raise ImproperlyConfigured(f"{title}{problem.key} {problem.message} {problem.hint}")
    return given  # type: ignore[return-value]
