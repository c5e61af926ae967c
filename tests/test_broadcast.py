"""`broadcast()` within one process, on every server."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import StopConsumer
from channels.layers import BaseChannelLayer
from django.core.signals import request_started
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import ASGI_SERVERS, BOUND, serving, until
from tests.peers import Served, connected
from tests.servers.test_behaviours import expected
from ws_support._asgi import DIRECT, DirectSend
from ws_support._topics.brokers.channel_layer.calls import group_of
from ws_support._topics.brokers.local import _Listeners
from ws_support._topics.registry import TopicRegistry
from ws_support.broadcast import broadcast, broadcast_json, statistics
from ws_support.consumers import AsyncWebsocketConsumer
from ws_support.websocket import websocket_view


@pytest.fixture(scope="module", params=ASGI_SERVERS)
def server(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    with serving(log_file, asgi_server=request.param, WS_SUPPORT={"BROADCAST_QUEUE": 8}) as server:
        yield server


def tell(socket, what, **command):
    socket.send(json.dumps({"do": what, **command}))


def subscribed(stack, server, topic, path="topics"):
    socket = stack.enter_context(server.connect(f"/{path}/{topic}"))
    assert socket.recv(BOUND).startswith("ready ")
    return socket


def test_every_subscriber_gets_a_message_and_nobody_else(server):
    with ExitStack() as stack:
        one, two = (subscribed(stack, server, "all") for _ in range(2))
        three = subscribed(stack, server, "all", "live/subscribed")
        other = subscribed(stack, server, "another")
        tell(one, "broadcast", topic="all", text="héllo")
        assert {one.recv(BOUND), one.recv(BOUND)} == {"héllo", "broadcast"}
        assert two.recv(BOUND) == three.recv(BOUND) == "héllo"
        tell(other, "echo", text="first of all")
        assert other.recv(BOUND) == "first of all"


def test_a_value_arrives_as_json(server):
    with ExitStack() as stack:
        one = subscribed(stack, server, "json")
        tell(one, "broadcast json", topic="json", value={"é": [1, None]})
        assert json.loads(one.recv(BOUND)) == {"é": [1, None]}


def test_a_server_says_in_the_scope_that_whoever_publishes_may_send(server):
    with server.connect("/commands") as socket:
        socket.send(json.dumps({"do": "scope", "keys": ["extensions"]}))
        assert "ws_support.direct" in json.loads(socket.recv(BOUND))["extensions"]


def test_messages_of_one_publisher_keep_their_order(server):
    with ExitStack() as stack:
        publisher = subscribed(stack, server, "publisher")
        readers = [subscribed(stack, server, "order") for _ in range(3)]
        for _ in range(5):
            tell(publisher, "broadcast many", topic="order", count=8)  # As many as may wait.
            for reader in readers:
                assert [reader.recv(BOUND) for _ in range(8)] == [f"{n} " for n in range(8)]


@pytest.mark.parametrize("size", [0, 1, 123, 124, 125, 126, 2**16 - 3, 2**16 - 2, 2**16 - 1, 2**16])
def test_a_message_of_any_length_arrives_whole(server, size):
    with ExitStack() as stack:
        one, two = (subscribed(stack, server, "length") for _ in range(2))
        publisher = subscribed(stack, server, "publisher")
        tell(publisher, "broadcast json", topic="length", value="x" * size)
        tell(publisher, "broadcast binary", topic="length", size=size)
        for reader in (one, two):
            assert reader.recv(BOUND) == json.dumps("x" * size)
            assert reader.recv(BOUND) == bytes(size)


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "daphne"])
def test_a_message_is_compressed_for_whom_that_was_agreed_with(serve, name):
    server = serve(asgi_server=name, WS_SUPPORT={"PER_MESSAGE_DEFLATE": True})
    with ExitStack() as stack:
        publisher = subscribed(stack, server, "publisher")
        plain = stack.enter_context(server.connect("/topics/mixed", compression=None))
        raw = stack.enter_context(server.raw())
        raw.handshake(
            "/topics/mixed",
            [
                (b"Origin", server.origin.encode()),
                (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
            ],
        )
        assert raw.frame() is not None  # "ready", compressed
        assert plain.recv(BOUND).startswith("ready ")
        compressed = subscribed(stack, server, "mixed")
        for text in ("x" * 1000, "y" * 1000):
            tell(publisher, "broadcast", topic="mixed", text=text)
            assert plain.recv(BOUND) == compressed.recv(BOUND) == text
            assert len(raw.frame()[1]) < 100


@pytest.mark.parametrize("path", ["topics", "live/subscribed"])
def test_who_has_unsubscribed_gets_no_more(server, path):
    with ExitStack() as stack:
        publisher = subscribed(stack, server, "publisher")
        one = subscribed(stack, server, "left", path)
        if path == "topics":
            tell(one, "unsubscribe", topic="left")
        else:
            one.send("unsubscribe")
        assert one.recv(BOUND) == "unsubscribed"
        tell(publisher, "broadcast", topic="left", text="not for you")
        assert publisher.recv(BOUND) == "broadcast"
        one.send('{"do": "echo", "text": "next"}')
        assert "next" in one.recv(BOUND)


def test_subscriptions_of_the_class_are_subscribed_to(server):
    with ExitStack() as stack:
        publisher = subscribed(stack, server, "publisher")
        one = stack.enter_context(server.connect("/prices"))
        tell(publisher, "broadcast", topic="prices", text="1.08")
        assert one.recv(BOUND) == "1.08"


@pytest.mark.slow
def test_a_subscriber_that_does_not_read_is_closed_with_1013_and_the_others_notice_nothing(server):
    path = f"/topics/slow-{server.name}"
    topic = path.removeprefix("/topics/")
    with ExitStack() as stack:
        publisher = subscribed(stack, server, "publisher")
        dropped = asked(publisher)["dropped"]
        stalled = stack.enter_context(server.raw())
        assert stalled.handshake(path)[0] == 101
        reader = subscribed(stack, server, topic)
        waits = []
        for number in range(1000):
            text = f"{number} {'x' * 100_000}"
            sent_at = time.monotonic()
            tell(publisher, "broadcast", topic=topic, text=text)
            assert reader.recv(BOUND) == text
            waits.append(time.monotonic() - sent_at)
            assert publisher.recv(BOUND) == "broadcast"
            if server.events("disconnect()", path):
                break
        assert server.events("disconnect()", path)[0]["code"] == 1013
        assert median(waits) < 0.5
        assert server.wait_for_event("disconnected", path)["code"] == 1013
        assert asked(publisher)["dropped"] == dropped + 1
        assert 'WS_SUPPORT["BROADCAST_QUEUE"]' in server.log()
        if expected(server, "A client that is closed and reads nothing", "is dropped") == "stays":
            return
        port = stalled.socket.getsockname()[1]
        for _ in until("the end of its connection", server.log):
            if port not in peers_of(server):
                break


def peers_of(server):
    """The ports of the clients that the server is connected to."""
    connections = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {
        int(peer.partition(":")[2], 16)
        for _, address, peer, state, *_ in connections
        if int(address.partition(":")[2], 16) == server.port and state == "01"
    }


def asked(socket):
    tell(socket, "statistics")
    return json.loads(socket.recv(BOUND))


def test_subscriptions_end_with_their_connection(server):
    with ExitStack() as stack:
        publisher = subscribed(stack, server, "publisher")
        before = asked(publisher)["subscriptions"]
        one = subscribed(stack, server, "short", "live/subscribed")
        lost = stack.enter_context(server.raw())
        assert lost.handshake("/topics/lost")[0] == 101
        for _ in until("three more", server.log):
            if asked(publisher)["subscriptions"] == before + 2:
                break
        one.close()
        lost.socket.close()
        for _ in until("none of them", server.log):
            if asked(publisher)["subscriptions"] == before:
                break


# In one process, by ASGI messages.


class Subscriber(AsyncWebsocketConsumer):
    channel_layer_alias = None
    subscriptions = ["topic"]


async def received(peer):
    message = await peer.receive_output()
    return message.get("text") or message.get("bytes")


async def test_text_and_binary_arrive_as_they_are():
    async with connected(Subscriber.as_asgi()) as peer:
        for message in ["text", b"binary", bytearray(b"array"), memoryview(b"view")]:
            await broadcast("topic", message)
            assert await received(peer) == (message if isinstance(message, str) else bytes(message))


async def test_what_is_broadcast_during_the_handshake_follows_the_accept():
    class Slow(Subscriber):
        async def connect(self):
            await broadcast("topic", "one")
            await broadcast("topic", "two")
            await self.accept()

    async with connected(Slow.as_asgi()) as peer:
        assert [await received(peer), await received(peer)] == ["one", "two"]
        await broadcast("topic", "three")
        assert await received(peer) == "three"


async def test_a_queue_that_is_full_before_the_accept_refuses_the_handshake():
    class Slow(Subscriber):
        async def connect(self):
            for _ in range(65):
                await broadcast("topic", "message")
            await asyncio.sleep(BOUND)

    async with Served(Slow.as_asgi()) as peer:
        await peer.connects()
        assert (await peer.receive_output())["type"] == "websocket.close"
        await peer.wait()


async def test_a_client_that_is_too_slow_is_closed_and_counted_once(caplog):
    class Stuck(KnownPeer):
        __module__ = KnownPeer.__module__
        is_stuck = False

        async def serve_send(self, message):
            if self.is_stuck and message["type"] == "websocket.send":
                await asyncio.Event().wait()
            await super().serve_send(message)

    before = statistics().dropped
    async with connected(Subscriber.as_asgi(), Stuck) as peer:
        peer.is_stuck = True
        registry = TopicRegistry.of_this_loop()
        for _ in range(64 + 3):
            registry.deliver("topic", {"type": "websocket.send", "text": "x"})
        assert (await peer.receive_output())["code"] == 1013
        await peer.wait()
    assert statistics().dropped == before + 1
    assert caplog.text.count("64 messages were waiting") == 1


async def test_a_connection_that_has_missed_messages_of_two_topics_is_closed_once():
    before = statistics()
    async with connected(Subscriber.as_asgi()) as peer:
        registry = TopicRegistry.of_this_loop()
        for _ in range(2):
            registry.miss("topic", 3, "The test says so.")
        assert (await peer.receive_output())["reason"] == "Messages were lost"
        await peer.wait()
    now = statistics()
    assert (now.lost - before.lost, now.dropped - before.dropped) == (6, 1)


async def test_one_connection_may_subscribe_to_many_topics_and_twice_is_once():
    class Many(Subscriber):
        subscriptions = ["one", "two", "two"]

    async with connected(Many.as_asgi()) as peer:
        await broadcast("two", "2")
        await broadcast("one", "1")
        assert [await received(peer), await received(peer)] == ["2", "1"]
        assert await peer.receive_nothing(0)


class KnownPeer(Served):
    """A server whose `send()` is known to ask nobody which task it runs in."""

    __module__ = "uvicorn.protocols"


class WritingPeer(Served):
    """One that says by an extension of the scope that it writes frames itself."""

    def __init__(self, application):
        super().__init__(application, extensions={DIRECT: self})
        self.send = self.serve_send
        self.frames = asyncio.Queue()
        self.error = None

    def fail_sends(self, error):
        super().fail_sends(error)
        self.error = error

    def write_frame(self, frame):
        if self.error is not None:
            raise self.error
        self.frames.put_nowait(frame)
        return True


class PartialPeer(KnownPeer):
    """Passes a part of its `send()`, as Daphne by its own command."""

    __module__ = "daphne.server"

    def __init__(self, application):
        async def passing(scope, receive, send):
            await application(scope, receive, partial(send))

        super().__init__(passing)


class DirectPeer(Served):
    """One that says by an extension of the scope that its `send()` may run in any task."""

    def __init__(self, application):
        super().__init__(application, extensions={DIRECT: DirectSend(self.serve_send)})


@pytest.mark.parametrize(
    ("kind", "is_direct"),
    [(Served, False), (KnownPeer, True), (PartialPeer, True), (DirectPeer, True)],
)
async def test_a_server_that_allows_it_sends_in_the_task_of_the_publisher(kind, is_direct):
    tasks = []

    class Noting(kind):
        __module__ = kind.__module__

        async def serve_send(self, message):
            tasks.append(asyncio.current_task())
            await super().serve_send(message)

    async with connected(Subscriber.as_asgi(), Noting) as peer:
        await broadcast("topic", "message")
        assert await received(peer) == "message"
    assert (tasks[1] is asyncio.current_task()) == is_direct


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("the handler is closed")])
async def test_a_frame_that_cannot_be_written_keeps_nobody_else_from_theirs(error):
    async with (
        connected(Subscriber.as_asgi(), WritingPeer) as broken,
        connected(Subscriber.as_asgi(), WritingPeer) as sound,
    ):
        broken.fail_sends(error)
        await broadcast("topic", "x")
        assert await asyncio.wait_for(sound.frames.get(), BOUND) == b"\x81\x01x"
        await broken.leaves()
        if isinstance(error, OSError):
            await broken.wait()
        else:
            with pytest.raises(RuntimeError, match="closed"):
                await broken.wait()


@pytest.mark.parametrize("kind", [Served, KnownPeer, WritingPeer])
async def test_a_client_that_has_gone_is_no_error(kind):
    async with connected(Subscriber.as_asgi(), kind) as peer:
        peer.fail_sends(OSError("gone"))
        await broadcast("topic", "lost")
        await peer.leaves()
        await peer.wait()


@pytest.mark.parametrize("kind", [Served, KnownPeer])
async def test_an_error_of_the_server_is_raised_to_it(kind):
    async with connected(Subscriber.as_asgi(), kind) as peer:
        peer.fail_sends(RuntimeError("out of order"))
        await broadcast("topic", "lost")
        with pytest.raises(RuntimeError, match="out of order"):
            await peer.wait()


@pytest.mark.parametrize("kind", [Served, KnownPeer, WritingPeer])
async def test_middleware_around_send_runs_in_a_task_of_its_connection(kind):
    tasks = []

    def watched(application):
        async def with_task(scope, receive, send):
            async def noting(message):
                tasks.append(asyncio.current_task())
                await asyncio.sleep(0)
                await send(message)

            await application(scope, receive, noting)

        return with_task

    async with connected(watched(Subscriber.as_asgi()), kind) as peer:
        await broadcast("topic", "one")
        await broadcast("topic", "two")
        assert [await received(peer), await received(peer)] == ["one", "two"]
    assert asyncio.current_task() not in tasks


@pytest.mark.parametrize("kind", [Served, KnownPeer])
async def test_what_waits_for_a_client_that_is_behind_follows_in_order(kind):
    class Blocking(kind):
        __module__ = kind.__module__
        ready = None

        async def serve_send(self, message):
            while self.ready is not None and not self.ready.done():
                await asyncio.wait([self.ready])
            await super().serve_send(message)

    async with connected(Subscriber.as_asgi(), Blocking) as peer:
        peer.ready = asyncio.get_running_loop().create_future()
        for number in range(10):
            await broadcast("topic", str(number))
        assert await peer.receive_nothing(0)
        peer.ready.set_result(None)
        assert await peer.texts(10) == [str(number) for number in range(10)]
        await broadcast("topic", "at once")
        assert await peer.texts(1) == ["at once"]


@pytest.mark.parametrize("kind", [Served, KnownPeer])
async def test_an_end_while_something_waits_is_quiet(kind, caplog):
    class Blocking(kind):
        __module__ = kind.__module__
        ready = None

        async def serve_send(self, message):
            if self.ready is not None and message["type"] == "websocket.send":
                await self.ready
                raise RuntimeError("after sending 'websocket.close'")
            await super().serve_send(message)

    class Closing(Subscriber):
        async def receive(self, text_data=None, bytes_data=None):
            await self.close(4000)
            peer.ready.set_result(None)
            await asyncio.sleep(0)

    async with connected(Closing.as_asgi(), Blocking) as peer:
        peer.ready = asyncio.get_running_loop().create_future()
        await broadcast("topic", "waits")
        await broadcast("topic", "waits, too")
        await peer.says("close")
        assert (await peer.receive_output())["code"] == 4000
        await peer.wait()
    assert caplog.records == []


@pytest.mark.parametrize("kind", [Served, KnownPeer])
async def test_what_is_broadcast_while_a_connection_ends_is_dropped(kind):
    class SlowToClose(kind):
        __module__ = kind.__module__

        async def serve_send(self, message):
            if message["type"] == "websocket.close":
                await broadcast("topic", "late")
            await super().serve_send(message)

    class Failing(Subscriber):
        async def receive(self, text_data=None, bytes_data=None):
            raise RuntimeError("asked for")

    async with connected(Failing.as_asgi(), SlowToClose) as peer:
        await peer.says("fail")
        assert (await peer.receive_output())["code"] == 1011
        with pytest.raises(RuntimeError, match="asked for"):
            await peer.wait()
        assert await peer.receive_nothing(0)


@override_settings(WS_SUPPORT={"BROADCAST_QUEUE": 2})
async def test_a_queue_that_is_full_while_the_connection_ends_does_not_open_it_again(caplog):
    class Stuck(Served):
        async def serve_send(self, message):
            if message["type"] == "websocket.send":
                await asyncio.Event().wait()
            if message["type"] == "websocket.close":
                for _ in range(3):
                    await broadcast("topic", "late")
            await super().serve_send(message)

    class Stopping(Subscriber):
        async def receive(self, text_data=None, bytes_data=None):
            await broadcast("topic", "never sent")
            raise StopConsumer

        async def disconnect(self, code):
            codes.append(code)
            with pytest.raises(RuntimeError, match="after the connection had ended"):
                self.start_background(asyncio.sleep(0))

    codes = []
    async with connected(Stopping.as_asgi(), Stuck) as peer:
        await peer.says("stop")
        assert (await peer.receive_output())["code"] == 1000
        await peer.wait()
    assert codes == [1000]
    assert "Closed with 1013" in caplog.text


async def test_a_second_accept_does_not_let_later_messages_overtake():
    class Slow(Served):
        async def serve_send(self, message):
            if message.get("text") == "first":
                await asyncio.wait_for(is_accepted_again.wait(), BOUND)
            await super().serve_send(message)

    class Twice(Subscriber):
        async def receive(self, text_data=None, bytes_data=None):
            for text in ("first", "second", "third"):
                await broadcast("topic", text)
            await self.accept()
            await asyncio.sleep(0)
            is_accepted_again.set()

    is_accepted_again = asyncio.Event()
    async with connected(Twice.as_asgi(), Slow) as peer:
        await peer.says("go")
        assert (await peer.receive_output())["type"] == "websocket.accept"
        assert [await received(peer) for _ in range(3)] == ["first", "second", "third"]


async def test_a_client_that_is_given_up_while_a_message_waits_is_not_waited_for():
    class Stuck(KnownPeer):
        __module__ = KnownPeer.__module__
        is_stuck = False

        async def serve_send(self, message):
            if self.is_stuck:
                await asyncio.Event().wait()
            await super().serve_send(message)

    async with connected(Subscriber.as_asgi(), Stuck) as peer:
        peer.is_stuck = True
        await broadcast("topic", "never sent")
        await peer.leaves()
        await peer.wait()


async def test_a_message_reaches_subscribers_in_the_loop_of_another_thread():
    async with connected(Subscriber.as_asgi()) as peer:
        thread = threading.Thread(target=async_to_sync(broadcast), args=("topic", "from outside"))
        thread.start()
        assert await received(peer) == "from outside"
        thread.join(BOUND)


def test_statistics_can_be_asked_for_while_event_loops_of_threads_come_and_go():
    def publish():
        for _ in range(200):
            async_to_sync(broadcast)("topic", "nobody's")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=publish) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            statistics()
    finally:
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join(BOUND)


async def test_ten_thousand_subscriptions_leave_nothing_behind():
    tasks = len(asyncio.all_tasks())

    @websocket_view
    async def restless(websocket):
        await websocket.accept()
        for number in range(5000):
            await websocket.subscribe(f"topic {number % 7}")
            await websocket.unsubscribe(f"topic {number % 7}")

    for _ in range(2):
        async with Served(restless) as peer:
            await peer.connects()
            await peer.wait()
    assert len(asyncio.all_tasks()) - 1 <= tasks
    assert (statistics().topics, statistics().subscriptions) == (0, 0)


async def test_a_connection_that_is_cancelled_while_it_closes_leaves_nothing_behind():
    class Stuck(Served):
        async def serve_send(self, message):
            await super().serve_send(message)
            if message["type"] == "websocket.close":
                await asyncio.Event().wait()

    ended = []

    async def works():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("background")

    class Short(Subscriber):
        async def connect(self):
            await self.accept()
            self.start_background(works())

        async def receive(self, text_data=None, bytes_data=None):
            raise StopConsumer

    before = statistics().subscriptions
    async with connected(Short.as_asgi(), Stuck) as peer:
        await peer.says("stop")
        assert (await peer.receive_output())["type"] == "websocket.close"
        assert statistics().subscriptions == before + 1
        peer.cancel()
        await peer.wait()
        assert peer.was_cancelled
    assert statistics().subscriptions == before
    assert ended == ["background"]


async def test_subscribing_before_there_is_a_connection_says_when_to():
    with pytest.raises(RuntimeError, match=r"call it in connect\(\) or later"):
        await Subscriber().subscribe("topic")


async def test_subscribing_after_the_end_is_an_error():
    consumer = Subscriber()
    async with connected(consumer) as peer:
        await peer.leaves()
        await peer.wait()
    with pytest.raises(RuntimeError, match="after the connection had ended"):
        await consumer.subscribe("topic")


def test_a_string_in_place_of_a_list_of_topics_is_an_error_of_the_class():
    with pytest.raises(TypeError, match=r"write a list of topics, \['prices'\]"):
        type("Prices", (AsyncWebsocketConsumer,), {"subscriptions": "prices"})


@pytest.mark.parametrize("topic", [None, b"topic", 1])
async def test_a_topic_is_a_string(topic):
    with pytest.raises(TypeError, match="A topic is a string"):
        await broadcast(topic, "message")


@pytest.mark.parametrize("message", [None, 1, {"a": 1}])
async def test_a_message_is_text_or_binary(message):
    with pytest.raises(TypeError, match=r"text \(str\) or binary"):
        await broadcast("topic", message)


@pytest.mark.parametrize(("topic", "message"), [("\ud800", "text"), ("topic", "\udfff")])
async def test_half_a_surrogate_pair_cannot_be_sent(topic, message):
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        await broadcast(topic, message)


async def test_a_value_that_is_no_json_is_an_error():
    with pytest.raises(TypeError, match="not JSON serializable"):
        await broadcast_json("topic", object())


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True, min_size=2))
def test_any_string_is_a_topic_with_a_group_of_its_own(topics):
    groups = {group_of(topic) for topic in topics}
    assert len(groups) == len(topics)
    for group in groups:
        assert BaseChannelLayer().require_valid_group_name(group)


@pytest.mark.parametrize("topic", ["", "é𝄞", "\x00", "x" * 10_000, "a b/c?d=e"])
async def test_topics_are_not_restricted(topic):
    class Any(AsyncWebsocketConsumer):
        channel_layer_alias = None
        subscriptions = [topic]

    async with connected(Any.as_asgi()) as peer:
        await broadcast(topic, "message")
        assert await received(peer) == "message"


@override_settings(WS_SUPPORT={"BROADCAST_QUEUE": 2})
async def test_the_length_of_the_queue_is_a_setting(caplog):
    class Slow(Subscriber):
        async def connect(self):
            for _ in range(3):
                await broadcast("topic", "message")

    async with Served(Slow.as_asgi()) as peer:
        await peer.connects()
        await peer.wait()
        assert re.search(r"1013: 2 messages were waiting.*'topic'", caplog.text)


async def test_a_topic_has_an_end():
    with pytest.raises(ValueError, match="up to 10000 characters: got 10001, 'xxx"):
        await broadcast("x" * 10_001, "message")


@override_settings(WS_SUPPORT={"MAX_SUBSCRIPTIONS": 2})
async def test_one_connection_may_not_subscribe_to_any_number_of_topics():
    @websocket_view
    async def greedy(websocket):
        await websocket.accept()
        for topic in ("one", "two", "two"):
            await websocket.subscribe(topic)
        with pytest.raises(ValueError, match=r'2 topics.*"MAX_SUBSCRIPTIONS"'):
            await websocket.subscribe("three")
        await websocket.unsubscribe("one")
        await websocket.subscribe("three")
        await websocket.send("done")

    async with connected(greedy) as peer:
        assert await received(peer) == "done"


async def test_the_topics_of_one_connection_have_a_size_together():
    @websocket_view
    async def greedy(websocket):
        await websocket.accept()
        for number in range(26):
            await websocket.subscribe(f"{number:010000}")
        with pytest.raises(ValueError, match="262144 characters together"):
            await websocket.subscribe("x" * 10_000)
        await websocket.unsubscribe(f"{0:010000}")
        await websocket.subscribe("x" * 10_000)
        await websocket.send("done")

    async with connected(greedy) as peer:
        assert await received(peer) == "done"


@override_settings(WS_SUPPORT={"MAX_SUBSCRIPTIONS": 10_000})
async def test_whoever_subscribes_to_many_topics_lets_others_have_their_turn():
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    @websocket_view
    async def greedy(websocket):
        await websocket.accept()
        for number in range(10_000):
            await websocket.subscribe(f"topic {number}")
        await websocket.send(str(turns))

    other = asyncio.create_task(others())
    async with connected(greedy) as peer:
        assert int(await received(peer)) > 100
    other.cancel()


@pytest.fixture
def alone(monkeypatch):
    """A process in which nobody has subscribed, as that of a shell."""
    monkeypatch.setattr("ws_support._topics.brokers.local._Listeners.are_here", False)


async def test_a_broadcast_that_nobody_can_hear_is_warned_of_once(alone, caplog):
    await broadcast("topic", "message")
    await broadcast("topic", "again")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "Nobody has heard the broadcast under 'topic'" in record.message
    assert "CHANNEL_LAYERS" in record.message


async def test_a_broadcast_of_a_server_is_not_warned_of(alone, caplog):
    request_started.connect(_Listeners.note_request)
    request_started.send(sender=None, environ={})
    assert not _Listeners.are_here
    request_started.send(sender=None, scope={})
    await broadcast("topic", "message")
    assert caplog.records == []
