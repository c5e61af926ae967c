"""Requests that another process answers: here between two event loops' worth of objects."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from ws_support._connection.registry import open_connections
from ws_support._hubs import forwarding
from ws_support._hubs.forwarding import Forwarding
from ws_support._hubs.letters import Kind, Letter, encode, read_letter
from ws_support.exceptions import ClientGone
from ws_support.testing import BOUND

SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/hub",
    "query_string": b"id=1",
    "headers": [(b"a", b"b")],
    "extensions": {"websocket.http.response": {}, "other": {}},
    "state": object(),
}


class Network:
    """Two processes, "here" and "there". What goes between them are the letters' bytes."""

    def __init__(self, serve: Callable[..., Any]) -> None:
        self.ends = {
            name: Forwarding(name, self.open, self.close, self.post, serve)
            for name in ("here", "there")
        }
        self.is_cut = False
        self.letters: list[Letter] = []
        self.refuses: Kind | None = None
        self.drops: Kind | None = None

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def post(self, worker: str, letter: Letter) -> None:
        await asyncio.sleep(0)
        if self.is_cut or letter.kind is self.drops:
            return
        if letter.kind is self.refuses:
            raise RuntimeError("the broker")
        again = read_letter(encode(letter))
        self.letters.append(again)
        self.ends[worker].take(again)

    async def forward(self, client: Client, scope: Any = SCOPE) -> bool:
        first = await client.receive()
        request = self.ends["here"].forward("there", scope, first, client.receive, client.send)
        return await asyncio.wait_for(request, BOUND)

    @property
    def is_idle(self) -> bool:
        return all(each.is_idle for each in self.ends.values())


class Client:
    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages) or [{"type": "http.request", "body": b""}]
        self.heard: list[dict[str, Any]] = []
        self.has_left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self.messages:
            return self.messages.pop(0)
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.heard.append(message)


async def until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + BOUND
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
async def nothing_stays():
    before = asyncio.all_tasks()
    yield
    for _ in range(200):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            break
        await asyncio.sleep(0.01)
    assert left == set()
    gc.collect()


async def test_a_request_is_answered_elsewhere():
    scopes = []

    async def serve(scope, receive, send):
        scopes.append(scope)
        bodies = [await receive(), await receive()]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        body = b"".join(each["body"] for each in bodies)
        await send({"type": "http.response.body", "body": body})

    network = Network(serve)
    client = Client(
        {"type": "http.request", "body": b"one ", "more_body": True},
        {"type": "http.request", "body": b"two", "more_body": False},
    )
    assert await network.forward(client)
    assert client.heard == [
        {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]},
        {"type": "http.response.body", "body": b"one two"},
    ]
    [scope] = scopes
    assert scope["path"] == "/hub"
    assert scope["headers"] == [(b"a", b"b")]
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert "state" not in scope
    await until(lambda: network.is_idle)
    kinds = [each.kind for each in network.letters]
    assert kinds == [Kind.OPEN, Kind.MESSAGES, Kind.LAST]


async def test_a_request_that_is_answered_at_once_takes_two_letters():
    async def serve(scope, receive, send):
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    network = Network(serve)
    client = Client({"type": "http.request", "body": b"one", "more_body": False})
    assert await network.forward(client)
    assert client.heard[1] == {"type": "http.response.body", "body": b"one"}
    await until(lambda: network.is_idle)
    assert [each.kind for each in network.letters] == [Kind.OPEN, Kind.LAST]


async def test_of_an_owner_that_does_not_answer_it_says_so(monkeypatch):
    monkeypatch.setattr(forwarding, "_OPEN_TIMEOUT", 0.05)
    network = Network(None)
    network.is_cut = True
    assert not await network.forward(Client())
    assert network.is_idle


