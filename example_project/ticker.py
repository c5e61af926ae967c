"""A background service that writes to sockets which it was handed, each process its own."""

from __future__ import annotations

import asyncio
import json
import os

from django.utils import timezone

from ws_support.websocket import ConnectionClosed, WebSocket

INTERVAL = 1.0
"""Seconds from one tick to the next."""


class Ticker:
    """Sends every socket that it holds a tick each second, until that socket closes.

    One task does that for all of them. It ends when it holds none, and begins again with the next.
    """

    def __init__(self) -> None:
        self._sockets: set[WebSocket] = set()
        self._task: asyncio.Task[None] | None = None
        # The sends that are under way. Also, asyncio itself refers to its tasks only weakly.
        self._sending: dict[WebSocket, asyncio.Task[None]] = {}
        self._number = 0

    def add(self, websocket: WebSocket) -> None:
        """From now on it gets ticks. It has to be accepted."""
        self._sockets.add(websocket)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._sockets:
            self._tick()
            await asyncio.sleep(INTERVAL)

    def _tick(self) -> None:
        self._number += 1
        tick = {
            "number": self._number,
            "time": timezone.now().isoformat(),
            "pid": os.getpid(),
            "sockets": len(self._sockets),
        }
        text = json.dumps(tick)
        # A client that is behind would only get old ticks in a row: it misses some instead.
        for websocket in self._sockets - self._sending.keys():
            # In tasks of their own, so that a slow client is waited for by nobody else.
            self._sending[websocket] = asyncio.create_task(self._send(websocket, text))

    async def _send(self, websocket: WebSocket, text: str) -> None:
        try:
            await websocket.send(text)
        except ConnectionClosed:
            self._sockets.discard(websocket)
        finally:
            del self._sending[websocket]


ticker = Ticker()
