"""The client in the process of a test."""

from __future__ import annotations

import asyncio
import contextvars
import time

import pytest
from channels.exceptions import DenyConnection
from channels.generic.websocket import AsyncJsonWebsocketConsumer, WebsocketConsumer
from django.http.cookie import SimpleCookie

from ws_support.asgi import WebSocketSupport
from ws_support.consumers import AsyncWebsocketConsumer, EchoConsumer
from ws_support.exceptions import ConnectionClosed
from ws_support.testing import HandshakeRefused, Peer, RunningApplication, websocket_scope
from ws_support.websocket import websocket_view

ECHO = EchoConsumer.as_asgi()


async def accepting(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})


async def echoing(scope, receive, send):
    """An echo without Channels."""
    await accepting(scope, receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


class SyncEcho(WebsocketConsumer):
    channel_layer_alias = None

    def receive(self, text_data=None, bytes_data=None):
        self.send(text_data, bytes_data)


@pytest.mark.parametrize("application", [ECHO, echoing, SyncEcho.as_asgi()])
@pytest.mark.parametrize("message", ["hello", "", b"\x00", b""])
async def test_texts_and_bytes_go_both_ways(application, message):
    async with Peer(application, "/ws") as peer:
        await peer.send(message)
        assert await peer.receive() == message


async def test_json_goes_both_ways():
    class Consumer(AsyncJsonWebsocketConsumer):
        channel_layer_alias = None

        async def receive_json(self, content):
            await self.send_json({"got": content})

    async with Peer(Consumer.as_asgi(), "/ws") as peer:
        await peer.send_json({"text": "héllo"})
        assert await peer.receive_json() == {"got": {"text": "héllo"}}


async def test_bytes_are_no_json():
    async with Peer(ECHO, "/ws") as peer:
        await peer.send(b"{}")
        with pytest.raises(AssertionError, match=r"has sent bytes, and not a text: b'{}'"):
            await peer.receive_json()


async def test_the_application_finds_a_handshake_in_its_scope():
    scope = websocket_scope(
        "/rooms/caf%C3%A9?page=2",
        headers={"X-Token": "secret"},
        origin="https://client.com",
        cookies=SimpleCookie({"sessionid": "abc", "theme": "dark"}),
        subprotocols=["v1", "v2"],
        user="ann",
        url_route={"kwargs": {}},
    )
    assert (scope["path"], scope["raw_path"]) == ("/rooms/café", b"/rooms/caf%C3%A9")
    assert scope["query_string"] == b"page=2"
    assert scope["headers"] == [
        (b"host", b"testserver"),
        (b"x-token", b"secret"),
        (b"origin", b"https://client.com"),
        (b"cookie", b"sessionid=abc; theme=dark"),
    ]
    assert scope["subprotocols"] == ["v1", "v2"]
    assert scope["user"] == "ann"
    assert scope["url_route"] == {"kwargs": {}}


def test_headers_may_be_pairs_and_have_a_host_of_their_own():
    scope = websocket_scope("/", headers=[(b"Host", b"client.com"), ("X-A", "1"), ("X-A", "2")])
    assert scope["headers"] == [(b"host", b"client.com"), (b"x-a", b"1"), (b"x-a", b"2")]
    assert "user" not in scope


async def test_the_application_finds_the_user_of_the_test():
    @websocket_view
    async def application(websocket):
        await websocket.accept()
        await websocket.send(websocket.scope["user"])

    async with Peer(application, "/ws", user="ann") as peer:
        assert await peer.receive() == "ann"


async def test_entries_of_the_scope_are_added_and_replaced():
    async with Peer(ECHO, "/ws", scope={"client": ("192.0.2.1", 1), "asgi": {}}) as peer:
        assert (peer.scope["client"], peer.scope["asgi"]) == (("192.0.2.1", 1), {})


async def test_the_answer_has_sub_protocol_and_headers():
    async def application(scope, receive, send):
        await receive()
        headers = [[b"x-a", b"1"]]
        await send({"type": "websocket.accept", "subprotocol": "v2", "headers": headers})
        await receive()

    async with Peer(application, "/ws", subprotocols=["v1", "v2"]) as peer:
        assert peer.subprotocol == "v2"
        assert peer.response_headers == [(b"x-a", b"1")]


async def test_a_sub_protocol_that_was_not_offered_is_an_error():
    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "v3"})

    with pytest.raises(ValueError, match="did not offer the sub-protocol 'v3'"):
        async with Peer(application, "/ws", subprotocols=["v1"]):
            raise AssertionError("opened")


