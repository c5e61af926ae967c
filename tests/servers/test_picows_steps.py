"""The fast lane step by step: moments that real sockets and servers do not stop at."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.fuzz.connection import REQUEST, Connection
from tests.fuzz.model import frames_of
from tests.harness import RawClient

ACCEPT = {"type": "websocket.accept"}
DENIAL = {"type": "websocket.http.response.start", "status": 418, "headers": []}
frame_of = RawClient.frame_of


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class Manual:
    """A connection whose application does what the test says."""

    def __init__(self, loop, **options) -> None:
        self.loop = loop
        self.tasks = []
        self.is_over = asyncio.Event()

        async def application(connection):
            await connection.next()
            await self.is_over.wait()

        self.connection = Connection(loop, application, **options)
        self.connection.feed(REQUEST)
        self.connection.turn()
        self.transport = self.connection.transport
        self.protocol = self.connection.protocol

    def does(self, coroutine):
        """Begin something; its task."""
        task = self.loop.create_task(coroutine)
        self.connection.turn()
        return task

    def sends(self, message):
        return self.does(self.connection.send(message))

    def receives(self):
        return self.does(self.connection.next())

    def response(self) -> tuple[bytes, bytes]:
        head, _, rest = self.transport.sent.partition(b"\r\n\r\n")
        return head, rest

    def frames(self) -> list[tuple[int, bytes]]:
        return frames_of(self.response()[1])

    def close(self) -> None:
        self.is_over.set()
        self.transport.lose()
        self.connection.turn(8)
        assert not self.connection.state.tasks
        assert self.connection.errors == []


@pytest.fixture
def manual(loop):
    manual = Manual(loop)
    yield manual
    manual.close()


@pytest.fixture
def accepted(manual):
    manual.sends(ACCEPT).result()
    return manual


def test_an_accept_that_meets_a_transport_that_is_closing_is_an_oserror(manual):
    manual.transport._is_closing = True
    with pytest.raises(OSError):  # The specification asks for no more.
        manual.sends(ACCEPT).result()


@pytest.mark.parametrize(
    "message",
    [
        {**ACCEPT, "subprotocol": "two words"},
        {**ACCEPT, "headers": [(b"a", b"b\r\nc: d")]},
        {**ACCEPT, "headers": [(b"a b", b"c")]},
        {**DENIAL, "headers": [(b"a", b"b\0")]},
    ],
)
def test_what_no_header_can_carry_is_an_error_and_the_handshake_goes_on(manual, message):
    with pytest.raises(ValueError, match=r"cannot be sent|is no token"):
        manual.sends(message).result()
    manual.sends(ACCEPT).result()
    assert manual.response()[0].startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("status", "first"), [(418, b"HTTP/1.1 418 I'm a Teapot"), (499, b"HTTP/1.1 499 ")]
)
def test_a_response_in_one_piece_says_how_long_it_is(manual, status, first):
    manual.sends({**DENIAL, "status": status, "headers": [(b"Connection", b"keep-alive")]})
    manual.sends({"type": "websocket.http.response.body", "body": b"tea"}).result()
    head, body = manual.response()
    assert head.split(b"\r\n") == [first, b"connection: close", b"content-length: 3"]
    assert body == b"tea"


def test_a_response_that_says_itself_how_long_it_is_is_left_alone(manual):
    manual.sends({**DENIAL, "headers": [(b"Content-Length", b"3")]})
    manual.sends({"type": "websocket.http.response.body", "body": b"tea"}).result()
    assert manual.response()[0].lower().count(b"content-length: 3") == 1


@pytest.mark.parametrize("is_accepted", [True, False])
def test_an_application_that_is_cancelled_closes_with_1012(manual, is_accepted):
    if is_accepted:
        manual.sends(ACCEPT).result()
    [task] = manual.connection.state.tasks
    task.cancel()
    manual.connection.turn()
    if is_accepted:
        assert manual.frames() == [(8, b"\x03\xf4")]
    else:
        assert manual.response()[0].startswith(b"HTTP/1.1 503 ")


def test_a_stop_answers_a_handshake_with_503(manual):
    manual.protocol.shutdown()
    assert manual.response()[0].startswith(b"HTTP/1.1 503 ")
    with pytest.raises(OSError):
        manual.sends(ACCEPT).result()


def test_whoever_waits_to_send_hears_of_the_end(accepted):
    accepted.transport.protocol.pause_writing()
    waiting = [accepted.sends({"type": "websocket.send", "text": text}) for text in "ab"]
    assert not any(task.done() for task in waiting)
    accepted.transport.lose()
    accepted.connection.turn()
    for task in waiting:
        with pytest.raises(OSError):
            task.result()


def test_the_last_ping_of_many_is_answered_when_the_client_reads_again(accepted):
    accepted.transport.protocol.pause_writing()
    accepted.connection.feed(frame_of(9, b"first") + frame_of(9, b"last"))
    assert accepted.frames() == []
    accepted.transport.protocol.resume_writing()
    assert accepted.frames() == [(10, b"last")]


def test_no_pong_comes_after_a_close(accepted):
    accepted.transport.protocol.pause_writing()
    accepted.connection.feed(frame_of(9, b"ping"))
    accepted.sends({"type": "websocket.close"}).result()
    accepted.protocol.resume_writing()
    assert accepted.frames() == [(8, b"\x03\xe8")]


def test_a_message_for_a_reader_that_has_just_been_cancelled_waits_for_the_next(accepted):
    reader = accepted.receives()
    reader.cancel()
    accepted.connection.feed(frame_of(1, b"not lost"), turns=0)
    accepted.connection.turn()
    assert accepted.receives().result()["text"] == "not lost"


def test_a_message_for_a_cancelled_reader_goes_to_whoever_waits_by_then(accepted):
    reader = accepted.receives()
    other = accepted.loop.create_task(accepted.connection.next())
    accepted.connection.feed(frame_of(1, b"not lost"), turns=0)
    reader.cancel()
    accepted.connection.turn()
    assert other.done()
    assert other.result()["text"] == "not lost"


def test_reading_pauses_when_much_comes_before_the_accept_and_goes_on_with_it(manual):
    text = 2**16 * b"a"
    manual.connection.feed(frame_of(1, text))
    assert not manual.transport.is_reading
    manual.sends(ACCEPT)
    assert manual.transport.is_reading
    assert manual.receives().result() == {"type": "websocket.receive", "text": text.decode()}


def test_reading_pauses_while_messages_wait_and_goes_on_when_they_are_received(accepted):
    accepted.connection.feed(frame_of(1, b"a") + frame_of(1, b"b") + frame_of(1, b"c"))
    assert not accepted.transport.is_reading
    for text in "abc":
        assert accepted.receives().result()["text"] == text
    assert accepted.transport.is_reading


def test_nonsense_after_our_close_ends_the_connection(accepted):
    accepted.sends({"type": "websocket.close", "code": 4000}).result()
    accepted.connection.feed(b"\xff\xff")
    accepted.connection.turn()
    assert accepted.transport.is_lost
    assert accepted.frames() == [(8, b"\x0f\xa0")]


def test_a_code_that_no_close_frame_may_have_is_an_error_and_the_connection_goes_on(accepted):
    with pytest.raises(ValueError, match="1006 is no code that a close frame may have"):
        accepted.sends({"type": "websocket.close", "code": 1006}).result()
    accepted.sends({"type": "websocket.send", "text": "it goes on"}).result()
    assert accepted.frames() == [(1, b"it goes on")]


def test_a_long_reason_is_cut_between_two_characters(accepted):
    accepted.sends({"type": "websocket.close", "code": 4000, "reason": "xä" * 60}).result()
    assert accepted.frames() == [(8, b"\x0f\xa0" + ("xä" * 60).encode()[:123])]


def test_an_application_that_lets_the_end_pass_through_is_no_error(loop, caplog):
    async def application(connection):
        await connection.next()
        await connection.send(ACCEPT)
        while True:
            await connection.send({"type": "websocket.send", "text": "tick"})

    connection = Connection(loop, application)
    connection.feed(REQUEST + frame_of(8, b"\x0f\xa0"))
    connection.turn(8)
    assert connection.transport.is_lost
    assert not connection.state.tasks
    assert caplog.messages == []


def test_an_error_behind_a_close_frame_changes_nothing(accepted):
    accepted.connection.feed(frame_of(8, b"\x0f\xa0") + b"\xff\xff")
    accepted.connection.turn(8)
    assert accepted.frames() == [(8, b"\x0f\xa0")]


def masked(payload: bytes) -> bytes:
    """A close frame that is masked with more than zeros."""
    masked = bytes(byte ^ 0x5A for byte in payload)
    return bytes((0x88, 0x80 | len(payload))) + b"\x5a" * 4 + masked


@pytest.mark.parametrize("answer", [b"", b"\x03\xea", b"\x03\xeabecause", b"\x0f\xa0" + b"x" * 123])
@pytest.mark.parametrize(
    "wrong", [b"\xc1\x80\0\0\0\0", b"\x83\x80\0\0\0\0", b"\x82\xff" + bytes(12)]
)
def test_tcp_is_closed_at_once_when_the_client_answers_the_close_after_its_error(
    accepted, wrong, answer
):
    accepted.connection.feed(wrong + frame_of(1, b"on its way"))
    assert [payload[:2] for _, payload in accepted.frames()] == [b"\x03\xea"]
    accepted.connection.feed(frame_of(1, b"on its way, too"))
    data = masked(answer)
    for piece in (data[:3], data[3:-1]):
        accepted.connection.feed(piece)
        assert not accepted.transport.is_closing()
    accepted.connection.feed(data[-1:])
    assert accepted.transport.is_lost


@pytest.mark.parametrize(
    "data",
    [frame_of(8, b"\x03"), frame_of(8, b"\x03\xe7"), frame_of(9, b""), b"\x88\x80", bytes(500)],
)
def test_what_is_no_close_frame_does_not_end_tcp_after_an_error(accepted, data):
    accepted.connection.feed(b"\xff\xff")
    accepted.connection.feed(data)
    assert not accepted.transport.is_closing()


@pytest.mark.parametrize("payload", [b"\x03", b"\x03\xe7", b"\x13\x88", b"\x03\xe8\xc3"])
def test_tcp_is_closed_at_once_after_a_broken_close_frame(accepted, payload):
    accepted.connection.feed(frame_of(8, payload))
    accepted.connection.turn(8)
    assert [payload[:2] for _, payload in accepted.frames()] in ([b"\x03\xea"], [b"\x03\xef"])
    assert accepted.transport.is_lost


def test_what_a_client_sends_while_it_is_refused_is_dropped(manual):
    manual.sends(DENIAL).result()
    manual.connection.feed(masked(b""))
    assert not manual.transport.is_closing()
    manual.sends({"type": "websocket.http.response.body", "body": b"tea"}).result()
    assert manual.response()[1] == b"tea"


def test_messages_to_a_transport_that_is_closing_are_an_oserror_in_the_end(accepted):
    accepted.transport._is_closing = True
    message = {"type": "websocket.send", "text": "x"}
    for _ in range(64):
        accepted.sends(message).result()
    with pytest.raises(OSError):  # Else they would be dropped for ever, and nobody would know.
        accepted.sends(message).result()


def test_an_error_that_is_found_while_the_buffer_grows_is_an_error(loop):
    manual = Manual(loop, max_size=100_000)
    manual.sends(ACCEPT).result()
    manual.connection.feed(frame_of(2, bytes(50_000)) + b"\xff\xff", turns=0)
    manual.connection.turn(8)
    assert [payload[:2] for opcode, payload in manual.frames() if opcode == 8] == [b"\x03\xea"]
    manual.close()


@pytest.mark.parametrize("has_turn", [True, False])
def test_a_large_buffer_with_half_a_frame_in_it_is_kept(loop, has_turn):
    manual = Manual(loop, max_size=100_000)
    manual.sends(ACCEPT).result()
    last = frame_of(1, b"in two halves")
    reader = manual.receives()  # Else reading is paused.
    manual.connection.feed(frame_of(2, bytes(50_000)), turns=has_turn)
    manual.connection.feed(last[:9], turns=0)
    manual.loop.call_soon(manual.protocol._shrink)  # As if its time had come.
    manual.connection.turn()
    manual.connection.feed(last[9:])
    assert reader.result()["bytes"] == bytes(50_000)
    assert manual.receives().result()["text"] == "in two halves"
    manual.close()


def test_a_large_text_that_is_no_utf_8_is_an_error(loop):
    manual = Manual(loop, max_size=100_000)
    manual.sends(ACCEPT).result()
    manual.connection.feed(frame_of(1, b"\xff" * 50_000), turns=0)
    manual.connection.turn(8)
    assert [payload[:2] for _, payload in manual.frames()] == [b"\x03\xef"]
    manual.close()


def test_an_application_may_be_any_awaitable(loop):
    class Application:
        def __init__(self, receive, send):
            self.receive, self.send = receive, send

        def __await__(self):
            yield from self.receive().__await__()
            yield from self.send(ACCEPT).__await__()

    connection = Connection(loop, None)
    connection.protocol._app = lambda _, receive, send: Application(receive, send)
    connection.feed(REQUEST)
    connection.turn(8)
    assert frames_of(connection.transport.sent.partition(b"\r\n\r\n")[2]) == [(8, b"\x03\xe8")]
    connection.transport.lose()
    connection.turn()


def test_a_defect_of_ours_is_logged(accepted, caplog, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(type(accepted.protocol), "_enqueue", fail)
    with caplog.at_level(logging.ERROR, "ws_support.servers"):
        accepted.connection.feed(frame_of(1, b"text"))
        accepted.connection.turn()
    assert "ZeroDivisionError" in caplog.text
    assert accepted.frames()[-1][1][:2] == b"\x03\xf3"  # 1011
