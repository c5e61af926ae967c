"""Whatever clients, applications and transports may do, one step after the other."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Protocol

from tests.fuzz.connection import MAX_SIZE, REQUEST, Connection, check_echo, echo
from tests.fuzz.model import CLOSE, PONG, TEXT, expect, frames_of


class Choices(Protocol):
    """Where the steps come from: Hypothesis, or a fuzzer that watches which lines are reached."""

    def number(self, least: int, most: int) -> int: ...

    def data(self, most: int) -> bytes: ...

    @property
    def is_done(self) -> bool: ...


def frame(choices: Choices) -> bytes:
    """A frame, mostly a lawful one."""
    opcode = (0, 1, 2, 8, 9, 10, 1, 0, 3, 11)[choices.number(0, 9)]
    bits = choices.number(0, 15)
    # One time in eight a bit is wrong.
    first = (0x80 if bits & 1 or opcode > 7 else 0) | ((bits >> 1) << 4 if bits >= 14 else 0)
    payload = (b"", b"text", "ä𝄞".encode(), b"\x03\xe8bye", b"\xc3", b"\xa4", bytes(126))[
        choices.number(0, 6)
    ]
    if choices.number(0, 3) == 0:
        payload = choices.data(MAX_SIZE + 20)
    mask = choices.data(4).ljust(4, b"\0")
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    size = len(payload)
    kind = 0x80 if choices.number(0, 30) else 0
    if size < 126:
        head = bytes((first | opcode, kind | size))
    else:
        head = bytes((first | opcode, kind | 126)) + size.to_bytes(2, "big")
    return head + mask + masked


def fuzz_echo(loop: asyncio.AbstractEventLoop, choices: Choices) -> None:
    """A client that sends anything, in pieces of any size, to an application that echoes."""
    connection = Connection(loop, echo)
    early = frame(choices) if choices.number(0, 3) == 0 else b""
    connection.feed(REQUEST + early)
    connection.fed = early
    connection.turn()
    while not choices.is_done and not connection.is_ended:
        data = choices.data(40) if choices.number(0, 5) == 0 else frame(choices)
        while choices.number(0, 2) == 0 and not choices.is_done:
            data += frame(choices)
        if choices.number(0, 2) == 0:
            cut = choices.number(0, len(data))
            connection.feed(data[:cut])
            data = data[cut:]
        connection.feed(data)
        _settle(connection)
        # Nothing waits for the application, so there is nothing to wait for.
        assert connection.is_ended or connection.transport.is_reading
        assert connection.is_ended or not connection.waiting
    check_echo(connection, is_lost=False)
    connection.transport.lose()
    connection.turn(6)
    check_echo(connection, is_lost=True)
    assert not connection.state.tasks
    assert not connection.state.connections


def _settle(connection: Connection) -> None:
    """Until nothing more happens: some messages are echoed in each turn."""
    before = None
    while before != (now := (len(connection.received), len(connection.waiting))):
        before = now
        connection.turn()
        connection.deliver()
        connection.turn()


class _Asked(Exception):
    """What an application raises because it was told to."""


def fuzz_everything(loop: asyncio.AbstractEventLoop, choices: Choices) -> None:
    """The application closes, raises, returns, waits and asks for nonsense; the transport is slow,
    lost or closed by the server."""
    steps: asyncio.Queue[Any] = asyncio.Queue()
    readers: list[asyncio.Future[Any]] = []

    async def application(connection: Connection) -> None:
        while True:
            step = await steps.get()
            if step == "return":
                return
            if step == "raise":
                raise _Asked
            if step == "receive":
                with suppress(RuntimeError):  # The other reader waits.
                    await connection.next()
                continue
            if step == "read aside":
                readers.append(asyncio.ensure_future(connection.next()))
                continue
            if step == "look":
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(connection.next(), 0)
                continue
            with suppress(OSError, ValueError, RuntimeError):
                await connection.send(step)

    connection = Connection(loop, application)
    connection.feed(REQUEST)
    connection.turn()
    connection.fed = b""
    is_blocked = False
    while not choices.is_done and not connection.transport.is_lost:
        what = choices.number(0, 15)
        if what <= 5:
            connection.feed(frame(choices) if what else choices.data(30))
        elif what <= 8:
            steps.put_nowait("look" if what == 6 else "receive")
        elif what <= 12:
            steps.put_nowait(_MESSAGES[choices.number(0, len(_MESSAGES) - 1)])
        elif what == 13:
            if is_blocked:
                connection.transport.protocol.resume_writing()
            elif not connection.transport.is_closing():
                connection.transport.protocol.pause_writing()
            is_blocked = not is_blocked
        elif what == 14:
            if not readers:
                steps.put_nowait("read aside")
            else:
                connection.feed(frame(choices), turns=choices.number(0, 1))
                _cancel(readers)
        else:
            rare = choices.number(0, 7)
            if rare == 0:
                connection.transport.lose()
            elif rare == 1:
                connection.protocol.shutdown()
            elif rare <= 3:
                steps.put_nowait("return" if rare == 2 else "raise")
            elif rare == 4:
                for task in connection.state.tasks:
                    task.cancel()
            elif rare == 5 and connection.protocol._timer is not None:
                connection.protocol._timer._run()  # As if its time had come.
        connection.turn(choices.number(0, 3))
    connection.deliver()
    connection.turn()
    _cancel(readers)
    connection.transport.lose()
    connection.turn()
    for _ in range(len(expect(connection.fed, MAX_SIZE).messages) + 4):
        steps.put_nowait("receive")
    connection.turn(20 + 8 * steps.qsize())
    _check(connection)
    _cancel(readers)
    steps.put_nowait("return")
    for task in connection.state.tasks:
        task.cancel()
    connection.turn(10)
    assert not connection.state.tasks
    assert not connection.state.connections


def _cancel(readers: list[asyncio.Future[Any]]) -> None:
    for reader in readers:
        reader.cancel()
        reader.add_done_callback(lambda done: done.cancelled() or done.exception())
    readers.clear()


def _check(connection: Connection) -> None:
    assert connection.errors == [], connection.errors
    expected = expect(connection.fed, MAX_SIZE)
    assert connection.received == expected.messages[: len(connection.received)]
    assert len(connection.disconnects) <= 1
    if connection.state.tasks:  # Else it had ended before it could hear of the end.
        assert len(connection.disconnects) == 1
    head, _, rest = connection.transport.sent.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        assert not head or head.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
        return
    frames = frames_of(rest)
    closes = [index for index, (opcode, _) in enumerate(frames) if opcode == CLOSE]
    assert closes in ([], [len(frames) - 1])
    pongs = [payload for opcode, payload in frames if opcode == PONG]
    assert all(pong in expected.pings for pong in pongs)
    assert all(payload == b"sent" for opcode, payload in frames if opcode == TEXT)


_MESSAGES: list[Any] = [
    {"type": "websocket.accept"},
    {"type": "websocket.accept"},
    {"type": "websocket.accept", "subprotocol": "a", "headers": [(b"a", b"b")]},
    {"type": "websocket.accept", "headers": [(b"a", b"b\r\nc: d")]},
    {"type": "websocket.send", "text": "sent"},
    {"type": "websocket.send", "bytes": bytes(9000)},
    {"type": "websocket.send"},
    {"type": "websocket.send", "text": "\ud800"},
    {"type": "websocket.close"},
    {"type": "websocket.close", "code": 4000, "reason": "ä" * 100},
    {"type": "websocket.close", "code": 1006},
    {"type": "websocket.http.response.start", "status": 418, "headers": []},
    {"type": "websocket.http.response.body", "body": b"tea", "more_body": True},
    {"type": "websocket.http.response.body", "body": b"pot"},
    {"type": "http.response.start", "status": 200},
]


class Unasked(logging.Filter):
    """Whether a record says what no application was told to do."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, _Asked) and "without completing" not in record.getMessage()
