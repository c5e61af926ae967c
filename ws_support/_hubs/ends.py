"""Why a hub connection ends."""

from __future__ import annotations

from typing import NamedTuple


class End(NamedTuple):
    """Why a connection ends, and what is said of that."""

    error: str | None = None
    """For the client, in the Close message."""
    allow_reconnect: bool = False
    exception: Exception | None = None
    """For `on_disconnected()`."""
    is_told: bool = True
    """False if the client gets no Close message: it has had another answer, or has gone."""
    is_restart: bool = False
    """True if the server stops."""


class TooSlow(Exception):
    """The client does not read what is sent to it."""

    def __init__(self) -> None:
        super().__init__("The client was too slow for what was sent to it.")


class Missed(Exception):
    """Messages were lost on the way to this process."""

    def __init__(self) -> None:
        super().__init__("Messages for the client were lost.")


class Silent(Exception):
    """The client has sent nothing for too long. .NET: OperationCanceledException."""

    def __init__(self, interval: float) -> None:
        super().__init__(f"The client has sent nothing for {interval:g} s.")
