"""The server's half of the demo page."""

from __future__ import annotations

from typing import Final

from ws_support.consumers import EchoConsumer

_CUT: Final = "\x04"
"""What the page sends to be cut off: EOT, the end of transmission."""

_CUT_CODE: Final = 4000
"""One that every server can send; plain Daphne refuses 1012."""


class DemoConsumer(EchoConsumer):
    """An echo that a client can ask to cut its connection, to see what happens then."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == _CUT:
            await self.close(_CUT_CODE, "Cut, as the page has asked")
        else:
            await super().receive(text_data, bytes_data)
