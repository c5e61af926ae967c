"""Whatever clients send: a lawful answer or an end, no traceback, and nothing that stays."""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.harness import examples
from tests.hubs.clients import (
    ORIGIN,
    Parser,
    Problems,
    Request,
    Web,
    check_nothing_is_left,
    router,
    shake,
    until,
)
from tests.hubs.recording import Recording, new_hub, open_gates
from ws_support._connection.registry import open_connections
from ws_support._hubs.messages import (
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Ping,
    StreamInvocation,
    StreamItem,
)
from ws_support._hubs.protocols import PROTOCOLS
from ws_support.exceptions import ConnectionClosed
from ws_support.testing import Peer

fuzzed = settings(
    max_examples=examples(30),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

texts = st.one_of(st.sampled_from(["", "1", "2", "7"]), st.text(max_size=5))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=5),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=3)
    ),
    max_leaves=5,
)
targets = st.sampled_from(
    [
        "echo",
        "Echo",
        "counter",
        "join",
        "endless",
        "on_connected",
        "wait",
        "who",
        "large",
        "_connection",
        "clients",
        "",
        "x" * 300,
        "abort",
    ]
)
arguments = st.lists(values, max_size=2)
streams = st.lists(texts, max_size=2).map(tuple)
messages = st.one_of(
    st.builds(Invocation, targets, arguments, st.none() | texts, streams),
    st.builds(StreamInvocation, targets, arguments, texts, streams),
    st.builds(StreamItem, texts, values),
    st.builds(Completion, texts, values, st.none() | st.text(max_size=5), st.booleans()),
    st.builds(CancelInvocation, texts),
    st.builds(Ping),
    st.builds(Close, st.none() | st.text(max_size=5)),
)
objects = st.dictionaries(
    st.sampled_from(
        [
            "type",
            "target",
            "arguments",
            "invocationId",
            "streamIds",
            "item",
            "result",
            "error",
            "headers",
            "sequenceId",
            "x",
        ]
    ),
    st.integers(0, 10) | values,
    max_size=5,
)


def frames(protocol: str) -> st.SearchStrategy[bytes]:
    lawful = messages.map(PROTOCOLS[protocol].write)
    if protocol == "json":
        other = objects.map(lambda each: msgspec.json.encode(each) + b"\x1e")
    else:
        body = st.lists(st.integers(0, 10) | values, max_size=6).map(msgspec.msgpack.encode)
        other = body.filter(lambda each: len(each) < 128).map(lambda b: bytes((len(b),)) + b)
    return st.one_of(lawful, lawful, other, st.binary(max_size=20))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(each % (len(data) + 1) for each in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
@fuzzed
@given(data=st.data())
def test_any_bytes_get_a_lawful_answer_or_an_end(protocol, data):
    pieces = data.draw(st.lists(frames(protocol), max_size=8))
    start = data.draw(st.sampled_from([shake(protocol)] * 5 + [b"", b"{}\x1e", b"\x1e", b"\xff"]))
    whole = start + b"".join(pieces)
    places = data.draw(st.lists(st.integers(0, 5000), max_size=6))
    asyncio.run(send_all(protocol, cut(whole, places)))


async def watched(run: Any) -> None:
    """Run a client, and check that it leaves no traceback, no task and no connection."""
    problems = Problems()
    loggers = [logging.getLogger(name) for name in ("ws_support", "asyncio")]
    for each in loggers:
        each.addHandler(problems)
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: problems.found.append(str(context))
    )
    try:
        await run
        open_gates()
        await check_nothing_is_left({asyncio.current_task()})  # type: ignore[arg-type]
        assert not problems.found
    finally:
        open_connections._connections.clear()
        for each in loggers:
            each.removeHandler(problems)


class Modest(Recording):
    """Its methods never raise, so each error in the log is one of the server."""

    async def large(self, size: Any) -> str:
        return "x" * 5000


