"""The consumer of the demo page."""

from __future__ import annotations

from typing import Final

from ws_support.consumers import EchoConsumer

_CUT: Final = "\x04"
"""The message with which the page asks to be disconnected: EOT, the end of transmission."""

_CUT_CODE: Final = 4000
"""A close code that every server can send; plain Daphne refuses 1012."""


class DemoConsumer(EchoConsumer):
    """Echoes messages, and closes the connection when the page asks for that.

    The page then shows how its client reconnects.
    """

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == _CUT:
            await self.close(_CUT_CODE, "Cut, as the page has asked")
        else:
            await super().receive(text_data, bytes_data)
