"""Hub messages as bytes, in both protocols, beside those of Microsoft's client."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import msgspec
import pydantic
import pytest
from django.db import models
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import example, given
from hypothesis import strategies as st

from tests.conftest import need_npm_package, need_program
from tests.harness import ROOT
from ws_support._hubs.messages import (
    Ack,
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Message,
    Ping,
    Sequence,
    StreamInvocation,
    StreamItem,
)
from ws_support._hubs.protocols import PROTOCOLS
from ws_support._hubs.protocols.base import (
    HubProtocol,
    InvalidValue,
    MessageTooLarge,
    ProtocolError,
    WrongNumber,
)
from ws_support._hubs.protocols.handshake import (
    HandshakeRefused,
    choose,
    read_request,
    write_response,
)

MOST = 32_768


@pytest.fixture(params=PROTOCOLS)
def protocol(request) -> HubProtocol:
    return PROTOCOLS[request.param]


def parsed(protocol: HubProtocol, data: bytes, most: int = MOST) -> list[Message | None]:
    return [protocol.parse(frame) for frame in protocol.splitter(most).feed(data)]


def decoded(protocol: HubProtocol, message: Message) -> Message:
    """The message with its arguments, its item or its result as objects."""
    match message:
        case Invocation() | StreamInvocation():
            arguments = protocol.value(message.arguments, list[Any])
            return msgspec.structs.replace(message, arguments=arguments)
        case StreamItem():
            return StreamItem(message.id, protocol.value(message.item, Any))
        case Completion(has_result=True):
            return msgspec.structs.replace(message, result=protocol.value(message.result, Any))
    return message


# What goes over the wire

WRITTEN = [
    (Invocation("Send", ["a", 1]), '{"type":1,"target":"Send","arguments":["a",1]}',
     "96 01 80 c0 a4 53656e64 92 a161 01 90"),
    (Invocation("Up", [], "7", ("8",)),
     '{"type":1,"target":"Up","arguments":[],"invocationId":"7","streamIds":["8"]}',
     "96 01 80 a137 a2 5570 90 91 a138"),
    (StreamInvocation("Count", [3], "0"),
     '{"type":4,"target":"Count","arguments":[3],"invocationId":"0"}',
     "96 04 80 a130 a5 436f756e74 91 03 90"),
    (StreamItem("0", None), '{"type":2,"invocationId":"0","item":null}', "94 02 80 a130 c0"),
    (Completion("0"), '{"type":3,"invocationId":"0"}', "94 03 80 a130 02"),
    (Completion("0", None, has_result=True), '{"type":3,"invocationId":"0","result":null}',
     "95 03 80 a130 03 c0"),
    (Completion("0", error="no"), '{"type":3,"invocationId":"0","error":"no"}',
     "95 03 80 a130 01 a26e6f"),
    (CancelInvocation("0"), '{"type":5,"invocationId":"0"}', "93 05 80 a130"),
    (Ping(), '{"type":6}', "91 06"),
    (Close(), '{"type":7}', "93 07 c0 c2"),
    (Close("no", True), '{"type":7,"error":"no","allowReconnect":true}', "93 07 a26e6f c3"),
    (Ack(5), '{"type":8,"sequenceId":5}', "92 08 05"),
    (Sequence(6), '{"type":9,"sequenceId":6}', "92 09 06"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "text", "body"), WRITTEN)
def test_each_message_is_written_as_the_specification_says(message, text, body):
    body = bytes.fromhex(body)
    assert PROTOCOLS["json"].write(message) == text.encode() + b"\x1e"
    assert PROTOCOLS["messagepack"].write(message) == bytes([len(body)]) + body


@pytest.mark.parametrize("message", [each[0] for each in WRITTEN])
def test_each_message_is_read_as_it_was_written(protocol, message):
    [read] = parsed(protocol, protocol.write(message))
    assert decoded(protocol, read) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"arguments":[1],"target":"T","type":1}', Invocation("T", [1])),
        ('{"type":1,"target":"T","arguments":[],"invocationId":""}', Invocation("T", [])),
        ('{"type":1,"target":"T","arguments":[],"streamIds":null,"headers":{"a":"b"},"new":[{}]}',
         Invocation("T", [])),
        (' {"type": 7, "error": null} ', Close()),
        ('{"type":6,"headers":null}', Ping()),
        ('{"type":10}', None),
        ('{"type":-1,"target":"T"}', None),
    ],
)  # fmt: skip
def test_json_is_read_in_every_lawful_form(text, message):
    protocol = PROTOCOLS["json"]
    [read] = parsed(protocol, text.encode() + b"\x1e")
    assert (read and decoded(protocol, read)) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("95 01 80 c0 a154 91 01", Invocation("T", [1])),  # Microsoft's, without streams.
        ("96 01 80 a0 a154 90 90", Invocation("T", [])),
        ("97 01 81 a161 a162 c0 a154 90 90 c0", Invocation("T", [])),
        ("95 04 80 a130 a154 90", StreamInvocation("T", [], "0")),
        ("92 07 c0", Close()),  # Microsoft's.
        ("91 0a", None),
        ("92 ff c0", None),
    ],
)
def test_messagepack_is_read_in_every_lawful_form(body, message):
    body = bytes.fromhex(body)
    protocol = PROTOCOLS["messagepack"]
    [read] = parsed(protocol, bytes([len(body)]) + body)
    assert (read and decoded(protocol, read)) == message


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "[]", "6", "null", '"6"', "{}", '{"type":"6"}', '{"type":6.5}', '{"type":null}',
        '{"type":6}{"type":6}', '{"type":1,"arguments":[]}', '{"type":1,"target":"T"}',
        '{"type":1,"target":1,"arguments":[]}', '{"type":1,"target":"T","arguments":{}}',
        '{"type":1,"target":"T","arguments":[],"invocationId":1}',
        '{"type":1,"target":"T","arguments":[],"invocationId":null}',
        '{"type":1,"target":"T","arguments":[],"streamIds":[1]}',
        '{"type":1,"target":"T","arguments":[],"headers":[]}',
        '{"type":2,"invocationId":"0"}', '{"type":2,"item":1}', '{"type":3}',
        '{"type":3,"invocationId":"0","result":1,"error":"no"}',
        '{"type":4,"target":"T","arguments":[]}', '{"type":5}', '{"type":8}',
        '{"type":9,"sequenceId":"1"}', '{"type":6,"error":' + "[" * 20_000,
        '{"type":1,"target":"T","arguments":' + "[" * 12_000 + "]" * 12_000 + "}",
    ],
)  # fmt: skip
def test_broken_json_ends_the_connection(text):
    with pytest.raises(ProtocolError):
        parsed(PROTOCOLS["json"], text.encode() + b"\x1e")


@pytest.mark.parametrize(
    "body",
    [
        "c0", "06", "80", "90", "91 c0", "91 a136", "91 06 06", "91", "92 06",
        "94 01 80 c0 a154", "96 01 c0 c0 a154 90 90", "96 01 80 01 a154 90 90",
        "96 01 80 c0 01 90 90", "96 01 80 c0 a154 80 90", "96 01 80 c0 a154 90 91 01",
        "96 04 80 c0 a154 90 90", "93 02 80 a130", "94 02 80 01 c0", "94 03 80 a130 04",
        "94 03 80 a130 03", "95 03 80 a130 01 01", "92 05 80", "91 07", "93 07 01 c2",
        "93 07 c0 01", "91 08", "92 09 a131", "91" * 10_000,
        "95 01 80 c0 a1ff 90", "95 01 80 c0 a154" + "91" * 10_000,
    ],
)  # fmt: skip
def test_broken_messagepack_ends_the_connection(body):
    body = bytes.fromhex(body)
    size = len(body)
    head = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    with pytest.raises(ProtocolError):
        parsed(PROTOCOLS["messagepack"], head + body)


@pytest.mark.parametrize("head", ["00", "8000", "ffffffff0f", "8080808080", "ffffffff7f"])
def test_a_length_that_is_none_ends_the_connection(head):
    with pytest.raises(ProtocolError):
        list(PROTOCOLS["messagepack"].splitter(2**40).feed(bytes.fromhex(head)))


# Pieces and sizes

ids = st.text(min_size=1, max_size=5)
# Microsoft's MessagePack takes every other key.
keys = st.text().filter(lambda key: key != "__proto__")
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False,
    allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
arguments = st.lists(values, max_size=3)
stream_ids = st.lists(ids, max_size=2).map(tuple)
some_messages = st.one_of(
    st.builds(Invocation, st.text(), arguments, st.none() | ids, stream_ids),
    st.builds(StreamInvocation, st.text(), arguments, ids, stream_ids),
    st.builds(StreamItem, ids, values),
    st.builds(Completion, ids),
    st.builds(lambda name, result: Completion(name, result, has_result=True), ids, values),
    st.builds(lambda name, error: Completion(name, error=error), ids, st.text()),
    st.builds(CancelInvocation, ids),
    st.just(Ping()),
    st.builds(Close, st.none() | st.text(), st.booleans()),
    st.builds(Ack, st.integers(0, 2**53)),
    st.builds(Sequence, st.integers(0, 2**53)),
)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = 0
    for cut in sorted(cut % (len(data) + 1) for cut in cuts):
        yield data[at:cut]
        at = max(at, cut)
    yield data[at:]


@pytest.mark.parametrize("name", PROTOCOLS)
@given(messages=st.lists(some_messages, max_size=5), cuts=st.lists(st.integers(0), max_size=8))
def test_messages_are_read_however_their_bytes_are_cut(name, messages, cuts):
    protocol = PROTOCOLS[name]
    data = b"".join(map(protocol.write, messages))
    splitter = protocol.splitter(len(data) + 1)
    read = [
        decoded(protocol, protocol.parse(frame))
        for piece in pieces(data, cuts)
        for frame in splitter.feed(piece)
    ]
    assert read == messages
    assert splitter.is_empty()


@pytest.mark.parametrize("name", PROTOCOLS)
@given(data=st.lists(st.binary(max_size=30) | some_messages, max_size=6))
def test_whatever_comes_is_a_message_or_a_protocol_error(name, data):
    protocol = PROTOCOLS[name]
    splitter = protocol.splitter(100)
    with suppress(ProtocolError):
        for each in data:
            piece = each if isinstance(each, bytes) else protocol.write(each)
            for frame in splitter.feed(piece):
                message = protocol.parse(frame)
                if isinstance(message, Invocation | StreamInvocation):
                    convert(protocol, message)
            begun = splitter.take()
            assert len(begun) <= 100
            list(splitter.feed(begun))


def convert(protocol: HubProtocol, message: Invocation | StreamInvocation) -> None:
    for type_ in (int, str, list[bytes], datetime, Point):
        with suppress(InvalidValue):
            protocol.arguments(message.arguments, tuple[type_], 1)


@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_a_message_has_at_most_so_many_bytes_with_its_framing(protocol, step):
    fits = protocol.write(StreamItem("0", "x" * 200))
    for most, is_read in ((len(fits), True), (len(fits) - 1, False)):
        splitter = protocol.splitter(most)
        frames = []
        try:
            for at in range(0, len(fits), step):
                frames += splitter.feed(fits[at : at + step])
        except MessageTooLarge as error:
            assert f"size of {most}B was exceeded" in str(error)
            assert not is_read
        else:
            assert (len(frames), is_read) == (1, True)


def test_a_message_without_end_is_refused_before_it_is_kept(protocol):
    endless = b"x" * 50 if not protocol.is_binary else b"\xe4\x00" + b"x" * 48
    with pytest.raises(MessageTooLarge):
        list(protocol.splitter(49).feed(endless))


def test_many_small_messages_may_be_larger_than_one_may_be(protocol):
    assert parsed(protocol, protocol.write(Ping()) * 1000, most=20) == [Ping()] * 1000


def test_messages_before_a_broken_one_are_read(protocol):
    frames = protocol.splitter(20).feed(protocol.write(Ping()) + b"\x7f" + b"x" * 90)
    assert protocol.parse(next(frames)) == Ping()
    with pytest.raises(MessageTooLarge):
        next(frames)


def test_half_a_message_can_be_taken_back(protocol):
    splitter = protocol.splitter(100)
    whole = protocol.write(Ping())
    assert list(splitter.feed(whole[:2])) == []
    assert not splitter.is_empty()
    assert splitter.take() == whole[:2]
    assert splitter.is_empty()
    assert [protocol.parse(frame) for frame in splitter.feed(whole)] == [Ping()]


# Arguments, items and results


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float = 0.0


TYPED = [
    (5, int), ("a", str), (None, int | None), (Point(1, 2.0), Point), (Colour.RED, Colour),
    (UUID(int=5), UUID), (Decimal("1.5"), Decimal), (b"\x00\xff", bytes), ([1], list[int]),
    ({"a": [Point(1)]}, dict[str, list[Point]]), ("b", Literal["a", "b"]), ({1, 2}, set[int]),
    (datetime(2026, 11, 27, 12, tzinfo=timezone.utc), datetime),
]  # fmt: skip


@pytest.mark.parametrize(("value", "type_"), TYPED)
def test_arguments_are_converted_to_the_types_of_their_parameters(protocol, value, type_):
    [read] = parsed(protocol, protocol.write(Invocation("T", [value, value])))
    assert protocol.arguments(read.arguments, tuple[type_, type_], 2) == (value, value)
    [item] = parsed(protocol, protocol.write(StreamItem("0", value)))
    assert protocol.value(item.item, type_) == value


@pytest.mark.parametrize(("value", "type_"), [("5", int), (5, str), ({}, Point), ("x", UUID)])
def test_an_argument_of_another_type_is_refused_and_named(protocol, value, type_):
    [read] = parsed(protocol, protocol.write(Invocation("T", [value])))
    with pytest.raises(InvalidValue):
        protocol.arguments(read.arguments, tuple[type_], 1)


def test_the_number_of_arguments_has_to_be_right(protocol):
    [read] = parsed(protocol, protocol.write(Invocation("T", [1])))
    expected = "Invocation provides 1 argument.s. but target expects 2."
    with pytest.raises(WrongNumber, match=expected):
        protocol.arguments(read.arguments, tuple[int, int], 2)


def test_lazy_texts_are_sent_as_text(protocol):
    [read] = parsed(protocol, protocol.write(StreamItem("0", gettext_lazy("Yes"))))
    assert protocol.value(read.item, str) == "Yes"


class Place(pydantic.BaseModel):
    name: str
    at: datetime


def test_models_of_pydantic_are_sent_and_checked(protocol):
    place = Place(name="Ulm", at=datetime(2026, 11, 27, tzinfo=timezone.utc))
    [read] = parsed(protocol, protocol.write(Invocation("T", [place, {"name": "Ulm"}])))
    assert protocol.arguments(read.arguments, tuple[Place, dict], 2) == (place, {"name": "Ulm"})
    with pytest.raises(InvalidValue, match="at"):
        protocol.arguments(read.arguments, tuple[Place, Place], 2)


def test_a_type_that_nothing_can_be_converted_to_is_named(protocol):
    [read] = parsed(protocol, protocol.write(StreamItem("0", 1)))
    with pytest.raises(InvalidValue, match="object of type Plain"):
        protocol.value(read.item, Plain)


class Plain:
    pass


def endless() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize(
    "value", [object(), endless(), "\ud800"], ids=["object", "endless", "surrogate"]
)
def test_what_cannot_be_sent_is_an_error_of_whoever_sends_it(protocol, value):
    with pytest.raises(InvalidValue):
        protocol.write(StreamItem("0", value))


class Row(models.Model):  # noqa: DJ008
    class Meta:
        app_label = "tests"


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (Row(), "type Row: send its fields, as a dictionary or a dataclass"),
        (models.QuerySet(Row), "type QuerySet: send a list"),
    ],
    ids=["model", "queryset"],
)
def test_the_error_for_a_value_of_the_orm_says_what_to_send(protocol, value, advice):
    with pytest.raises(InvalidValue, match=advice):
        protocol.write(StreamItem("0", value))


# The handshake


@pytest.mark.parametrize("name", ["json", "JSON", "messagepack", "MessagePack"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_handshake_chooses_a_protocol(name, version):
    frame = json.dumps({"protocol": name, "version": version, "new": 1}).encode()
    request = read_request(frame)
    assert choose(request, takes_binary=True).name == name.lower()
    assert request.version == version


@pytest.mark.parametrize(
    ("name", "version", "error"),
    [
        ("xml", 1, "The protocol 'xml' is not supported."),
        ("json", 9, "The server does not support version 9 of the 'json' protocol."),
        ("messagepack", 1, "Cannot use the 'messagepack' protocol on the current transport."
         " The transport does not support 'Binary' transfer format."),
    ],
)  # fmt: skip
def test_a_handshake_that_is_refused_says_why(name, version, error):
    request = read_request(json.dumps({"protocol": name, "version": version}).encode())
    with pytest.raises(HandshakeRefused) as refused:
        choose(request, takes_binary=False)
    assert str(refused.value) == error
    assert json.loads(write_response(str(refused.value))[:-1]) == {"error": error}


@pytest.mark.parametrize(
    "frame",
    [b"", b"[]", b"{}", b'{"protocol":"json"}', b'{"version":1}', b'{"protocol":1}', b"\xff"],
)
def test_a_broken_handshake_is_a_protocol_error(frame):
    with pytest.raises(ProtocolError):
        read_request(frame)


def test_a_handshake_that_succeeds_is_answered_with_an_empty_object():
    assert write_response() == b"{}\x1e"


# Microsoft's client

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Ask Microsoft's own implementation of the protocols."""
    for package in ("@microsoft/signalr", "@microsoft/signalr-protocol-msgpack"):
        need_npm_package(package)
    with subprocess.Popen(
        [need_program("node"), "protocols.js"],
        cwd=ROOT / "tests" / "client",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as node:

        def ask(protocol: HubProtocol, **question: Any) -> Any:
            node.stdin.write(json.dumps({"protocol": protocol.name} | question) + "\n")
            node.stdin.flush()
            answer = json.loads(node.stdout.readline())
            assert "error" not in answer, (question, answer)
            return answer["value"]

        yield ask
        node.stdin.close()
        node.wait(30)


def in_javascript(message: Message) -> dict[str, Any]:
    """The message as Microsoft's client has it."""
    match message:
        case Invocation(target, arguments, id, stream_ids):
            found = {"type": 1, "target": target, "arguments": arguments}
            return found | ({"invocationId": id} if id else {}) | _streams(stream_ids)
        case StreamInvocation(target, arguments, id, stream_ids):
            found = {"type": 4, "target": target, "arguments": arguments, "invocationId": id}
            return found | _streams(stream_ids)
        case StreamItem(id, item):
            return {"type": 2, "invocationId": id, "item": item}
        case Completion(id, result, error, has_result):
            found = {"type": 3, "invocationId": id}
            return found | ({"error": error} if error else {"result": result} if has_result else {})
        case CancelInvocation(id):
            return {"type": 5, "invocationId": id}
        case Close(error, allow_reconnect):
            found = {"error": error} if error else {}
            return {"type": 7} | found | ({"allowReconnect": True} if allow_reconnect else {})
        case Ack(sequence_id):
            return {"type": 8, "sequenceId": sequence_id}
        case Sequence(sequence_id):
            return {"type": 9, "sequenceId": sequence_id}
    return {"type": 6}


def _streams(stream_ids: tuple[str, ...]) -> dict[str, Any]:
    return {"streamIds": list(stream_ids)} if stream_ids else {}


MESSAGES = [
    *(each[0] for each in WRITTEN),
    Invocation("Grüße 🎉", [{"a": [1, -1, 1.5, None, True, ""]}, [[]], 2**53, "\x1e\x00"], "9"),
    StreamItem("long", "x" * 70_000),
    Completion("0", {"nested": {"deep": [1, 2, {"er": "!"}]}}, has_result=True),
]


@pytest.mark.parametrize(
    "message",
    # It is no server: it ignores these types, and streams that it would be sent.
    [
        each
        for each in MESSAGES
        if not isinstance(each, StreamInvocation | CancelInvocation)
        and not getattr(each, "stream_ids", ())
    ],
)
def test_microsoft_s_client_reads_what_is_written(protocol, ask, message):
    said = ask(protocol, parse=base64.b64encode(protocol.write(message) * 2).decode())
    assert len(said) == 2
    for each in said:
        for name in ("headers", "streamIds", "error", "allowReconnect"):
            if not each.get(name):  # What its MessagePack always has.
                each.pop(name, None)
        assert each == in_javascript(message)


@pytest.mark.parametrize(
    "message", [each for each in MESSAGES if not isinstance(each, Close) or each == Close()]
)
def test_what_microsoft_s_client_writes_is_read(protocol, ask, message):
    data = base64.b64decode(ask(protocol, write=in_javascript(message)))
    [read] = parsed(protocol, data, most=10**6)
    assert decoded(protocol, read) == message


@given(value=values)
@example(value={"": [2**53]})
def test_microsoft_s_client_reads_every_value(ask, value):
    for protocol in PROTOCOLS.values():
        data = protocol.write(StreamItem("0", value))
        [said] = ask(protocol, parse=base64.b64encode(data).decode())
        assert as_doubles(said["item"]) == as_doubles(value)


def as_doubles(value: Any) -> Any:
    """The value with the numbers of JavaScript."""
    return json.loads(json.dumps(value), parse_int=float)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_subclasses_of_plain_types_are_sent_as_those(protocol):
    class Whole(int):
        pass

    class Real(float):
        pass

    values = [mark_safe("<b>"), Whole(3), Real(1.5)]
    plain = ["<b>", 3, 1.5]
    assert protocol.write(Invocation("Told", values)) == protocol.write(Invocation("Told", plain))