async def send_all(protocol: str, pieces: list[bytes]) -> None:
    hub = new_hub(
        Modest,
        TRANSPORT_MAX_BUFFER_SIZE=2000,
        APPLICATION_MAX_BUFFER_SIZE=500,
        MAXIMUM_RECEIVE_MESSAGE_SIZE=400,
        MAXIMUM_STREAMS_PER_CLIENT=3,
    )

    async def run() -> None:
        async with Peer(router(hub), "/hub", origin=ORIGIN) as peer:
            with suppress(ConnectionClosed):
                for piece in pieces:
                    await peer.send(piece)
                    await asyncio.sleep(0)
                connections = [
                    each for each in open_connections._connections if hasattr(each, "_outbox_size")
                ]
                for each in connections:
                    assert each._unread_size <= 500 + max(map(len, pieces), default=0)
                    assert each._outbox_size <= 2000 + 20 * 5100
            peer._leave(1000, "")
            await until(lambda: peer._task.done())
            parser = Parser(protocol)
            sent = b""
            for message in peer._output:
                if message["type"] == "websocket.send":
                    text = message.get("text")
                    sent += message["bytes"] if text is None else text.encode()
            if sent:
                parser.feed(sent)
                assert parser.messages[0] == {} or list(parser.messages[0]) == ["error"]
                closes = [each for each in parser.messages if isinstance(each, Close)]
                assert len(closes) <= 1
                assert not closes or parser.messages[-1] == closes[0]
        started = hub.events.count("connected")
        assert started <= 1
        assert sum(str(each).startswith("disconnected") for each in hub.events) == started

    await watched(run())


# Requests

names = st.sampled_from(
    ["host", "origin", "accept", "content-type", "cookie", "authorization", "x", "content-length"]
)
header_values = st.one_of(
    st.sampled_from([b"testserver", b"http://testserver", b"text/event-stream", b"*/*", b"null"]),
    st.binary(max_size=20),
)
queries = st.one_of(
    st.sampled_from([b"", b"negotiateVersion=1", b"id=TOKEN", b"ID=TOKEN&x=1", b"id=TOKEN&id=2"]),
    st.binary(max_size=40),
)


@fuzzed
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(["GET", "POST", "POST", "DELETE", "OPTIONS", "PUT", "HEAD", "X"]),
            st.sampled_from(["/hub", "/hub", "/hub", "/hub/negotiate", "/hub/", "/", "/hub/x"]),
            queries,
            st.lists(st.tuples(names, header_values), max_size=4),
            st.booleans(),
            st.one_of(st.sampled_from([shake(), shake("messagepack"), b""]), frames("json")),
            st.booleans(),
        ),
        max_size=8,
    )
)
@example(
    requests=[
        ("GET", "/hub", b"id=TOKEN", [], True, b"", False),
        ("GET", "/hub", b"id=TOKEN", [], True, b"", False),
        ("POST", "/hub", b"id=TOKEN", [], True, shake(), False),
    ]
)
def test_any_request_is_answered(requests):
    asyncio.run(request_all(requests))


async def request_all(requests: list[Any]) -> None:
    hub = new_hub(
        Modest,
        POLL_TIMEOUT=0.02,
        DISCONNECT_TIMEOUT=0.3,
        HANDSHAKE_TIMEOUT=0.3,
        CLOSE_TIMEOUT=0.05,
        APPLICATION_MAX_BUFFER_SIZE=100,
    )

    async def run() -> None:
        web = Web(router(hub))
        token = (await web.token()).encode()
        if True:
            tasks = []
            for method, path, query, headers, is_usual, body, leaves in requests:
                request = Request(web.application, method, path, None)
                request.scope["query_string"] = query.replace(b"TOKEN", token)
                lines = [(name.encode(), value) for name, value in headers]
                usual = [(b"host", b"testserver"), (b"origin", ORIGIN.encode())]
                request.scope["headers"] = [*(usual if is_usual else ()), *lines]
                tasks.append(asyncio.ensure_future(answer(request, body, leaves)))
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)
        await until(lambda: not open_connections)

    await watched(run())


async def answer(request: Request, body: bytes, leaves: bool) -> None:
    async with request:
        await request.upload(body, more_body=leaves)
        if leaves:
            await request.leave()
            return
        start = await request.receive_output()
        assert start["type"] == "http.response.start"
        assert start["status"] in (200, 204, 202, 400, 401, 403, 404, 405, 409, 418, 429)
        while True:
            try:
                message = await request.receive_output()
            except EOFError:
                return
            assert message["type"] == "http.response.body"
            if not message.get("more_body"):
                return
