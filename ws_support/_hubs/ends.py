"""Why a hub connection ends."""

from __future__ import annotations

from typing import NamedTuple

from ws_support.close_codes import CloseCode


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
    is_lost: bool = False
    """True if nobody has wanted it: the client does not come any more."""

    @property
    def code(self) -> CloseCode:
        """The close code that says the same."""
        if self.is_restart:
            return CloseCode.SERVICE_RESTART
        if self.is_lost:
            return CloseCode.ABNORMAL_CLOSURE
        if self.exception is not None:
            return CloseCode.INTERNAL_ERROR
        return CloseCode.NORMAL_CLOSURE


class TooSlow(Exception):
    """The client does not read what is sent to it."""

    def __init__(self) -> None:
        super().__init__("The client was too slow for what was sent to it.")


class Missed(Exception):
    """Messages were lost on the way to this process."""

    def __init__(self) -> None:
        super().__init__("Messages for the client were lost.")


class Unread(Exception):
    """Nothing of the client could be read for too long, since no method of it has ended."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"What the client has sent has not been read for {seconds:g} s.")


class Silent(Exception):
    """The client has sent nothing for too long. .NET: OperationCanceledException."""

    def __init__(self, interval: float) -> None:
        super().__init__(f"The client has sent nothing for {interval:g} s.")
