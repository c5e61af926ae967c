"""Calls of a hub, or their like: one connection, with one or more answers outstanding."""

from __future__ import annotations

import asyncio

from picows import WSFrame, WSTransport

from benchmarks.load.connections import Connection, connect, goodbye, wait, wait_until
from benchmarks.load.dialects import DIALECTS
from benchmarks.usage import Meter


async def invoke(
    port: int,
    processes: list[int],
    *,
    path: str,
    message_size: int,
    in_flight: int,
    warm_up: float,
    seconds: float,
    dialect: str,
) -> dict[str, float]:
    """Measure for `seconds`, after `warm_up` seconds of the same, with a text of `message_size`
    bytes, `in_flight` calls at a time: the next ones are made when all are answered.

    Raises `Failed` when anything but the answers comes, in their order, or the connection is lost.
    """
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    speaks = DIALECTS[dialect]
    [caller] = await connect(port, lambda _: _Caller(failed), 1, message_size, path, speaks)
    text = message_size * "."
    exchanges = [speaks.exchange(f"{number:06d}", text) for number in range(in_flight)]
    caller.call(exchanges)
    await wait(failed, warm_up)
    meter, before = Meter(processes), caller.calls
    await wait(failed, seconds)
    figures = meter.figures(caller.calls - before)
    caller.goes_on = False
    await wait_until(caller.last_echo, failed)
    await goodbye([caller])
    return figures


class _Caller(Connection):
    """Repeats the same calls. Answers may come together in one frame, or each in its own."""

    def __init__(self, failed: asyncio.Future[None]) -> None:
        super().__init__(b"", failed)
        self.calls = 0
        """Those that are answered."""
        self.goes_on = True
        self._expected = b""
        self._position = 0

    def call(self, exchanges: list[tuple[bytes, bytes]]) -> None:
        self._requests = [request for request, _ in exchanges]
        self._expected = b"".join(answer for _, answer in exchanges)
        self._call()

    def _call(self) -> None:
        for request in self._requests:
            self.transport.send(self.kind, request)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if frame.msg_type is not self.kind or not self._expected.startswith(
            payload, self._position
        ):
            super().on_ws_frame(transport, frame)
            return
        self._position += len(payload)
        if self._position == len(self._expected):
            self._position = 0
            self.calls += len(self._requests)
            if self.goes_on:
                self._call()
            else:
                self.last_echo.set_result(None)