async def refusal_of(application, **options) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as refused:
        async with Peer(application, "/ws", **options):
            raise AssertionError("opened")
    return refused.value


async def test_a_refusal_says_status_and_reason():
    error = await refusal_of(WebSocketSupport(ECHO), origin="https://evil.example")
    assert error.status == 403
    assert error.reason.startswith("This origin may not connect")
    assert (b"content-type", b"text/plain; charset=utf-8") in error.headers
    assert str(error) == f"The handshake was refused with 403: {error.reason}"
    assert error.code is None


async def test_a_response_in_pieces_is_put_together():
    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401})
        await send({"type": "websocket.http.response.body", "body": b"log ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"in\n"})

    error = await refusal_of(application)
    assert (error.status, error.reason, error.headers) == (401, "log in", [])


async def test_a_close_before_the_accept_is_a_refusal():
    ended = []

    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.close", "code": 4000, "reason": "bye"})
        ended.append(await receive())

    error = await refusal_of(application)
    assert (error.status, error.reason, error.code) == (403, "bye", 4000)
    assert ended == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


async def test_a_consumer_of_channels_that_denies_refuses():
    class Denying(WebsocketConsumer):
        channel_layer_alias = None

        def connect(self):
            raise DenyConnection

    error = await refusal_of(Denying.as_asgi())
    assert (error.status, error.code) == (403, 1000)
    assert str(error) == "The handshake was refused with 403"


async def test_an_application_that_ends_without_an_answer_refuses_with_500():
    async def application(scope, receive, send):
        await receive()

    error = await refusal_of(application)
    assert (error.status, error.reason) == (500, "The application has ended without an answer")


async def test_another_answer_is_an_error():
    async def application(scope, receive, send):
        await send({"type": "websocket.send", "text": "early"})

    with pytest.raises(AssertionError, match=r"answered the handshake with .*early"):
        async with Peer(application, "/ws"):
            raise AssertionError("opened")


async def failing(scope, receive, send):
    await accepting(scope, receive, send)
    await send({"type": "websocket.send", "text": "first"})
    await receive()
    raise LookupError("asked for")


async def test_what_was_sent_before_an_exception_is_read_before_it():
    async with Peer(failing, "/ws") as peer:
        await peer.send("go")
        assert await peer.receive() == "first"
        with pytest.raises(LookupError, match="asked for"):
            await peer.receive()
        with pytest.raises(LookupError, match="asked for"):
            await peer.send("more")
        with pytest.raises(LookupError, match="asked for"):
            await peer.wait_closed()


async def test_an_exception_that_the_test_does_not_wait_for_is_raised_at_the_end():
    with pytest.raises(LookupError, match="asked for"):
        async with Peer(failing, "/ws") as peer:
            await peer.send("go")


async def test_an_exception_is_raised_for_a_test_that_has_failed_of_it():
    async def test():
        async with Peer(failing, "/ws") as peer:
            await peer.send("go")
            assert await peer.receive() == "second"

    with pytest.raises(LookupError, match="asked for") as error:
        await test()
    assert isinstance(error.value.__context__, AssertionError)


async def test_an_exception_before_the_accept_is_raised():
    async def application(scope, receive, send):
        raise LookupError("asked for")

    with pytest.raises(LookupError, match="asked for"):
        async with Peer(application, "/ws"):
            raise AssertionError("opened")


async def test_the_close_of_the_application_is_read_behind_its_messages():
    codes = []

    class Closing(AsyncWebsocketConsumer):
        channel_layer_alias = None

        async def receive(self, text_data=None, bytes_data=None):
            await self.send("goodbye")
            await self.close(4001, "enough")

        async def disconnect(self, code):
            codes.append(code)

    async with Peer(Closing.as_asgi(), "/ws") as peer:
        assert peer.close_code is None
        await peer.send("hello")
        assert await peer.wait_closed() == 4001
        assert await peer.receive() == "goodbye"
        for _ in range(2):
            with pytest.raises(ConnectionClosed, match="4001: enough"):
                await peer.receive()
        with pytest.raises(ConnectionClosed, match="4001: enough"):
            await peer.send("more")
        assert (peer.close_code, peer.close_reason) == (4001, "enough")
        await peer.close(4002)
    assert codes == [4001]
    assert (peer.close_code, peer.close_reason) == (4001, "enough")


async def test_an_application_that_returns_has_closed_with_1000():
    async with Peer(accepting, "/ws") as peer:
        with pytest.raises(ConnectionClosed, match="1000"):
            await peer.receive()
        assert peer.close_code == 1000


@pytest.mark.parametrize("last", [[], [{"type": "websocket.close"}]])
async def test_a_close_while_the_test_waits_ends_the_wait(last):
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await asyncio.sleep(0.01)
        for message in last:
            await send(message)

    async with Peer(application, "/ws") as peer:
        with pytest.raises(ConnectionClosed, match="1000"):
            await peer.receive()


async def test_a_code_that_may_not_be_sent_is_an_error():
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await send({"type": "websocket.close", "code": 1005})

    with pytest.raises(ValueError, match="cannot be closed with 1005"):
        async with Peer(application, "/ws"):
            pass


async def test_a_message_that_is_neither_text_nor_bytes_is_an_error():
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await send({"type": "websocket.send", "text": 1})

    async with Peer(application, "/ws") as peer:
        with pytest.raises(AssertionError, match="neither a text nor bytes"):
            await peer.receive()


def heard():
    """An application that notes why its connection ended."""
    messages = []

    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            pass
        messages.append(message)

    return application, messages


async def test_the_client_closes_with_code_and_reason():
    application, messages = heard()
    async with Peer(application, "/ws") as peer:
        await peer.close(4000, "bye")
        assert messages == [{"type": "websocket.disconnect", "code": 4000, "reason": "bye"}]
        assert (peer.close_code, peer.close_reason) == (4000, "bye")


async def test_the_client_leaves_at_the_end_of_the_block():
    application, messages = heard()
    async with Peer(application, "/ws") as peer:
        pass
    assert messages == [{"type": "websocket.disconnect", "code": 1000, "reason": ""}]
    assert peer.close_code == 1000


async def test_a_client_that_is_lost_is_1006_and_sends_to_it_fail():
    errors = []

    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        assert (await receive())["code"] == 1006
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError as error:
            errors.append(str(error))
            raise

    async with Peer(application, "/ws") as peer:
        await peer.drop()
    assert errors == ["The client has gone"]


async def test_a_failing_send_raises_what_the_test_says():
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await receive()
        with pytest.raises(BrokenPipeError, match="asked for"):
            await send({"type": "websocket.send", "text": "hello"})

    async with Peer(application, "/ws") as peer:
        peer.fail_sends(BrokenPipeError("asked for"))
        await peer.send("go")


async def test_a_wait_for_a_message_has_a_bound():
    async with Peer(ECHO, "/ws") as peer:
        peer.timeout = 0.01
        with pytest.raises(TimeoutError, match=r"sent nothing within 0\.01 s"):
            await peer.receive()
        with pytest.raises(TimeoutError, match=r"sent nothing within 0\.02 s"):
            await peer.receive(timeout=0.02)
        with pytest.raises(TimeoutError, match=r"not closed within 0\.01 s\..* 0 are unread"):
            await peer.wait_closed()
        with pytest.raises(TimeoutError, match=r"not closed within 0\.02 s"):
            await peer.wait_closed(timeout=0.02)
        peer.timeout = 10
        await peer.send("still there")
        assert await peer.receive() == "still there"


async def stubborn(scope, receive, send):
    await accepting(scope, receive, send)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        scope["is_cancelled"] = True
        raise


async def test_an_application_that_does_not_end_is_an_error_and_is_cancelled():
    with pytest.raises(TimeoutError, match=r"not ended within 0\.01 s after the connection"):
        async with Peer(stubborn, "/ws") as peer:
            peer.timeout = 0.01
    assert peer.scope["is_cancelled"]


async def test_a_close_waits_for_the_end_of_the_application_with_a_bound():
    async def test():
        async with Peer(stubborn, "/ws") as peer:
            peer.timeout = 0.01
            await peer.close()

    with pytest.raises(TimeoutError, match=r"not ended within 0\.01 s$"):
        await test()


async def test_silence_is_told_from_messages():
    async with Peer(ECHO, "/ws") as peer:
        assert await peer.receive_nothing(0.01)
        await peer.send("hello")
        assert not await peer.receive_nothing(10)
        assert await peer.receive() == "hello"


def sender(count):
    """An application that sends `count` messages, and how many it has sent."""
    sent = []

    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        for number in range(count):
            await send({"type": "websocket.send", "text": str(number)})
            sent.append(number)
        await receive()

    return application, sent


async def test_a_client_that_reads_nothing_holds_up_the_application():
    async with Peer(ECHO, "/ws") as peer:
        peer.pause_reading()
        await peer.send("hello")
        assert await peer.receive_nothing(0.01)
        peer.resume_reading()
        assert await peer.receive() == "hello"


async def test_so_many_messages_wait_for_the_test_and_no_more():
    application, sent = sender(1500)
    async with Peer(application, "/ws") as peer:
        assert await peer.receive() == "0"
        assert len(sent) <= 1000
        for number in range(1, 1500):
            assert await peer.receive() == str(number)


async def test_an_application_whose_messages_nobody_reads_ends_with_its_client():
    application, sent = sender(1500)
    async with Peer(application, "/ws"):
        pass
    assert len(sent) == 1000


async def test_so_many_messages_wait_for_the_application_and_no_more():
    async with RunningApplication(stubborn, websocket_scope("/ws"), timeout=0.01) as running:
        await running.send_input({"type": "websocket.connect"})
        await asyncio.sleep(0)
        for _ in range(1000):
            await running.send_input({"type": "websocket.receive", "text": ""})
        with pytest.raises(TimeoutError, match=r"left 1000 messages unread for 0\.01 s"):
            await running.send_input({"type": "websocket.receive", "text": ""})


async def test_the_application_has_none_of_the_tests_context():
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("the test's")

    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await send({"type": "websocket.send", "text": variable.get()})

    async with Peer(application, "/ws") as peer:
        assert await peer.receive() == "none"


async def test_any_application_runs_by_its_messages():
    async def application(scope, receive, send):
        await send({"type": "got", "message": await receive(), "scope": scope["type"]})

    async with RunningApplication(application, {"type": "http"}) as running:
        await running.send_input({"type": "http.request"})
        assert await running.receive_output(timeout=5) == {
            "type": "got",
            "message": {"type": "http.request"},
            "scope": "http",
        }
        await running.wait(timeout=5)
        with pytest.raises(EOFError, match="has ended and sends nothing more"):
            await running.receive_output()


async def test_an_application_that_still_runs_at_the_end_is_cancelled():
    async with RunningApplication(stubborn, {"type": "websocket"}) as running:
        await running.send_input({"type": "websocket.connect"})
        await running.receive_output()
    assert running.scope["is_cancelled"]


async def test_an_application_that_has_raised_raises_at_the_end():
    async def application(scope, receive, send):
        raise LookupError("asked for")

    with pytest.raises(LookupError, match="asked for"):
        async with RunningApplication(application, {"type": "http"}):
            await asyncio.sleep(0)


async def test_an_application_is_cancelled_like_by_a_server_that_stops():
    async with Peer(stubborn, "/ws") as peer:
        assert not peer.was_cancelled
        peer.cancel()
        await peer.wait()
        assert peer.was_cancelled


async def test_what_the_application_has_not_read_is_counted():
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await receive()
        await send({"type": "websocket.send", "text": "one"})
        await receive()

    async with Peer(application, "/ws") as peer:
        await peer.send("one")
        await peer.send("two")
        assert peer.unread == 2
        await peer.receive()
        await peer.wait()
        assert peer.unread == 0


async def test_a_server_may_do_otherwise():
    class Forgetful(Peer):
        async def serve_receive(self):
            message = await super().serve_receive()
            return message | {"text": "another"} if "text" in message else message

    async with Forgetful(ECHO, "/ws") as peer:
        await peer.send("hello")
        assert await peer.receive() == "another"


async def test_an_error_of_the_server_that_comes_back_to_it_is_raised():
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await receive()
        await send({"type": "websocket.send", "text": "hello"})

    async with Peer(application, "/ws") as peer:
        peer.fail_sends(RuntimeError("asked for"))
        await peer.send("go")
        with pytest.raises(RuntimeError, match="asked for"):
            await peer.wait()


async def test_sends_may_succeed_again():
    async with Peer(ECHO, "/ws") as peer:
        peer.fail_sends(OSError("gone"))
        peer.fail_sends(None)
        await peer.send("hello")
        assert await peer.receive() == "hello"


async def test_after_the_close_nothing_is_waited_for():
    async def application(scope, receive, send):
        await accepting(scope, receive, send)
        await send({"type": "websocket.close", "code": 4000})
        await go_on.wait()

    go_on = asyncio.Event()
    async with Peer(application, "/ws", timeout=5) as peer:
        for _ in range(2):
            with pytest.raises(ConnectionClosed, match="4000"):
                await peer.receive()
        go_on.set()


async def test_a_test_that_has_failed_does_not_wait_long_for_the_application():
    start = time.monotonic()
    with pytest.raises(LookupError, match="of the test"):
        async with Peer(stubborn, "/ws", timeout=30):
            raise LookupError("of the test")
    assert time.monotonic() - start < 20


async def test_a_peer_that_was_not_entered_says_how_to_use_it():
    with pytest.raises(RuntimeError, match=r"Use it in a block: async with Peer\(\.\.\.\) as peer"):
        await Peer(ECHO, "/ws").send("hello")