async def test_a_stream_is_ended_when_its_client_leaves():
    told = []

    async def serve(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        told.append(await receive())
        told.append(await receive())  # From now on always.

    network = Network(serve)
    client = Client()
    request = asyncio.create_task(network.forward(client))
    await until(lambda: client.heard)
    client.has_left.set()
    assert await request
    assert told == 2 * [{"type": "http.disconnect"}]


async def test_many_messages_travel_together_in_their_order_and_bounded():
    count = 2000

    async def serve(scope, receive, send):
        for number in range(count):
            await send({"type": "websocket.send", "text": f"{number} {'x' * 200}"})

    network = Network(serve)
    client = Client({"type": "websocket.connect"})
    assert await network.forward(client, {**SCOPE, "type": "websocket"})
    assert client.heard.pop()["type"] == "websocket.close"  # The application has not closed it.
    assert [int(each["text"].split()[0]) for each in client.heard] == list(range(count))
    letters = [each for each in network.letters if each.kind is Kind.MESSAGES]
    assert len(letters) < count / 20
    assert max(len(each.body) for each in letters) < 3 * 64 * 1024


async def test_a_sender_waits_while_the_other_side_takes_nothing(monkeypatch):
    monkeypatch.setattr(forwarding, "_SEND_TIMEOUT", 0.05)
    sent = []
    errors = []

    async def serve(scope, receive, send):
        try:
            while True:
                await send({"type": "http.response.body", "body": 1000 * b"x", "more_body": True})
                sent.append(1)
        except ClientGone as error:
            errors.append(error)

    network = Network(serve)
    network.drops = Kind.RECEIVED
    assert await network.forward(Client())
    assert "does not take what is forwarded" in str(errors[0])
    assert len(sent) < 10 * 66


async def test_a_client_that_reads_nothing_keeps_a_request_for_10_s_only(monkeypatch):
    monkeypatch.setattr(forwarding, "_SEND_TIMEOUT", 0.1)

    async def serve(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with suppress(asyncio.TimeoutError):
            for _ in range(100):
                body = {"type": "http.response.body", "body": 60_000 * b"x", "more_body": True}
                await asyncio.wait_for(send(body), 0.05)

    network = Network(serve)
    client = Client()
    client.send = lambda message: asyncio.sleep(BOUND)
    assert await network.forward(client)
    await until(lambda: network.is_idle)


async def test_an_owner_that_is_busy_keeps_an_upload_waiting(monkeypatch):
    monkeypatch.setattr(forwarding, "_SEND_TIMEOUT", 0.05)
    is_free = asyncio.Event()

    async def serve(scope, receive, send):
        await is_free.wait()
        size = 0
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})

    network = Network(serve)
    parts = [
        {"type": "http.request", "body": 1000 * b"x", "more_body": number < 999}
        for number in range(1000)
    ]
    client = Client(*parts)
    receive = client.receive

    async def receive_slowly():
        await asyncio.sleep(0)
        return await receive()

    client.receive = receive_slowly
    request = asyncio.create_task(network.forward(client))
    await until(
        lambda: any(each._outbox_size > 64_000 for each in network.ends["here"]._ends.values())
    )
    await asyncio.sleep(0.2)  # Longer than an answer may wait.
    is_free.set()
    assert await request
    assert client.heard[1]["body"] == b"1000000"


