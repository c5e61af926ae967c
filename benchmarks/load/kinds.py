"""The kinds of flood: what a client sends as fast as it can, and how it shows that it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.flooding import BUSY, REPORT, SPRING_SIZE
from benchmarks.handshake import PATH

_TEXT, _BINARY, _PING, _PONG = 1, 2, 9, 10
"""Opcodes (RFC 6455, section 5.2)."""


def _frame(opcode: int, payload: bytes) -> bytes:
    """A whole message of the server, or a control frame."""
    size = len(payload)
    head = bytes([0x80 | opcode])
    if size < 126:
        return head + bytes([size]) + payload
    if size < 2**16:
        return head + bytes([126]) + size.to_bytes(2, "big") + payload
    return head + bytes([127]) + size.to_bytes(8, "big") + payload


def _masked(frame: bytes) -> bytes:
    """The same frame from a client. A mask of zeros is a mask."""
    length = {126: 2, 127: 8}.get(frame[1], 0)
    return frame[:1] + bytes([0x80 | frame[1]]) + frame[2 : 2 + length] + bytes(4) + frame[
        2 + length :
    ]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    path: str
    message: bytes = b""
    """A frame that is sent again and again; empty: nothing is sent."""

    opening: bytes = b""
    """A frame before the flood."""

    opened: bytes = b""
    """The answer to `opening`, which the flood waits for."""

    ending: bytes = b""
    """A frame after the flood."""

    unread: Callable[[int], bytes] = lambda _: b""
    """Given how many messages were sent, what has to be there, at first, when the client reads
    after the flood; empty: nothing at all."""


def _echoed(message: bytes) -> Kind:
    return Kind(PATH, _masked(message), unread=lambda _: message)


def _to_busy(message: bytes) -> Kind:
    return Kind(
        "/busy",
        _masked(message),
        opening=_masked(_frame(_TEXT, b"go")),
        opened=_frame(_TEXT, BUSY.encode()),
    )


_1_KIB: Final = _frame(_TEXT, b"x" * 2**10)
_1_MIB: Final = _frame(_BINARY, bytes(2**20))

KINDS: Final = {
    # What the second client sees by itself, and what the machine does to it.
    "nothing": Kind(PATH),
    "text 100 B": _echoed(_frame(_TEXT, b"x" * 100)),
    "text 1 KiB": _echoed(_1_KIB),
    # The largest that WS_SUPPORT admits by default.
    "binary 1 MiB": _echoed(_1_MIB),
    # The most messages that a read can bring.
    "text 1 B": _echoed(_frame(_TEXT, b"x")),
    # Answered by the server, without the application.
    "pings": Kind(
        PATH,
        _masked(_frame(_PING, b"x" * 100)),
        unread=lambda _: _frame(_PONG, b"x" * 100),
    ),
    # A consumer that handles one message all the time.
    "busy 1 KiB": _to_busy(_1_KIB),
    "busy 1 MiB": _to_busy(_1_MIB),
    # A consumer that handles everything, and answers nothing.
    "sink 1 KiB": Kind(
        "/sink",
        _masked(_1_KIB),
        ending=_masked(_frame(_TEXT, REPORT.encode())),
        unread=lambda count: _frame(_TEXT, str(count).encode()),
    ),
    # A consumer that sends all the time.
    "spring": Kind("/spring", unread=lambda _: _frame(_BINARY, bytes(SPRING_SIZE))),
}
