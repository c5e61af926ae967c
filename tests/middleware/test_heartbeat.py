"""Who is still there: `HEARTBEAT_INTERVAL` and the signals, on real servers."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import ExitStack

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer
from websockets.exceptions import ConnectionClosed

from tests.harness import BOUND, SERVERS, serving
from ws_support._connection.registry import open_connections
from ws_support.asgi import WebSocketSupport
from ws_support.middleware.heartbeat import Heartbeat
from ws_support.signals import connected, disconnected
from ws_support.testing import Peer, RunningApplication, websocket_scope

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=SERVERS)
def one_server(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    settings = {"HEARTBEAT_INTERVAL": 1}
    with serving(log_file, command=request.param, WS_SUPPORT=settings) as server:
        yield server


@pytest.fixture
def server(one_server):
    return one_server.from_now_on()


def test_a_silent_client_is_closed_with_3008_after_two_to_three_seconds(server):
    start = time.monotonic()
    with server.connect("/logged") as socket:
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
        silence = time.monotonic() - start
    assert closed.value.rcvd.code == 3008
    assert closed.value.rcvd.reason == "No message for 2 seconds"
    assert 2 <= silence <= 7
    event = server.wait_for_event("disconnected", "/logged")
    assert (event["code"], event["reason"]) == (3008, "No message for 2 seconds")
    assert 2 <= event["duration"] <= 7
    server.wait_for_log('To allow more, raise WS_SUPPORT["HEARTBEAT_INTERVAL"] or')


def test_a_client_whose_network_is_cut_is_reported_within_the_same_time(server):
    # It neither answers the close nor goes away: the socket stays open and nobody reads it.
    with server.raw() as client:
        start = time.monotonic()
        assert client.handshake("/logged")[0] == 101
        event = server.wait_for_event("disconnected", "/logged")
        assert 2 <= time.monotonic() - start <= 7
    assert event["code"] == 3008
    assert [each["code"] for each in server.events("disconnect()", "/logged")] == [3008]


@pytest.mark.slow
def test_clients_that_send_anything_every_second_stay_for_ten(server):
    answers = {"hello": "hello", b"\x00": b"\x00", "": "", "\x05": "\x06"}
    with ExitStack() as stack:
        sockets = {message: stack.enter_context(server.connect("/logged")) for message in answers}
        for _ in range(10):
            time.sleep(1)
            for message, socket in sockets.items():
                socket.send(message)
                assert socket.recv(timeout=1) == answers[message]
    server.wait_for_event("disconnected", "/logged", len(answers))
    codes = {event["code"] for event in server.events("disconnected")}
    # Hypercorn 0.18 says 1006 for whatever a client closes with.
    assert codes in ({1000}, {1006})


def test_the_heartbeat_is_answered_and_not_handed_on(server):
    with server.connect() as socket:
        socket.send("\x05")
        socket.send(b"\x05")
        socket.send("\x05\x05")
        assert [socket.recv() for _ in range(3)] == ["\x06", b"\x05", "\x05\x05"]


def test_a_route_may_have_its_own_interval(server):
    start = time.monotonic()
    with server.connect("/often") as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=5)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3008, "No message for 1 seconds")
    assert time.monotonic() - start >= 1
    server.wait_for_event("disconnected", "/often")
    assert len(server.events("disconnected", "/often")) == 1


def test_a_busy_handler_does_not_make_its_client_silent(server):
    with server.connect("/busy") as socket:
        socket.send("3")
        for _ in range(3):
            time.sleep(0.9)
            socket.send("0")
        assert [socket.recv(timeout=5) for _ in range(4)] == ["3", "0", "0", "0"]


def test_a_silent_client_is_found_while_its_handler_is_busy(server):
    started = time.monotonic()
    with server.connect("/busy") as socket:
        socket.send("8")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd.code == 3008
    assert time.monotonic() - started < 4


def test_of_a_consumer_that_does_not_read_ahead_it_is_found_when_the_handler_is_done(server):
    with server.connect("/busy-of-channels") as socket:
        socket.send("2.5")
        assert socket.recv(timeout=5) == "2.5"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
    assert closed.value.rcvd.code == 3008


def test_the_count_then_starts_again(server):
    with server.connect("/busy-of-channels") as socket:
        socket.send("2.5")
        assert socket.recv(timeout=5) == "2.5"
        time.sleep(0.5)
        socket.send("0")
        assert socket.recv(timeout=5) == "0"


def test_without_an_interval_the_message_is_a_message_like_others(demo):
    with demo.connect() as socket:
        socket.send("\x05")
        assert socket.recv() == "\x05"


def test_message_and_reply_may_be_chosen(serve):
    server = serve(
        WS_SUPPORT={
            "HEARTBEAT_INTERVAL": 9,
            "HEARTBEAT_MESSAGE": "ping",
            "HEARTBEAT_REPLY": "pong",
        }
    )
    with server.connect() as socket:
        socket.send("ping")
        socket.send("\x05")
        assert [socket.recv(), socket.recv()] == ["pong", "\x05"]


def test_without_a_message_every_message_is_handed_on(serve):
    server = serve(WS_SUPPORT={"HEARTBEAT_INTERVAL": 9, "HEARTBEAT_MESSAGE": None})
    with server.connect() as socket:
        socket.send("\x05")
        assert socket.recv() == "\x05"


def test_connected_and_disconnected_are_sent_once_each(demo):
    count = len(demo.events("disconnected", "/logged"))
    with demo.connect("/logged") as socket:
        socket.close(4321, "bye")
    event = demo.wait_for_event("disconnected", "/logged", count + 1)
    assert (event["code"], event["reason"]) == (4321, "bye")
    assert 0 <= event["duration"] < 10
    assert len(demo.events("connected", "/logged")) == count + 1


# In one process with the application: what no client can bring about.


def client_of(application, path: str = "/ws") -> Peer:
    return Peer(application, path, scope={"client": ("192.0.2.1", 4711)})


@pytest.fixture
def reports():
    """What the signal `disconnected` says."""
    received: list[tuple[int, str]] = []

    async def receive(code, reason, **_):
        received.append((code, reason))

    disconnected.connect(receive)
    yield received
    disconnected.disconnect(receive)


async def accepting(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})


async def test_a_route_replaces_what_it_names_and_nothing_else(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        assert (await receive())["type"] == "websocket.disconnect"

    route = Heartbeat(application, reply="route's")
    async with client_of(Heartbeat(route, interval=9, message="application's")) as client:
        await client.send("application's")
        assert await client.receive() == "route's"
    assert len(reports) == 1


async def test_an_application_that_is_cancelled_is_reported_with_1012(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await receive()

    async with client_of(Heartbeat(application)) as client:
        client.cancel()
        await client.wait()
    assert client.was_cancelled
    assert reports == [(1012, "")]


async def test_a_consumer_of_channels_that_is_cancelled_when_the_server_stops_hears_of_it(reports):
    codes = []
    is_busy = asyncio.Event()

    class Consumer(AsyncWebsocketConsumer):
        async def receive(self, text_data=None, bytes_data=None):
            is_busy.set()
            await asyncio.Event().wait()

        async def disconnect(self, code):
            codes.append(code)

    async with client_of(Heartbeat(Consumer.as_asgi())) as client:
        await client.send("go")
        await asyncio.wait_for(is_busy.wait(), BOUND)
        open_connections.cancel()
        await client.wait()  # Servers would log what it raises.
    assert (codes, reports) == ([1012], [(1012, "")])


async def test_a_close_frame_that_another_task_is_still_sending_says_why(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        closing.append(asyncio.create_task(send({"type": "websocket.close", "code": 4000})))
        await is_full.wait()

    class Full(Peer):
        async def serve_send(self, message):
            if message["type"] == "websocket.close":
                is_full.set()
                await asyncio.Event().wait()
            await super().serve_send(message)

    is_full = asyncio.Event()
    closing = []
    async with Full(Heartbeat(application, interval=9), "/ws") as client:
        await client.wait()
    closing[0].cancel()
    assert reports == [(4000, "")]


class Full(Peer):
    """A client whose buffers are full when it is closed."""

    def __init__(self, application):
        super().__init__(application, "/ws", scope={"asgi": {"version": "3.0"}})
        self.is_full = asyncio.Event()

    async def serve_send(self, message):
        if message["type"] == "websocket.close":
            self.is_full.set()
            await asyncio.Event().wait()
        await super().serve_send(message)


@pytest.mark.parametrize("by_server", [True, False])
async def test_who_is_cancelled_while_its_close_frame_is_sent_is_reported_all_the_same(
    by_server, reports
):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        raise RuntimeError("asked for")

    async with Full(Heartbeat(application)) as client:
        await asyncio.wait_for(client.is_full.wait(), BOUND)
        if by_server:
            client.cancel()
            await client.wait()
        else:
            open_connections.cancel()
            with pytest.raises(RuntimeError, match="asked for"):
                await client.wait()
    assert client.was_cancelled == by_server
    assert reports == [(1011, "")]
    assert len(open_connections) == 0


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count cancellations")
async def test_a_server_may_cancel_what_was_cancelled_since_it_stops(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await asyncio.Event().wait()

    async with Full(Heartbeat(application)) as client:
        [connection] = open_connections._connections
        await connection.drain(1012, "The server is stopping")
        await asyncio.wait_for(client.is_full.wait(), BOUND)
        connection.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        client.cancel()
        await client.wait()
    assert client.was_cancelled
    assert reports == [(1012, "The server is stopping")]


@pytest.mark.parametrize("by_server", [True, False])
async def test_who_is_cancelled_while_it_hears_why_its_client_has_gone_is_reported_all_the_same(
    by_server, reports
):
    class Consumer(AsyncWebsocketConsumer):
        async def receive(self, text_data=None, bytes_data=None):
            client.fail_sends(OSError("gone"))
            is_gone.set()
            await self.send("too late")

        async def disconnect(self, code):
            codes.append(code)

    codes = []
    is_gone = asyncio.Event()
    async with client_of(Heartbeat(Consumer.as_asgi())) as client:
        await client.send("go")
        await asyncio.wait_for(is_gone.wait(), BOUND)
        for _ in range(5):
            await asyncio.sleep(0)
        (client.cancel if by_server else open_connections.cancel)()
        await client.wait()
    assert client.was_cancelled == by_server
    assert reports == [(1006, "")]
    # Whom the server cancels, it does not wait for.
    assert codes == ([] if by_server else [1006])


async def test_an_application_that_raises_is_reported_and_still_raises(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        raise RuntimeError("asked for")

    async with client_of(Heartbeat(application)) as client:
        with pytest.raises(RuntimeError, match="asked for"):
            await client.wait()
    assert reports == [(1011, "")]


async def test_the_first_to_close_says_why(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await send({"type": "websocket.close", "code": 4000, "reason": "ours"})
        assert (await receive())["code"] == 4001

    async with RunningApplication(Heartbeat(application), websocket_scope("/ws")) as running:
        await running.send_input({"type": "websocket.connect"})
        await running.send_input({"type": "websocket.disconnect", "code": 4001})
        await running.wait()
    assert reports == [(4000, "ours")]


async def test_a_heartbeat_after_the_close_is_not_answered():
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await send({"type": "websocket.close"})
        await receive()

    application = Heartbeat(application, interval=9)
    async with RunningApplication(application, websocket_scope("/ws")) as running:
        for message in (
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": "\x05"},
        ):
            await running.send_input(message)
        for kind in ("accept", "close"):
            assert (await running.receive_output())["type"] == f"websocket.{kind}"
        assert await running.receive_nothing()


async def test_a_client_that_is_gone_when_its_heartbeat_is_answered_is_only_gone(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        assert (await receive())["type"] == "websocket.disconnect"

    application = Heartbeat(application, interval=9)
    async with client_of(application) as client:
        client.fail_sends(OSError("gone"))
        await client.send("\x05")
        await client.send_input({"type": "websocket.disconnect", "code": None})
        await client.wait()
    assert reports == [(1005, "")]


async def test_a_close_that_the_server_cannot_send_does_not_hold_up_the_report(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        assert (await receive())["code"] == 3008
        # Nobody is there to send to.
        await send({"type": "websocket.send", "text": "goodbye"})

    start = time.monotonic()
    async with client_of(Heartbeat(application, interval=0.1)) as client:
        client.pause_reading()
        await client.wait()
    assert time.monotonic() - start < 5
    assert reports == [(3008, "No message for 0.2 seconds")]


async def test_a_cancellation_of_a_reader_is_left_alone(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        reader = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        cancelled.set()
        assert (await receive())["text"] == "hello"

    cancelled = asyncio.Event()
    async with client_of(Heartbeat(application, interval=9)) as client:
        await asyncio.wait_for(cancelled.wait(), BOUND)
        await client.send("hello")
        await client.wait()
    assert reports == [(1000, "")]


async def test_a_server_that_answers_a_cancellation_with_an_end_of_its_own_is_not_heard(reports):
    """Granian 2.8, at times."""

    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        ends.append(await receive())

    async def receiving(scope, receive, send):
        async def swallowing():
            try:
                return await receive()
            except asyncio.CancelledError:
                await asyncio.sleep(0)  # CPython 3.11 traces nothing before the next step.
                return {"type": "websocket.disconnect", "code": 1006, "reason": "not this"}

        await Heartbeat(application, interval=0.1)(scope, swallowing, send)

    ends = []
    async with client_of(receiving) as client:
        await client.wait()
    assert [end["code"] for end in ends] == [3008]
    assert reports == [(3008, "No message for 0.2 seconds")]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count cancellations")
async def test_a_cancellation_at_the_moment_of_the_verdict_is_not_lost(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        # The verdict is due after 0.3 seconds. The loop wakes when both are.
        loop = asyncio.get_running_loop()
        loop.call_later(0.25, time.sleep, 0.1)
        loop.call_later(0.32, asyncio.current_task().cancel)
        await receive()

    async with client_of(Heartbeat(application, interval=0.1)) as client:
        await client.wait()
    assert client.was_cancelled
    assert len(reports) == 1


async def test_after_the_verdict_the_application_can_be_cancelled():
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        assert (await receive())["code"] == 3008
        verdict.set()
        await receive()

    verdict = asyncio.Event()
    application = Heartbeat(application, interval=0.1)
    async with RunningApplication(application, websocket_scope("/ws")) as running:
        await running.send_input({"type": "websocket.connect"})
        await asyncio.wait_for(verdict.wait(), BOUND)
        await asyncio.sleep(0)
        running.cancel()
        await running.wait()
    assert running.was_cancelled


async def test_a_silent_client_is_found_by_whichever_task_reads():
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        done, pending = await asyncio.wait(
            {asyncio.ensure_future(receive()) for _ in range(3)},
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [task.result()["type"] for task in done] == ["websocket.receive"]
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result()["code"] for task in done] == [3008]
        for task in pending:
            task.cancel()

    application = Heartbeat(application, interval=0.1)
    async with RunningApplication(application, websocket_scope("/ws")) as running:
        await running.send_input({"type": "websocket.connect"})
        await running.send_input({"type": "websocket.receive", "text": "for one of them"})
        await running.wait()


async def test_a_silent_client_is_found_though_one_of_several_readers_got_its_last_message():
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        readers = [asyncio.ensure_future(receive()) for _ in range(2)]
        await asyncio.sleep(0)
        are_waiting.set()
        done, pending = await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result()["type"] for task in done] == ["websocket.receive"]
        assert (await pending.pop())["code"] == 3008

    are_waiting = asyncio.Event()
    application = Heartbeat(application, interval=0.1)
    async with RunningApplication(application, websocket_scope("/ws")) as running:
        await running.send_input({"type": "websocket.connect"})
        await asyncio.wait_for(are_waiting.wait(), BOUND)
        await running.send_input({"type": "websocket.receive", "text": "for one of them"})
        await running.wait()


async def test_a_connection_is_opened_once(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await send({"type": "websocket.accept"})

    async def count(**_):
        opened.append(1)

    opened: list[int] = []
    connected.connect(count)
    try:
        async with client_of(Heartbeat(application, interval=9)) as client:
            await client.wait()
    finally:
        connected.disconnect(count)
    assert opened == [1]
    assert len(reports) == 1


async def test_a_close_that_the_server_does_not_take_ends_nothing(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        with pytest.raises(ValueError, match="1005"):
            await send({"type": "websocket.close", "code": 1005})
        assert (await receive())["type"] == "websocket.disconnect"

    async with client_of(Heartbeat(application, interval=9)):
        pass
    assert reports == [(1000, "")]


async def test_messages_that_waited_while_the_loop_was_blocked_count(reports):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        # The silence ends after 0.2 seconds. When the loop runs again, the message is there, but
        # its reader has not run.
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, time.sleep, 0.4)
        message = {"type": "websocket.receive", "text": "in time"}
        loop.call_later(0.15, lambda: sending.append(loop.create_task(client.send_input(message))))
        assert (await receive())["text"] == "in time"

    sending: list[asyncio.Task] = []
    async with client_of(Heartbeat(application, interval=0.1)) as client:
        await client.wait()
    assert reports == [(1000, "")]


async def test_a_receiver_that_raises_is_logged_and_harms_nobody(caplog):
    def raising(**_):
        raise RuntimeError("a receiver of yours")

    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await receive()

    connected.connect(raising)
    disconnected.connect(raising)
    try:
        async with client_of(WebSocketSupport(application, allow_missing_origin=True)):
            pass
    finally:
        connected.disconnect(raising)
        disconnected.disconnect(raising)
    assert caplog.text.count("RuntimeError: a receiver of yours") == 2


async def test_opening_and_closing_are_records_with_fields(caplog):
    caplog.set_level(logging.INFO, "ws_support")

    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await receive()

    async with client_of(Heartbeat(application), "/ws?token=secret") as client:
        await client.close(4000)
    opened, closed = caplog.records
    assert (opened.client, opened.path, opened.origin) == ("192.0.2.1:4711", "/ws", None)
    assert (opened.code, opened.duration) == (None, None)
    assert closed.code == 4000
    assert 0 <= closed.duration < 10
    assert "secret" not in caplog.text


async def test_what_is_no_websocket_passes():
    async def application(scope, receive, send):
        seen.append(scope["type"])

    seen: list[str] = []
    await Heartbeat(application)({"type": "http"}, None, None)
    assert seen == ["http"]
