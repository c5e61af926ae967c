"""A client of the hub of topics, of which there may be thousands."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks import Failed
from benchmarks.applications import HOST, ORIGIN, TOPICS_PATH

_SEPARATOR: Final = "\x1e"
_HELLO: Final = '{"protocol":"json","version":1}' + _SEPARATOR
_PING: Final = '{"type":6}' + _SEPARATOR
_COUNT: Final = re.compile(rb'"count":(\d+)')
_TIMEOUT: Final = 120.0
"""Seconds for a handshake and for a call, also when thousands of others are under way."""


class Client(WSListener):
    """Calls the hub, and counts what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.messages = self.presences = self.bytes = 0
        self.present = 0
        """How many are there, as far as it was told."""
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._calls = 0

    @classmethod
    async def connected(cls, port: int, path: str = TOPICS_PATH) -> Client:
        """Return a client that is connected. Raises `Failed` when it is refused."""
        try:
            _, client = await ws_connect(
                cls,
                f"ws://{HOST}:{port}{path}",
                extra_headers={"Origin": ORIGIN},
                websocket_handshake_timeout=_TIMEOUT,
            )
        except (OSError, asyncio.TimeoutError) as error:
            raise Failed(f"No connection: {error!r}") from error
        return client  # type: ignore[return-value]

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self._send(_HELLO)

    async def call(self, target: str, *arguments: Any) -> Any:
        """Call a method, and return its result. Raises `Failed` for an error."""
        self._calls += 1
        id_ = str(self._calls)
        call = {"type": 1, "invocationId": id_, "target": target, "arguments": arguments}
        answer = self._answers[id_] = asyncio.get_running_loop().create_future()
        self._send(json.dumps(call) + _SEPARATOR)
        async with asyncio.timeout(_TIMEOUT):
            return await answer

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        self.bytes += len(payload)
        self.messages += payload.count(b'"target":"Message"')
        if b'"target":"Presence"' in payload:
            self.presences += payload.count(b'"target":"Presence"')
            self.present = int(_COUNT.findall(payload)[-1])
        if payload.startswith(b'{"type":6'):
            self._send(_PING)
        elif b'{"type":3' in payload:
            for part in payload.decode().split(_SEPARATOR):
                if part.startswith('{"type":3'):
                    self._answered(json.loads(part))

    def _answered(self, completion: dict[str, Any]) -> None:
        answer = self._answers.pop(completion["invocationId"])
        if "error" in completion:
            answer.set_exception(Failed(completion["error"]))
        else:
            answer.set_result(completion.get("result"))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        for answer in self._answers.values():
            answer.set_exception(Failed("The server cut off a connection."))

    def _send(self, text: str) -> None:
        self.transport.send(WSMsgType.TEXT, text.encode())

    def cut(self) -> None:
        """End the connection without a goodbye."""
        self.transport.disconnect(graceful=False)
