"""Many connections, and a server that is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import closing
from time import perf_counter
from typing import Any, Final

from picows import WSCloseCode, WSFrame, WSMsgType, WSTransport

from benchmarks.load import LoadFailed
from benchmarks.load.connections import Connection, connect, wait_for_all

_START_TIMEOUT: Final = 30.0
"""Seconds until every worker has answered."""

_PATIENCE: Final = 10.0
"""Seconds that are waited for a server that takes longer than it may."""


async def stop(
    port: int,
    processes: list[int],
    *,
    main: int,
    workers: int,
    connections: int,
    shutdown_timeout: float,
) -> dict[str, float]:
    """Open `connections`, send SIGTERM to the process `main`, and wait until all have ended.

    Clients answer the close frame, as the RFC asks for, and leave the rest to the server. Raises
    `LoadFailed` when a connection is refused or lost before, and when the connections are not
    served by `workers` processes.
    """
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await _wait_for_workers(port, workers, failed)
    opened = await connect(port, lambda _: _Guest(failed), connections, 0)
    await wait_for_all([guest.worker for guest in opened], failed)
    served_by = len({guest.worker.result() for guest in opened})
    if served_by != workers:
        raise LoadFailed(f"{served_by} processes serve all of them, instead of {workers}.")
    exited: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    with closing(_Exit(main, exited)):
        for guest in opened:
            guest.leaving = True
        begun_at = perf_counter()
        os.kill(main, signal.SIGTERM)
        ends: list[asyncio.Future[Any]] = [exited, *(guest.ended for guest in opened)]
        await asyncio.wait(ends, timeout=shutdown_timeout + _PATIENCE)
        given_up_at = perf_counter()
    told = [guest for guest in opened if guest.code == WSCloseCode.SERVICE_RESTART and guest.reason]
    closed_at = [guest.closed_at for guest in opened if guest.closed_at is not None]
    return {
        "told": len(told),
        "last_close_seconds": max(closed_at, default=given_up_at) - begun_at,
        "exit_seconds": (exited.result() if exited.done() else given_up_at) - begun_at,
    }


async def _wait_for_workers(port: int, workers: int, failed: asyncio.Future[None]) -> None:
    """Until each has served somebody: one that is still loading would be spared."""
    seen: set[int] = set()
    deadline = perf_counter() + _START_TIMEOUT
    while len(seen) < workers:
        if perf_counter() > deadline:
            raise LoadFailed(f"Of {workers} workers, {len(seen)} serve anybody.")
        visitors = await connect(port, lambda _: _Guest(failed), 4, 0)
        await wait_for_all([visitor.worker for visitor in visitors], failed)
        for visitor in visitors:
            seen.add(visitor.worker.result())
            visitor.leave()
        await wait_for_all([visitor.ended for visitor in visitors], failed)


class _Guest(Connection):
    """Hears which process serves it, and how it is closed."""

    def __init__(self, failed: asyncio.Future[None]) -> None:
        super().__init__(b"", failed)
        loop = asyncio.get_running_loop()
        self.worker: asyncio.Future[int] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.code: WSCloseCode | None = None
        self.reason: str | None = None
        self.closed_at: float | None = None

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.TEXT and not self.worker.done():
            self.worker.set_result(int(frame.get_payload_as_utf8_text()))
        elif frame.msg_type is WSMsgType.CLOSE:
            self._closed(transport, frame)
        else:
            self.fail(f"Neither the number of a process nor a close: {frame}")

    def _closed(self, transport: WSTransport, frame: WSFrame) -> None:
        self.closed_at = perf_counter()
        self.code = frame.get_close_code()
        self.reason = frame.get_close_reason()
        if not self.leaving:
            self.fail(f"The server closed with {self.code}.")
        if not transport.is_close_frame_sent:
            transport.send_close(self.code or WSCloseCode.OK)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        super().on_ws_disconnected(transport)
        self.ended.set_result(None)


class _Exit:
    """When a process that is not ours to wait for has ended."""

    def __init__(self, process: int, exited: asyncio.Future[float]) -> None:
        self._exited = exited
        self._descriptor = os.pidfd_open(process)
        asyncio.get_running_loop().add_reader(self._descriptor, self._on_exit)

    def _on_exit(self) -> None:
        self._exited.set_result(perf_counter())
        asyncio.get_running_loop().remove_reader(self._descriptor)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
