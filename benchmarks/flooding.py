"""What the application that is flooded and the client that floods it agree on."""

from __future__ import annotations

from typing import Final

BUSY: Final = "busy"
"""What a consumer sends before it is busy for good."""

REPORT: Final = "How many?"
"""The text that a consumer which never answers does answer: with the messages that it has read."""

SPRING_SIZE: Final = 2**16
"""Bytes of each message of a consumer that sends without end. All of them are zero."""
