"""What a server has to make of the bytes of a client, by RFC 6455: slow, plain, and on its own."""

from __future__ import annotations

from dataclasses import dataclass, field

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class _Broken(Exception):
    def __init__(self, *codes: int) -> None:
        self.codes = set(codes)


class _Incomplete(Exception):
    pass


@dataclass
class Expectation:
    messages: list[str | bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    closed_with: tuple[int, str] | None = None
    """The client's close frame; 1005 for one without a code."""

    broken_with: set[int] | None = None
    """Codes with which the server may close, when the client breaks the protocol."""

    @property
    def is_over(self) -> bool:
        return self.closed_with is not None or self.broken_with is not None


def expect(data: bytes, max_size: int) -> Expectation:
    """What comes of these bytes, until the first close frame or the first error."""
    expectation = Expectation()
    reader = _Reader(data, max_size)
    try:
        while expectation.closed_with is None:
            reader.read_frame(expectation)
    except _Broken as broken:
        expectation.broken_with = broken.codes
    except _Incomplete:
        pass
    return expectation


class _Reader:
    def __init__(self, data: bytes, max_size: int) -> None:
        self._data = data
        self._position = 0
        self._max_size = max_size
        self._opcode: int | None = None
        self._parts = b""

    def _take(self, count: int) -> bytes:
        taken = self._data[self._position : self._position + count]
        if len(taken) < count:
            raise _Incomplete
        self._position += count
        return taken

    def read_frame(self, expectation: Expectation) -> None:
        first, second = self._take(2)
        is_final, opcode = bool(first & 0x80), first & 0x0F
        size = second & 0x7F
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise _Broken(1002)
        is_control = opcode >= CLOSE
        if (is_control and (not is_final or size > 125)) or not second & 0x80:
            raise _Broken(1002)
        if size >= 126:
            shortest, bytes_of_size = (126, 2) if size == 126 else (2**16, 8)
            size = int.from_bytes(self._take(bytes_of_size), "big")
            if size < shortest or size >= 2**63:
                raise _Broken(1002)
        if not is_control and size > self._max_size:
            # A frame may be wrong in two ways.
            raise _Broken(1009, 1002) if first & 0x70 else _Broken(1009)
        mask = self._take(4)
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(self._take(size)))
        # A server may wait until all of a frame is there, and say what comes first to its mind.
        if first & 0x70:
            raise _Broken(1002, 1007) if opcode == CLOSE else _Broken(1002)
        if opcode == CLOSE:
            expectation.closed_with = _close_of(payload)
        elif opcode == PING:
            expectation.pings.append(payload)
        elif opcode != PONG:
            self._read_data(opcode, payload, is_final, expectation)

    def _read_data(
        self, opcode: int, payload: bytes, is_final: bool, expectation: Expectation
    ) -> None:
        if (opcode == CONTINUATION) != (self._opcode is not None):
            raise _Broken(1002)
        if opcode != CONTINUATION:
            self._opcode = opcode
        self._parts += payload
        errors = set()
        if len(self._parts) > self._max_size:
            errors.add(1009)
        if self._opcode == TEXT and not _begins_utf_8(self._parts, is_final):
            errors.add(1007)
        if errors:
            raise _Broken(*errors)
        if is_final:
            is_text, self._opcode = self._opcode == TEXT, None
            whole, self._parts = self._parts, b""
            expectation.messages.append(whole.decode() if is_text else whole)


def _begins_utf_8(data: bytes, is_final: bool) -> bool:
    """Whether `data` is UTF-8, or may become it."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return not is_final and error.reason == "unexpected end of data"
    return True


def _close_of(payload: bytes) -> tuple[int, str]:
    if not payload:
        return 1005, ""
    code = int.from_bytes(payload[:2], "big")
    errors = set()
    # Section 7.4, and IANA's registry.
    if len(payload) == 1 or not (
        3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
    ):
        errors.add(1002)
    try:
        reason = payload[2:].decode()
    except UnicodeDecodeError:
        errors.add(1007)
    if errors:
        raise _Broken(*errors)
    return code, reason


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    """The frames that a server has sent, as opcode and payload. Raises `AssertionError` for what
    none may send."""
    frames = []
    while data:
        first, size = data[0], data[1]
        assert first & 0x80, "a fragment"
        assert not first & 0x70, "a reserved bit"
        assert size < 128, "a masked frame"
        start = 2
        if size >= 126:
            start, shortest = (4, 126) if size == 126 else (10, 2**16)
            size = int.from_bytes(data[2:start], "big")
            assert size >= shortest, "a long size"
        opcode, payload = first & 0x0F, data[start : start + size]
        assert len(payload) == size, "half a frame"
        assert opcode in (TEXT, BINARY, CLOSE, PING, PONG), "an opcode"
        assert opcode < CLOSE or size <= 125, "a large control frame"
        frames.append((opcode, payload))
        data = data[start + size :]
    return frames
