"""The state of a connection, and how one ends: as values that every part of this room shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ws_support.close_codes import CloseCode


class State(Enum):
    """The state of a connection, as seen by its handlers."""

    CONNECTING = "connecting"
    """The handshake is not accepted."""

    OPEN = "open"

    CLOSING = "closing"
    """This side has closed: what handlers send is dropped."""

    CLOSED = "closed"
    """No handler runs any more, except for that of `websocket.disconnect`."""


class Side(Enum):
    """The side that has ended a connection."""

    CLIENT = "client"
    """The client has left or was lost. There is nobody to send a close frame to."""

    APPLICATION = "application"
    """A handler has closed, returned or raised. It may go on after its own close."""

    TASK = "task"
    """Another task than that of the handlers has closed: of the application, or of a stop."""

    SERVER = "server"
    """The server stops, has given up a silent or slow client, or has cancelled the application."""


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a connection: the code and the reason that its handlers see, and who ended it."""

    code: int
    reason: str
    by: Side
    frame: dict[str, Any] | None = None
    """The `websocket.close` to send, or `None` if the client needs none."""

    def __post_init__(self) -> None:
        # An int, not a `CloseCode`, for servers and signals.
        object.__setattr__(self, "code", int(self.code))

    @classmethod
    def heard(cls, message: Mapping[str, Any]) -> Close:
        """Return the end that a `websocket.disconnect` of the server reports."""
        code = message.get("code")
        return cls(
            CloseCode.NO_STATUS_RECEIVED if code is None else code,
            message.get("reason") or "",
            Side.CLIENT,
        )

    @classmethod
    def told(cls, code: int, reason: str, by: Side) -> Close:
        """Return an end that the client is told of, with a close frame."""
        frame = {"type": "websocket.close", "code": int(code), "reason": reason}
        return cls(code, reason, by, frame)

    @property
    def message(self) -> dict[str, Any]:
        """The `websocket.disconnect` for the handlers."""
        return {"type": "websocket.disconnect", "code": self.code, "reason": self.reason}


LOST: Final = Close(CloseCode.ABNORMAL_CLOSURE, "", Side.CLIENT)
"""The end of a connection of which the server does not say in time why it has ended."""
