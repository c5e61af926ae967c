"""Calls of a channel layer: what is sent, to which group, within which time."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

from ws_support._topics.brokers.base import TIMEOUT, BrokerError, BrokerUnavailable
from ws_support._topics.outages import is_away

Result = TypeVar("Result")

PUBLISHED: Final = "ws_support.published"
TAKEN: Final = "ws_support.taken"
PROBE: Final = "ws_support.probe"


async def send_to_group(layer: Any, group: str, message: dict[str, Any]) -> None:
    """Send `message` to `group`. Raises `BrokerError`."""
    await within(layer.group_send(group, message))


def group_of(topic: str) -> str:
    """Return the name of the group for `topic`.

    Layers accept names of letters, digits and three signs, up to 99 characters. For a topic that
    does not fit, the name holds its digest.
    """
    if _PLAIN.fullmatch(topic):
        return f"ws_support.{topic}"
    digest = hashlib.sha256(topic.encode("utf-8", "surrogatepass")).hexdigest()
    return f"ws_support-sha256.{digest}"


async def within(awaitable: Awaitable[Result]) -> Result:
    """Wait for a call of the layer, and return its result.

    Raises `BrokerUnavailable` when the error reports an outage or the call takes longer than
    `TIMEOUT`, and `BrokerError` for any other error.
    """
    try:
        return await asyncio.wait_for(awaitable, TIMEOUT)
    except asyncio.TimeoutError:
        raise BrokerUnavailable(f"no answer within {TIMEOUT:g} s") from None
    except Exception as error:
        kind = BrokerUnavailable if is_away(error) else BrokerError
        raise kind(f"{type(error).__name__}: {error}".rstrip(".")) from error


_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