@pytest.mark.parametrize("side", ["here", "there"])
async def test_behind_a_letter_that_was_lost_nothing_counts(side):
    """A broker may say so right before it delivers the next one, or not at all."""
    got = []

    async def serve(scope, receive, send):
        await send({"type": "websocket.accept"})
        while got.append(message := await receive()) or message["type"] != "websocket.disconnect":
            if message["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})

    network = Network(serve)
    lost = iter([False, False, False, True])
    post = network.post

    async def post_all_but_one(worker: str, letter: Letter) -> None:
        if letter.kind not in (Kind.MESSAGES, Kind.LAST) or not next(lost, False):
            await post(worker, letter)

    network.ends["here" if side == "there" else "there"]._post = post_all_but_one
    client = Client({"type": "websocket.connect"})
    receive, texts = client.receive, iter("012345")

    async def receive_slowly():
        if client.messages:
            return await receive()
        await asyncio.sleep(0.02)
        text = next(texts, None)
        return {"type": "websocket.receive", "text": text} if text else await receive()

    client.receive = receive_slowly
    assert await network.forward(client, {**SCOPE, "type": "websocket"})
    await until(lambda: network.is_idle)
    sent = [each["text"] for each in client.heard if each["type"] == "websocket.send"]
    received = [each["text"] for each in got if each["type"] == "websocket.receive"]
    assert sent == list("012345"[: len(sent)])
    assert received == list("012345"[: len(received)])
    assert len(sent) < 6
    assert client.heard[-1] == {"type": "websocket.close", "code": 1011, "reason": ""}


@pytest.mark.parametrize("side", ["here", "there"])
async def test_a_broker_that_does_not_take_a_receipt_ends_the_request(side):
    async def serve(scope, receive, send):
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": message.get("text", "")})
            await asyncio.sleep(0.002)

    network = Network(serve)

    async def post(worker: str, letter: Letter) -> None:
        if letter.kind is Kind.RECEIVED:
            raise RuntimeError("the broker")
        await network.post(worker, letter)

    network.ends[side]._post = post
    client = Client({"type": "websocket.connect"})

    async def receive():
        await asyncio.sleep(0.002)
        return {"type": "websocket.receive", "text": "x"}

    client.receive = receive
    first = {"type": "websocket.connect"}
    scope = {**SCOPE, "type": "websocket"}
    here = network.ends["here"]
    request = here.forward("there", scope, first, client.receive, client.send)
    assert await asyncio.wait_for(request, BOUND)
    assert client.heard[-1] == {"type": "websocket.close", "code": 1011, "reason": ""}
    await until(lambda: network.is_idle)


async def test_a_request_whose_owner_has_not_answered_yet_can_be_cancelled():
    network = Network(None)
    network.is_cut = True
    client = Client()
    request = asyncio.create_task(network.forward(client))
    await until(lambda: network.ends["here"]._ends)
    network.ends["here"].miss()
    assert await asyncio.wait_for(request, 2)  # Not only after the 5 s for an answer.
    assert client.heard[0]["status"] == 502


async def test_a_client_that_sends_much_hears_of_the_end_of_the_owner_as_well():
    is_busy = asyncio.Event()

    async def serve(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await is_busy.wait()

    network = Network(serve)
    client = Client(*(1000 * [{"type": "http.request", "body": 1000 * b"x", "more_body": True}]))
    reads = asyncio.Event()

    async def send(message):
        await reads.wait()
        client.heard.append(message)

    client.send = send
    request = asyncio.create_task(network.forward(client))
    ends = network.ends["here"]._ends
    await until(lambda: any(each._outbox_size > 64_000 for each in ends.values()))
    network.ends["here"].miss()
    for _ in range(10):
        await asyncio.sleep(0)  # What sends hears of the end before what answers.
    reads.set()
    assert await asyncio.wait_for(request, BOUND)
    assert client.heard[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    is_busy.set()
    await until(lambda: network.is_idle)


@pytest.mark.parametrize(("version", "closes"), [("1.1", True), ("2", False)])
async def test_a_process_that_stops_wants_no_more_requests(monkeypatch, version, closes):
    async def serve(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setattr(open_connections, "_is_draining", True)
    client = Client()
    assert await Network(serve).forward(client, {**SCOPE, "http_version": version})
    assert client.heard[0]["headers"] == [(b"x", b"y")] + closes * [(b"connection", b"close")]


async def test_an_exception_of_the_owner_ends_the_request_and_is_logged(caplog):
    async def serve(scope, receive, send):
        raise LookupError("broken")

    network = Network(serve)
    client = Client()
    assert await network.forward(client)
    assert client.heard[0]["status"] == 502
    assert [each.getMessage() for each in caplog.records] == [
        "A request of another process has failed: path '/hub'."
    ]


async def test_a_client_that_is_gone_is_no_error_of_the_owner(caplog):
    async def serve(scope, receive, send):
        raise ClientGone("gone")

    network = Network(serve)
    assert await network.forward(Client())
    assert caplog.records == []


async def test_an_owner_that_goes_silent_ends_the_request(monkeypatch):
    monkeypatch.setattr(forwarding, "_ALIVE_INTERVAL", 0.02)
    monkeypatch.setattr(forwarding, "_SILENCE", 0.1)
    told = []

    async def serve(scope, receive, send):
        await send({"type": "websocket.accept"})
        told.append(await receive())
        told.append(await receive())

    network = Network(serve)
    client = Client({"type": "websocket.connect"})
    request = asyncio.create_task(network.forward(client, {**SCOPE, "type": "websocket"}))
    await until(lambda: client.heard)
    await asyncio.sleep(0.2)  # Signs of life keep it.
    assert not request.done()
    network.is_cut = True
    assert await request
    await until(lambda: len(told) == 2)
    assert told[1] == {"type": "websocket.disconnect", "code": 1006}


async def test_after_the_end_nobody_can_send(monkeypatch):
    outcome = []
    ends = asyncio.Event()

    async def serve(scope, receive, send):
        await receive()
        await receive()
        await ends.wait()
        for _ in range(2):
            with pytest.raises(ClientGone) as error:
                await send({"type": "http.response.body", "body": b"x"})
            outcome.append(str(error.value))

    monkeypatch.setattr(forwarding, "_LAST_TIMEOUT", 0.02)
    network = Network(serve)
    client = Client()
    client.has_left.set()
    assert await network.forward(client)
    await until(lambda: any(each.kind is Kind.END for each in network.letters))
    ends.set()
    await until(lambda: len(outcome) == 2)
    assert outcome == ["The client has left."] * 2


async def test_a_server_that_cannot_receive_ends_the_request(monkeypatch):
    monkeypatch.setattr(forwarding, "_LAST_TIMEOUT", 0.02)

    served = []

    async def serve(scope, receive, send):
        served.append(await receive())
        served.append(await receive())

    async def receive(are_left):
        if not are_left:
            raise OSError("broken")
        return are_left.pop()

    network = Network(serve)
    client = Client()
    client.receive = partial(receive, [{"type": "http.request"}])
    assert await network.forward(client)
    await until(lambda: network.is_idle)
    assert len(served) == 2


async def test_letters_that_belong_to_nothing_are_dropped():
    network = Network(None)
    for kind in (Kind.MESSAGES, Kind.TAKEN, Kind.RECEIVED, Kind.ALIVE, Kind.END):
        network.ends["here"].take(Letter(kind, "unknown"))
    assert network.is_idle
    assert read_letter(b"\xc1") is None


async def test_of_an_owner_that_sends_too_much_only_a_few_letters_are_kept():
    async def serve(scope, receive, send):
        await receive()
        await receive()

    network = Network(serve)
    client = Client()
    request = asyncio.create_task(network.forward(client))
    await until(lambda: any(each.kind is Kind.TAKEN for each in network.letters))
    end = network.letters[0].id
    body = encode([{"type": "http.response.body", "body": b"x", "more_body": True}])
    for number in range(1, 50):
        network.ends["here"].take(Letter(Kind.MESSAGES, end, number=number, body=body))
    assert await request
    assert 8 <= len(client.heard) < 20


async def test_an_end_that_cannot_be_told_is_no_error(monkeypatch, caplog):
    monkeypatch.setattr(forwarding, "_ALIVE_INTERVAL", 0.01)
    monkeypatch.setattr(forwarding, "_SILENCE", 0.05)

    async def serve(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.01)  # Then there is nothing to say with the end.

    network = Network(serve)
    network.refuses = Kind.END
    client = Client()
    assert await network.forward(client)
    assert client.heard[0]["status"] == 200
    assert caplog.records == []


async def test_an_error_of_the_broker_is_the_forwarders():
    network = Network(None)
    network.refuses = Kind.OPEN
    with pytest.raises(RuntimeError, match="the broker"):
        await network.forward(Client())
    assert network.is_idle


async def test_a_mailbox_that_cannot_be_opened_is_an_error_of_the_forwarders():
    async def broken() -> None:
        raise RuntimeError("the broker")

    network = Network(None)
    network.ends["here"]._open_mailbox = broken
    with pytest.raises(RuntimeError, match="the broker"):
        await network.forward(Client())
    assert network.is_idle
    assert network.letters == []


async def test_the_last_message_is_waited_for_also_while_it_is_on_its_way():
    async def serve(scope, receive, send):
        await send({"type": "http.response.body", "body": b"the last"})
        for _ in range(3):
            await asyncio.sleep(0)  # Its letter is handed to the broker meanwhile.

    network = Network(serve)
    post = network.post

    async def post_slowly(worker: str, letter: Letter) -> None:
        if letter.kind is Kind.MESSAGES:
            await asyncio.sleep(0.02)
        await post(worker, letter)

    for end in network.ends.values():
        end._post = post_slowly
    client = Client()
    assert await network.forward(client)
    assert [each["body"] for each in client.heard] == [b"the last"]


async def test_a_process_does_not_end_before_its_answer_is_on_its_way():
    async def serve(scope, receive, send):
        await send({"type": "http.response.body", "body": b"the last"})

    network = Network(serve)
    end = network.ends["there"]
    may_post = asyncio.Event()

    async def post_late(worker: str, letter: Letter) -> None:
        await may_post.wait()
        await network.post(worker, letter)

    end._post = post_late
    client = Client()
    request = asyncio.create_task(network.forward(client))
    await until(lambda: end._ends and not any(each._outbox for each in end._ends.values()))
    assert not await open_connections.wait_until_empty(0.01)
    may_post.set()
    assert await request
    assert [each["body"] for each in client.heard] == [b"the last"]
    assert await open_connections.wait_until_empty(BOUND)


async def test_a_websocket_is_only_lost_when_the_process_that_forwards_it_stops(monkeypatch):
    told = []

    async def serve(scope, receive, send):
        told.extend([await receive(), await receive()])

    monkeypatch.setattr(open_connections, "_is_draining", True)
    network = Network(serve)
    closed = {"type": "websocket.disconnect", "code": 1012}
    assert await network.forward(Client({"type": "websocket.connect"}, closed))
    await until(lambda: told)
    assert told[1] == {"type": "websocket.disconnect", "code": 1006}


@pytest.mark.parametrize("side", ["here", "there"])
async def test_a_request_that_does_not_end_can_be_cancelled(side):
    async def serve(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    network = Network(serve)
    request = asyncio.create_task(network.forward(Client()))
    await until(lambda: any(each.kind is Kind.TAKEN for each in network.letters))
    [end] = network.ends[side]._ends.values()
    end.cancel()
    assert await asyncio.wait_for(request, BOUND)
    await until(lambda: network.is_idle)


@pytest.mark.parametrize("side", ["here", "there"])
async def test_a_letter_that_the_broker_does_not_take_ends_the_request_on_both_sides(side):
    told = []

    async def serve(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        told.append(await receive())
        told.append(await receive())

    network = Network(serve)
    post = network.post
    is_out_of_order = False

    async def post_if_it_works(worker: str, letter: Letter) -> None:
        if is_out_of_order and letter.kind is Kind.MESSAGES:
            raise RuntimeError("the broker")
        await post(worker, letter)

    network.ends[side]._post = post_if_it_works
    client = Client({"type": "http.request", "body": b"", "more_body": True})
    request = asyncio.create_task(network.forward(client))
    await until(lambda: client.heard and told)
    is_out_of_order = True
    [end] = network.ends[side]._ends.values()
    await end.send({"type": "lost"})
    assert await asyncio.wait_for(request, BOUND)
    await until(lambda: told[1:] == [{"type": "http.disconnect"}])


@pytest.mark.parametrize(
    ("kind", "sent", "ends"),
    [
        (
            "http",
            [],
            [
                {"type": "http.response.start", "status": 502, "headers": []},
                {"type": "http.response.body", "body": b"", "more_body": False},
            ],
        ),
        (
            "http",
            [
                {"type": "http.response.start", "status": 200, "headers": []},
                {"type": "http.response.body", "body": b"x", "more_body": True},
            ],
            [{"type": "http.response.body", "body": b"", "more_body": False}],
        ),
        (
            "http",
            [
                {"type": "http.response.start", "status": 200, "headers": []},
                {"type": "http.response.body", "body": b"x"},
            ],
            [],
        ),
        (
            "websocket",
            [{"type": "websocket.accept"}],
            [{"type": "websocket.close", "code": 1011, "reason": ""}],
        ),
        (
            "websocket",
            [{"type": "websocket.accept"}, {"type": "websocket.close", "code": 1000}],
            [],
        ),
    ],
)
async def test_an_owner_that_is_killed_leaves_no_request_without_an_end(
    monkeypatch, kind, sent, ends
):
    monkeypatch.setattr(forwarding, "_ALIVE_INTERVAL", 0.02)
    monkeypatch.setattr(forwarding, "_SILENCE", 0.1)
    heard = asyncio.Event()

    async def serve(scope, receive, send):
        for message in sent:
            await send(message)
        heard.set()
        while not (await receive())["type"].endswith(".disconnect"):
            pass

    network = Network(serve)
    client = Client()
    request = asyncio.create_task(network.forward(client, {**SCOPE, "type": kind}))
    await heard.wait()
    await until(lambda: len(client.heard) == len(sent))
    await until(lambda: any(each.kind in (Kind.TAKEN, Kind.MESSAGES) for each in network.letters))
    network.is_cut = True
    assert await asyncio.wait_for(request, BOUND)
    assert client.heard == sent + ends
    await until(lambda: network.is_idle)
