"""Consumers."""

from __future__ import annotations

from channels.generic.websocket import AsyncWebsocketConsumer


class EchoConsumer(AsyncWebsocketConsumer):
    """Sends each message back as it came: text as text, binary as binary, empty as empty.

    Agrees to the first sub-protocol that the client offers, since browsers fail a connection
    whose server agrees to none.
    """

    async def connect(self) -> None:
        await self.accept(subprotocol=next(iter(self.scope["subprotocols"]), None))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)
