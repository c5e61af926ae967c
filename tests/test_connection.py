"""What consumers do between `connect()` and `disconnect()`, by their ASGI messages."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import sys
import time

import pytest
from channels.exceptions import DenyConnection, InvalidChannelLayerError, StopConsumer
from channels.layers import get_channel_layer
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from tests.peers import Served, connected
from ws_support._connection.registry import open_connections
from ws_support._topics.registry import TopicRegistry
from ws_support.asgi import WebSocketSupport
from ws_support.broadcast import broadcast
from ws_support.consumers import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    EchoConsumer,
)
from ws_support.middleware.heartbeat import Heartbeat
from ws_support.signals import disconnected

BOUND = 10


class StuckAtTheEnd(Served):
    """A server whose client has full buffers when it is closed."""

    def __init__(self, *arguments, **options):
        self.is_stuck = asyncio.Event()
        super().__init__(*arguments, **options)

    async def serve_send(self, message):
        if message["type"] == "websocket.close":
            self.is_stuck.set()
            await asyncio.Event().wait()
        await super().serve_send(message)


class Counted:
    """A middleware that puts its own around `send` and leaves `receive` as it is."""

    def __init__(self, application):
        self.application = application
        self.kinds = []

    async def __call__(self, scope, receive, send):
        async def counted(message):
            self.kinds.append(message["type"])
            await send(message)

        await self.application(scope, receive, counted)


async def test_what_a_middleware_puts_around_send_sees_every_message():
    counted = Counted(EchoConsumer.as_asgi())
    async with connected(WebSocketSupport(counted, allowed_origins=["*"])) as peer:
        await peer.says("one", "two")
        assert await peer.texts(2) == ["one", "two"]
    assert counted.kinds[:3] == ["websocket.accept", "websocket.send", "websocket.send"]


async def eventually(condition):
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


class Logged(AsyncWebsocketConsumer):
    """Echo that remembers the codes of `disconnect()`."""

    channel_layer_alias = None

    def __init__(self):
        super().__init__()
        self.codes = []

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data, bytes_data)

    async def disconnect(self, code):
        self.codes.append(code)


class WithLayer(Logged):
    channel_layer_alias = "default"

    async def say(self, event):
        await self.send(event["text"])


@pytest.fixture(autouse=True)
def layers():
    backend = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    with override_settings(CHANNEL_LAYERS={"default": backend}):
        yield


@pytest.fixture
def impatient(monkeypatch):
    """A handler takes long at once, and ten seconds pass in a moment."""
    monkeypatch.setattr("ws_support._connection.watchdog.LOOK_EVERY", 0.01)
    monkeypatch.setattr("ws_support._connection.connection._LAST_TIMEOUT", 0.2)
    monkeypatch.setattr("ws_support._connection.connection._STOP_TIMEOUT", 0.1)


# The order of messages.


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["client", "layer"]), st.integers(0, 3), st.booleans()),
        max_size=40,
    ),
    reads_ahead=st.booleans(),
)
def test_messages_are_handled_one_at_a_time_in_their_order(events, reads_ahead):
    asyncio.run(handle_in_order(events, reads_ahead=reads_ahead))


async def handle_in_order(events, *, reads_ahead):
    running = 0
    handled = []

    class Consumer(WithLayer):
        async def receive(self, text_data=None, bytes_data=None):
            await self.work("client", text_data)

        async def say(self, event):
            await self.work("layer", event["text"])

        async def work(self, source, text):
            nonlocal running
            running += 1
            assert running == 1
            number, pauses = map(int, text.split())
            for _ in range(pauses):
                await asyncio.sleep(0)
            handled.append((source, number))
            running -= 1

    consumer = Consumer()
    if not reads_ahead:
        events = [event for event in events if event[0] == "client"]
        consumer.channel_layer_alias = None
    async with connected(consumer) as peer:
        settled = True
        for number, (source, pauses, settles) in enumerate(events):
            if source == "client":
                await peer.says(f"{number} {pauses}")
            else:
                message = {"type": "say", "text": f"{number} {pauses}"}
                await consumer.channel_layer.send(consumer.channel_name, message)
            settled = settled and settles
            for _ in range(10 if settles else 0):
                await asyncio.sleep(0)
        await eventually(lambda: len(handled) == len(events))
        await peer.leaves()
        await peer.wait()
    for source in ("client", "layer"):
        sent = [number for number, event in enumerate(events) if event[0] == source]
        assert [number for where, number in handled if where == source] == sent
    if settled:  # Then it is certain what came first, also between the two.
        assert [number for _, number in handled] == list(range(len(events)))
    assert consumer.codes == [1001]


@pytest.mark.usefixtures("impatient")
async def test_messages_that_come_while_a_handler_is_busy_are_handled_in_order_afterwards():
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            if text_data == "0":
                await asyncio.wait_for(go_on.wait(), BOUND)
            await self.send(text_data)

    go_on = asyncio.Event()
    async with connected(Consumer()) as peer:
        await peer.says(*map(str, range(30)))
        await eventually(lambda: peer.received == 31)
        go_on.set()
        assert await peer.texts(30) == [str(number) for number in range(30)]
        await peer.says("after that")
        assert await peer.texts(1) == ["after that"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("size", "most"), [(1, 66), (2**19, 4), (2**21, 3)])
async def test_what_is_read_ahead_is_bounded(size, most):
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            await asyncio.wait_for(go_on.wait(), BOUND)
            await self.send(str(len(text_data)))

    go_on = asyncio.Event()
    async with connected(Consumer()) as peer:
        await peer.says(*["x" * size] * 200)
        await eventually(lambda: peer.received >= 2)
        await asyncio.sleep(0.1)
        assert peer.received <= most
        go_on.set()
        assert await peer.texts(200) == [str(size)] * 200


async def test_a_flood_from_the_channel_layer_is_bounded_too():
    class Consumer(WithLayer):
        async def say(self, event):
            await asyncio.wait_for(go_on.wait(), BOUND)
            await super().say(event)

    go_on = asyncio.Event()
    consumer = Consumer()
    async with connected(consumer) as peer:
        for number in range(100):
            message = {"type": "say", "text": str(number)}
            await consumer.channel_layer.send(consumer.channel_name, message)
        await asyncio.sleep(0.1)
        assert consumer.channel_layer.channels[consumer.channel_name].qsize() >= 30
        go_on.set()
        assert await peer.texts(100) == [str(number) for number in range(100)]


async def test_a_flood_from_both_is_handled_to_the_last_message():
    class Consumer(WithLayer):
        async def receive(self, text_data=None, bytes_data=None):
            await asyncio.wait_for(go_on.wait(), BOUND)
            await super().receive(text_data)

    go_on = asyncio.Event()
    consumer = Consumer()
    async with connected(consumer) as peer:
        numbers = [str(number) for number in range(100)]
        await peer.says(*numbers)
        for number in numbers:
            message = {"type": "say", "text": f"layer {number}"}
            await consumer.channel_layer.send(consumer.channel_name, message)
        await asyncio.sleep(0.05)
        go_on.set()
        texts = await peer.texts(200)
    assert [text for text in texts if not text.startswith("layer")] == numbers
    assert [text for text in texts if text.startswith("layer")] == [f"layer {n}" for n in numbers]


async def test_a_heartbeat_is_answered_while_a_handler_is_busy():
    class Consumer(WithLayer):
        async def receive(self, text_data=None, bytes_data=None):
            await asyncio.wait_for(go_on.wait(), BOUND)
            await super().receive(text_data)

    go_on = asyncio.Event()
    async with connected(Heartbeat(Consumer(), interval=9)) as peer:
        await peer.says("hello", "\x05")
        assert await peer.texts(1) == ["\x06"]
        go_on.set()
        assert await peer.texts(1) == ["hello"]


async def test_all_handlers_share_one_context():
    variable = contextvars.ContextVar("variable")

    class Consumer(WithLayer):
        async def connect(self):
            self.token = variable.set("from connect()")
            await self.accept()

        async def receive(self, text_data=None, bytes_data=None):
            variable.set(text_data)

        async def say(self, event):
            await self.send(variable.get())

        async def disconnect(self, code):
            variable.reset(self.token)
            await super().disconnect(code)

    consumer = Consumer()
    async with connected(consumer) as peer:
        await peer.says("from receive()")
        await asyncio.sleep(0.05)
        await consumer.channel_layer.send(consumer.channel_name, {"type": "say"})
        assert await peer.texts(1) == ["from receive()"]
        await peer.leaves()
        await peer.wait()
    assert consumer.codes == [1001]


# The end.


@pytest.mark.usefixtures("impatient")
async def test_a_handler_that_ignores_its_cancellation_does_not_spare_the_end():
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    consumer = Consumer()
    async with connected(consumer) as peer:
        await peer.says("one", "two", "three")
        await peer.leaves(4000)
        await peer.wait()
    assert consumer.codes == [4000]


@pytest.mark.usefixtures("impatient")
async def test_the_server_may_cancel_a_handler_that_is_cancelled_already():
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()
                await asyncio.sleep(0.05)

    cancelled = asyncio.Event()
    consumer = Consumer()
    async with connected(consumer) as peer:
        await peer.says("wait")
        await peer.leaves(4000)
        await asyncio.wait_for(cancelled.wait(), BOUND)
        peer.cancel()
        await peer.wait()
        if sys.version_info >= (3, 11):  # Before, it cannot be told whose cancellation it was.
            assert peer.was_cancelled
    assert consumer.codes == [4000]


async def test_cancelled_by_the_server_it_says_1012():
    consumer = Logged()
    async with connected(consumer) as peer:
        peer.cancel()
        assert (await peer.receive_output())["code"] == 1012
        await peer.wait()
        assert peer.was_cancelled
    assert consumer.codes == [1012]


@pytest.mark.usefixtures("impatient")
async def test_then_disconnect_has_its_time_and_no_more(caplog):
    class Consumer(Logged):
        async def disconnect(self, code):
            await super().disconnect(code)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.codes.append("cancelled")
                raise

    consumer = Consumer()
    async with connected(consumer) as peer:
        peer.cancel()
        await peer.wait()
        assert peer.was_cancelled
    assert consumer.codes == [1012, "cancelled"]
    assert "disconnect() is cancelled, 0.2 s after the server has cancelled" in caplog.text


async def test_what_disconnect_raises_is_raised_and_groups_are_left_all_the_same():
    class Consumer(WithLayer):
        groups = ["one", "two"]

        async def disconnect(self, code):
            raise RuntimeError("in disconnect()")

    async with connected(Consumer()) as peer:
        assert set(get_channel_layer().groups) == {"one", "two"}
        await peer.leaves()
        with pytest.raises(RuntimeError, match=r"in disconnect\(\)"):
            await peer.wait()
    assert get_channel_layer().groups == {}


async def test_what_a_handler_raised_comes_first_and_the_rest_is_logged(caplog):
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            raise RuntimeError("in receive()")

        async def disconnect(self, code):
            raise RuntimeError("in disconnect()")

    async with connected(Consumer()) as peer:
        await peer.says("hello")
        with pytest.raises(RuntimeError, match=r"in receive\(\)"):
            await peer.wait()
    assert "disconnect() raised, too: path '/ws'" in caplog.text
    assert "RuntimeError: in disconnect()" in caplog.text


async def test_disconnect_is_called_when_the_groups_cannot_be_left():
    consumer = WithLayer()
    consumer.groups = ["one"]

    async def discard(group, channel):
        raise ConnectionError("the layer is gone")

    async with connected(consumer) as peer:
        consumer.channel_layer.group_discard = discard
        await peer.leaves()
        with pytest.raises(ConnectionError, match="the layer is gone"):
            await peer.wait()
    assert consumer.codes == [1001]


async def test_groups_without_a_channel_layer_are_an_error():
    consumer = Logged()
    consumer.groups = ["one"]
    async with Served(consumer) as peer:
        await peer.connects()
        with pytest.raises(InvalidChannelLayerError):
            await peer.wait()


async def test_a_channel_layer_that_fails_ends_the_connection():
    async def fail(channel):
        raise RuntimeError("the layer is broken")

    with override_settings():
        get_channel_layer().receive = fail
        consumer = WithLayer()
        async with Served(consumer) as peer:
            await peer.connects()
            with pytest.raises(RuntimeError, match="the layer is broken"):
                await peer.wait()


async def test_a_connection_that_is_cancelled_before_it_has_begun_calls_nothing():
    consumer = Logged()
    async with Served(consumer) as peer:
        await asyncio.sleep(0.01)
        peer.cancel()
        await peer.wait()
        assert peer.was_cancelled
        assert consumer.codes == []


async def test_a_handshake_that_is_cancelled_while_it_is_accepted_was_never_connected():
    class Stuck(Served):
        async def serve_send(self, message):
            await asyncio.Event().wait()

    codes = []

    async def note(code, **_):
        codes.append(code)

    disconnected.connect(note)
    async with Stuck(WebSocketSupport(Logged(), allowed_origins=["*"])) as peer:
        await peer.connects()
        await asyncio.sleep(0.01)
        peer.cancel()
        await peer.wait()
        assert peer.was_cancelled
        disconnected.disconnect(note)
        assert codes == []


@pytest.mark.parametrize("raises", [False, True])
async def test_disconnect_is_called_also_when_the_server_cancels_the_close(raises):
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            if raises:
                raise RuntimeError("asked for")
            raise StopConsumer

    consumer = Consumer()
    async with connected(consumer, StuckAtTheEnd) as peer:
        await peer.says("the end")
        await asyncio.wait_for(peer.is_stuck.wait(), BOUND)
        peer.cancel()
        if raises:
            with pytest.raises(RuntimeError, match="asked for"):
                await peer.wait()
        else:
            await peer.wait()
            assert peer.was_cancelled
    assert consumer.codes == [1011 if raises else 1000]


async def test_disconnect_is_called_also_when_the_server_cancels_twice():
    consumer = Logged()
    async with connected(consumer, StuckAtTheEnd) as peer:
        peer.cancel()
        await asyncio.wait_for(peer.is_stuck.wait(), BOUND)
        peer.cancel()
        await peer.wait()
        assert peer.was_cancelled
    assert consumer.codes == [1012]


async def test_disconnect_is_called_also_when_the_server_cancels_what_comes_before_it():
    class Consumer(Logged):
        async def connect(self):
            await super().connect()
            self.start_background(self.last())

        async def last(self):
            try:
                await asyncio.sleep(60)
            finally:
                ending.set()
                await asyncio.sleep(0.2)

    ending = asyncio.Event()
    consumer = Consumer()
    async with connected(consumer) as peer:
        await peer.leaves()
        await asyncio.wait_for(ending.wait(), BOUND)
        peer.cancel()
        await peer.wait()
        assert peer.was_cancelled
    assert consumer.codes == [1001]


async def test_a_close_that_cannot_be_sent_does_not_hold_up_the_end():
    consumer = Logged()
    async with connected(consumer) as peer:
        peer.fail_sends(RuntimeError("already closed"))
        peer.cancel()
        await peer.wait()
        assert peer.was_cancelled
    assert consumer.codes == [1012]


@pytest.mark.parametrize(
    "answer",
    [{"type": "websocket.accept"}, {"type": "websocket.http.response.start", "status": 503}],
    ids=["accept", "refusal"],
)
async def test_an_answer_to_the_handshake_that_comes_too_late_is_no_error(answer):
    class Consumer(Logged):
        async def connect(self):
            await self.base_send(answer)

    consumer = Consumer()
    async with Served(consumer) as peer:
        peer.fail_sends(OSError("gone"))
        await peer.connects()
        await peer.leaves(1006)
        await peer.wait()
        assert consumer.codes == [1006]


async def test_a_drain_that_the_server_refuses_since_the_client_has_just_gone_is_no_error():
    class Refusing(Served):
        async def serve_send(self, message):
            if message["type"] == "websocket.close":
                is_refused.set()
                raise RuntimeError("after the end")
            await super().serve_send(message)

    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            is_busy.set()
            await asyncio.wait_for(is_refused.wait(), BOUND)

    is_busy, is_refused = asyncio.Event(), asyncio.Event()
    consumer = Consumer()
    async with connected(Heartbeat(consumer, interval=9), Refusing) as peer:
        await peer.says("hello")
        await asyncio.wait_for(is_busy.wait(), BOUND)
        [connection] = open_connections._connections
        await connection.drain(1012, "The server is stopping")
        await peer.wait()
    assert consumer.codes == [1012]


async def test_what_is_put_in_front_of_base_send_sees_all_that_is_sent():
    seen = []

    class Consumer(Logged):
        async def connect(self):
            base_send = self.base_send

            async def send(message):
                seen.append(message["type"])
                await base_send(message)

            self.base_send = send
            await self.accept()

        async def receive(self, text_data=None, bytes_data=None):
            await self.send(text_data)
            await self.close()

    consumer = Consumer()
    async with connected(consumer) as peer:
        await peer.says("hello")
        assert await peer.texts(1) == ["hello"]
    assert seen == ["websocket.accept", "websocket.send", "websocket.close"]


async def test_data_that_goes_out_by_base_send_too_late_is_no_error():
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            peer.fail_sends(OSError("gone"))
            await self.base_send({"type": "websocket.send", "text": "late"})

    consumer = Consumer()
    async with connected(consumer) as peer:
        await peer.says("hello")
        await peer.leaves(1006)
        await peer.wait()
    assert consumer.codes == [1006]


async def test_a_close_that_comes_too_late_is_no_error():
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            peer.fail_sends(OSError("gone"))
            await self.close()

    consumer = Consumer()
    async with connected(consumer) as peer:
        await peer.says("hello")
        await peer.wait()
    assert consumer.codes == [1000]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs exception groups")
@pytest.mark.parametrize("other", [False, True])
async def test_in_a_group_of_exceptions_only_those_of_the_client_are_no_error(other):
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.send("one"))
                group.create_task(self.send("two"))
                if other:
                    group.create_task(self.fail())

        async def fail(self):
            raise RuntimeError

    consumer = Consumer()
    async with connected(consumer) as peer:
        peer.fail_sends(OSError("gone"))
        await peer.says("hello")
        await peer.leaves()
        if other:
            with pytest.raises(ExceptionGroup):  # noqa: F821
                await peer.wait()
        else:
            await peer.wait()
    assert consumer.codes == [1011 if other else 1001]


async def test_an_os_error_of_the_consumer_is_an_error():
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            raise FileNotFoundError("mine")

    async with connected(Consumer()) as peer:
        await peer.says("hello")
        with pytest.raises(FileNotFoundError, match="mine"):
            await peer.wait()


async def test_the_consumer_may_refuse_with_a_response_of_its_own():
    class Consumer(Logged):
        async def connect(self):
            start = {"type": "websocket.http.response.start", "status": 418, "headers": []}
            await self.base_send(start)
            body = {"type": "websocket.http.response.body", "body": b"tea", "more_body": True}
            await self.base_send(body)
            await self.base_send({**body, "more_body": False})

    consumer = Consumer()
    async with Served(consumer) as peer:
        await peer.connects()
        await peer.wait()
        assert consumer.codes == [1006]


async def test_the_consumer_may_refuse_with_an_exception():
    class Consumer(Logged):
        async def connect(self):
            raise DenyConnection

    consumer = Consumer()
    async with Served(consumer) as peer:
        await peer.connects()
        assert (await peer.receive_output())["type"] == "websocket.close"
        await peer.wait()
        assert consumer.codes == [1006]


async def test_without_a_code_it_is_1005():
    consumer = Logged()
    async with connected(consumer) as peer:
        await peer.send_input({"type": "websocket.disconnect"})
        await peer.wait()
    assert consumer.codes == [1005]


async def test_a_connection_that_has_not_begun_has_no_end():
    consumer = Logged()
    async with Served(consumer) as peer:
        await asyncio.sleep(0)
        peer.cancel()
        await peer.wait()
        assert peer.was_cancelled
        assert consumer.codes == []


async def test_a_silent_client_is_given_up_after_its_messages_were_handled():
    class Consumer(WithLayer):
        cancel_on_disconnect = False

        async def receive(self, text_data=None, bytes_data=None):
            await asyncio.sleep(0.5)
            self.codes.append(text_data)

    consumer = Consumer()
    async with connected(Heartbeat(consumer, interval=0.1)) as peer:
        await peer.says("one", "two")
        await peer.wait()
        assert (await peer.receive_output())["code"] == 3008
    assert consumer.codes == ["one", "two", 3008]


@override_settings(WS_SUPPORT={"BROADCAST_QUEUE": 1})
async def test_a_slow_client_is_given_up_after_the_handler_that_runs_has_finished():
    class Stuck(Served):
        async def serve_send(self, message):
            if message["type"] == "websocket.send":
                await asyncio.Event().wait()
            await super().serve_send(message)

    class Consumer(Logged):
        cancel_on_disconnect = False
        subscriptions = ["topic"]

        async def receive(self, text_data=None, bytes_data=None):
            for _ in range(3):
                await broadcast("topic", "never read")
            await self.send("dropped")
            self.codes.append("finished")

    consumer = Consumer()
    async with connected(consumer, Stuck) as peer:
        await peer.says("hello")
        assert (await peer.receive_output())["code"] == 1013
        await peer.wait()
    assert consumer.codes == ["finished", 1013]


async def test_a_client_that_was_given_up_hears_why_also_when_the_handler_raises():
    class Consumer(Logged):
        cancel_on_disconnect = False
        subscriptions = ["topic"]

        async def receive(self, text_data=None, bytes_data=None):
            TopicRegistry.of_this_loop().miss("topic", 1, "asked for")
            raise RuntimeError("asked for")

    consumer = Consumer()
    async with connected(consumer) as peer:
        await peer.says("hello")
        assert (await peer.receive_output())["code"] == 1013
        with pytest.raises(RuntimeError, match="asked for"):
            await peer.wait()
    assert consumer.codes == [1011]


async def test_what_is_sent_to_a_client_that_leaves_after_it_was_given_up_goes_nowhere(caplog):
    class Consumer(WithLayer):
        cancel_on_disconnect = False

        async def receive(self, text_data=None, bytes_data=None):
            await asyncio.wait_for(has_left.wait(), BOUND)
            await self.send("too late")
            self.codes.append("sent")

    caplog.set_level(logging.INFO, "ws_support.heartbeat")
    has_left = asyncio.Event()
    consumer = Consumer()
    async with connected(Heartbeat(consumer, interval=0.1)) as peer:
        await peer.says("hello")
        await eventually(lambda: "Closed with 3008" in caplog.text)
        await peer.leaves()
        await eventually(lambda: peer.received == 3)
        has_left.set()
        await peer.wait()
    assert consumer.codes == ["sent", 3008]


async def test_an_accept_that_fails_after_a_close_does_not_open_the_connection_again():
    class Closed(Served):
        async def serve_send(self, message):
            if message["type"] == "websocket.accept":
                await asyncio.wait_for(is_closed.wait(), BOUND)
                raise OSError("gone")
            await super().serve_send(message)
            is_closed.set()

    class Consumer(Logged):
        async def connect(self):
            self.start_background(self.close(4000))
            with contextlib.suppress(OSError):
                await self.accept()
            await self.close(4001)

    is_closed = asyncio.Event()
    consumer = Consumer()
    async with Closed(consumer) as peer:
        await peer.connects()
        assert (await peer.receive_output())["code"] == 4000
        await peer.wait()
        assert await peer.receive_nothing(0)
    assert consumer.codes == [4000]


async def test_a_second_accept_that_the_server_refuses_leaves_the_connection_open():
    class Once(Served):
        async def serve_send(self, message):
            if message["type"] == "websocket.accept" and self.received > 1:
                raise RuntimeError("accepted already")
            await super().serve_send(message)

    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            with pytest.raises(RuntimeError, match="accepted already"):
                await self.accept()
            await self.close(4000)

    consumer = Consumer()
    async with connected(consumer, Once) as peer:
        await peer.says("hello")
        assert (await peer.receive_output())["code"] == 4000
        await peer.wait()
    assert consumer.codes == [4000]


async def test_what_is_sent_after_the_close_goes_nowhere():
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            await self.close(4000)
            await self.send("too late")
            await self.close(4001)

    consumer = Consumer()
    async with connected(consumer) as peer:
        await peer.says("hello")
        assert (await peer.receive_output())["code"] == 4000
        await peer.wait()
        assert await peer.receive_nothing(0)
    assert consumer.codes == [4000]


async def test_a_client_whose_messages_are_not_read_yet_is_not_silent():
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            if text_data == "0":
                await asyncio.sleep(0.4)  # Twice as long as the client may be silent.
            await self.send(text_data)

    async with connected(Heartbeat(Consumer(), interval=0.1)) as peer:
        for number in range(12):
            await peer.says(str(number))
            await asyncio.sleep(0.05)
        assert await peer.texts(12) == [str(number) for number in range(12)]


@pytest.mark.usefixtures("impatient")
async def test_reading_ahead_happens_in_the_context_of_the_connection():
    variable = contextvars.ContextVar("variable", default="of nobody")
    seen = []

    def middleware(application, name):
        async def run(scope, receive, send):
            async def noting():
                seen.append((name, variable.get()))
                return await receive()

            variable.set(name)
            await application(scope, noting, send)

        return run

    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            await asyncio.wait_for(go_on.wait(), BOUND)
            await self.send(text_data)

    go_on = asyncio.Event()
    one, two = middleware(Consumer(), "one"), middleware(Consumer(), "two")
    async with connected(one) as first, connected(two) as second:
        await first.says("a", "b")
        await second.says("a", "b")
        await eventually(lambda: first.received == second.received == 3)
        go_on.set()
        assert await first.texts(2) == await second.texts(2) == ["a", "b"]
    assert set(seen) == {("one", "one"), ("two", "two")}


# Background tasks.


async def test_a_background_task_has_the_name_of_its_function_unless_told():
    class Consumer(Logged):
        async def connect(self):
            self.task = self.start_background(asyncio.sleep(60))
            self.named = self.start_background(self.watch(), name="watch of /ws")
            await self.accept()

        async def watch(self):
            await asyncio.sleep(60)

    consumer = Consumer()
    async with connected(consumer) as peer:
        assert (consumer.task.get_name(), consumer.named.get_name()) == ("sleep", "watch of /ws")
        await peer.leaves()
        await peer.wait()
    assert consumer.task.cancelled()
    assert consumer.named.cancelled()


async def test_a_background_task_that_ends_does_no_more():
    class Consumer(Logged):
        async def connect(self):
            await self.accept()
            self.start_background(self.greet())

        async def greet(self):
            await self.send("welcome")

    consumer = Consumer()
    async with connected(consumer) as peer:
        assert await peer.texts(1) == ["welcome"]
        await peer.says("hello")
        assert await peer.texts(1) == ["hello"]
        await peer.leaves()
        await peer.wait()
    assert consumer.codes == [1001]


async def test_a_background_task_whose_client_has_gone_is_no_error(caplog):
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            peer.fail_sends(OSError("gone"))
            await asyncio.gather(self.start_background(self.send("one")), return_exceptions=True)

    consumer = Consumer()
    async with connected(consumer) as peer:
        await peer.says("hello")
        await peer.leaves()
        await peer.wait()
    assert consumer.codes == [1001]
    assert caplog.text == ""


async def test_background_tasks_that_raise_together_are_all_logged(caplog):
    class Consumer(Logged):
        async def connect(self):
            await self.accept()
            self.start_background(self.fail("first"))
            self.start_background(self.fail("second"))

        async def fail(self, name):
            raise RuntimeError(name)

    async with connected(Consumer()) as peer:
        with pytest.raises(RuntimeError, match="first"):
            await peer.wait()
    first, second = (record for record in caplog.records if "background" in record.message)
    assert "raised RuntimeError('first')" in first.message
    assert "raised RuntimeError('second')" in second.message
    assert first.exc_info
    assert second.exc_info


async def test_a_background_task_that_raises_when_it_is_cancelled_is_logged(caplog):
    class Consumer(Logged):
        async def connect(self):
            await self.accept()
            self.start_background(self.watch())

        async def watch(self):
            try:
                await asyncio.sleep(60)
            finally:
                raise RuntimeError("cleaning up")

    consumer = Consumer()
    async with connected(consumer) as peer:
        await asyncio.sleep(0.01)
        await peer.leaves()
        await peer.wait()
    assert consumer.codes == [1001]
    assert "RuntimeError: cleaning up" in caplog.text


@pytest.mark.usefixtures("impatient")
async def test_a_background_task_that_ignores_its_cancellation_is_left_behind(caplog):
    class Consumer(Logged):
        async def connect(self):
            await self.accept()
            self.stubborn = self.start_background(self.watch(), name="stubborn")

        async def watch(self):
            while not done.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await done.wait()

    done = asyncio.Event()
    consumer = Consumer()
    async with connected(consumer) as peer:
        await asyncio.sleep(0.01)
        await peer.leaves()
        await peer.wait()
        done.set()
        await consumer.stubborn
    assert consumer.codes == [1001]
    assert "The task stubborn has not ended 0.1 s after its cancellation" in caplog.text


async def test_a_background_task_needs_a_coroutine():
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            with pytest.raises(TypeError, match=r"start_background\(\) takes a coroutine") as error:
                self.start_background(self.receive)
            assert "Consumer.receive" in str(error.value)
            await self.send("right")

    async with connected(Consumer()) as peer:
        await peer.says("hello")
        assert await peer.texts(1) == ["right"]


async def test_a_background_task_needs_a_connection():
    consumer = Logged()
    with pytest.raises(RuntimeError, match="before there is a connection"):
        consumer.start_background(asyncio.sleep(1))
    async with connected(consumer) as peer:
        await peer.leaves()
        await peer.wait()
        with pytest.raises(RuntimeError, match="after the connection had ended"):
            consumer.start_background(asyncio.sleep(1))


# What a consumer is written like.


def synchronous(self, *args, **kwargs):
    """What a coroutine function should have been."""


@pytest.mark.parametrize("method", ["connect", "receive", "disconnect", "say"])
async def test_a_method_that_is_no_coroutine_function_is_named(method):
    consumer = type("Consumer", (WithLayer,), {method: synchronous})()
    async with Served(consumer) as peer:
        await peer.connects()
        if method == "say":
            await peer.receive_output()
            await consumer.channel_layer.send(consumer.channel_name, {"type": "say"})
        await peer.says("hello")
        if method != "say":
            await peer.leaves()
        with pytest.raises(TypeError) as error:
            await peer.wait()
        assert str(error.value) == (
            f"Consumer.{method}() has to be a coroutine function: write `async def {method}`."
        )


@pytest.mark.parametrize("method", ["receive_json", "decode_json", "encode_json"])
async def test_so_is_one_of_the_json_consumer(method):
    class Echo(AsyncJsonWebsocketConsumer):
        channel_layer_alias = None

        async def receive_json(self, content):
            await self.send_json(content)

    consumer = type("Consumer", (Echo,), {method: synchronous})()
    async with connected(consumer) as peer:
        await peer.says("{}")
        with pytest.raises(TypeError, match=rf"Consumer\.{method}\(\) has to be a coroutine"):
            await peer.wait()


async def test_a_function_that_returns_an_awaitable_will_do():
    class Consumer(Logged):
        def receive(self, text_data=None, bytes_data=None):
            return self.send(text_data)

    async with connected(Consumer()) as peer:
        await peer.says("hello")
        assert await peer.texts(1) == ["hello"]


@pytest.mark.parametrize("method", ["dispatch", "websocket_receive"])
async def test_what_is_overridden_is_called(method):
    async def overridden(self, message):
        seen.append(message["type"])
        await getattr(Logged, method)(self, message)

    seen = []
    consumer = type("Consumer", (Logged,), {method: overridden})()
    async with connected(consumer) as peer:
        await peer.says("hello")
        assert await peer.texts(1) == ["hello"]
        await peer.leaves()
        await peer.wait()
    every = ["websocket.connect", "websocket.receive", "websocket.disconnect"]
    assert seen == (every if method == "dispatch" else ["websocket.receive"])


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"type": "_private"}, "leading underscore"),
        ({"type": ".private"}, "leading underscore"),
        ({"type": "unheard.of"}, "No handler for message type unheard.of"),
        ({}, "no 'type' attribute"),
    ],
)
async def test_a_message_without_a_handler_raises(message, error):
    class Consumer(WithLayer):
        async def _private(self, event):
            raise AssertionError

    consumer = Consumer()
    async with connected(consumer) as peer:
        await consumer.channel_layer.send(consumer.channel_name, message)
        with pytest.raises(ValueError, match=error):
            await peer.wait()
        # As in Channels, it closes nothing; that is up to the server.
        assert await peer.receive_nothing(0)
    assert consumer.codes == [1011]


async def test_behind_the_heartbeat_it_closes_with_1011():
    consumer = WithLayer()
    async with connected(Heartbeat(consumer)) as peer:
        await consumer.channel_layer.send(consumer.channel_name, {"type": "unheard.of"})
        assert (await peer.receive_output())["code"] == 1011
        with pytest.raises(ValueError, match="No handler"):
            await peer.wait()


async def test_close_may_be_asked_for_with_the_last_message():
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            await self.send(text_data, close=4000)

    consumer = Consumer()
    async with connected(consumer) as peer:
        await peer.says("bye")
        assert await peer.texts(1) == ["bye"]
        assert (await peer.receive_output())["code"] == 4000
        await peer.wait()
    assert consumer.codes == [4000]


async def test_there_is_nothing_to_send_without_text_or_bytes():
    class Consumer(Logged):
        async def receive(self, text_data=None, bytes_data=None):
            with pytest.raises(ValueError, match="one of bytes_data or text_data"):
                await self.send()
            await self.send(bytes_data=b"")

    async with connected(Consumer()) as peer:
        await peer.says("hello")
        assert (await peer.receive_output())["bytes"] == b""


@pytest.mark.parametrize(
    "application",
    [Logged.as_asgi(), WebSocketSupport(Logged()).__call__, Heartbeat(Logged()).__call__],
)
def test_servers_see_asgi_3_applications(application):
    assert inspect.iscoroutinefunction(application)


# JSON.


class JsonEcho(AsyncJsonWebsocketConsumer):
    channel_layer_alias = None

    async def receive_json(self, content):
        await self.send_json({"got": content})


async def test_json_is_decoded_and_encoded():
    async with connected(JsonEcho()) as peer:
        await peer.says('{"a": [1, null]}')
        assert await peer.texts(1) == ['{"got": {"a": [1, null]}}']


async def test_json_may_be_the_last_message():
    class Consumer(JsonEcho):
        async def receive_json(self, content):
            await self.send_json(content, close=True)

    async with connected(Consumer()) as peer:
        await peer.says("1")
        assert await peer.texts(1) == ["1"]
        assert (await peer.receive_output())["type"] == "websocket.close"
        await peer.wait()


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 100_000, "1" * 5000, '"\\ud800"x'])
async def test_what_is_no_json_closes_with_1007_and_is_one_line_in_the_log(text, caplog):
    application = WebSocketSupport(JsonEcho(), allow_missing_origin=True)
    async with connected(application) as peer:
        await peer.says(text)
        closed = await peer.receive_output()
        assert (closed["code"], closed["reason"]) == (1007, "The message is not valid JSON")
        await peer.wait()
    [record] = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert "The message is not valid JSON" in record.getMessage()
    assert record.exc_info is None


async def test_binary_closes_with_1003():
    application = WebSocketSupport(JsonEcho(), allow_missing_origin=True)
    async with connected(application) as peer:
        await peer.send_input({"type": "websocket.receive", "bytes": b"{}"})
        assert (await peer.receive_output())["code"] == 1003
        await peer.wait()


async def test_without_the_stack_it_raises_as_in_channels():
    async with connected(JsonEcho()) as peer:
        await peer.says("nonsense")
        with pytest.raises(ValueError, match="not valid JSON"):
            await peer.wait()
