"""The size of messages, for servers that do not limit it."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_support.consumers import EchoConsumer
from ws_support.exceptions import ConnectionClosed
from ws_support.middleware.limits import MessageSizeLimit
from ws_support.testing import Peer


async def echoed(limit: int, message):
    """What comes back for a message."""
    async with Peer(MessageSizeLimit(EchoConsumer.as_asgi(), limit), "/ws") as peer:
        await peer.send(message)
        return await peer.receive()


@pytest.mark.parametrize("message", ["", b"", "x" * 10, b"x" * 10, "é" * 5, "𝄞𝄞xx"])
async def test_a_message_of_the_largest_size_is_taken(message):
    assert await echoed(10, message) == message


@pytest.mark.parametrize("message", ["x" * 11, b"x" * 11, "é" * 5 + "x", "𝄞𝄞𝄞"])
async def test_a_byte_more_closes_with_1009_and_names_the_setting(message, caplog):
    caplog.set_level(logging.WARNING, "ws_support.limits")
    with pytest.raises(ConnectionClosed, match="1009: A message may have at most 10 bytes"):
        await echoed(10, message)
    assert caplog.messages == [
        "Closed with 1009: A message may have at most 10 bytes. To allow more, raise"
        ' WS_SUPPORT["MAX_MESSAGE_SIZE"].'
    ]


async def test_the_application_hears_the_code():
    codes = []

    class Consumer(EchoConsumer):
        async def disconnect(self, code):
            codes.append(code)

    async with Peer(MessageSizeLimit(Consumer.as_asgi(), 3), "/ws") as peer:
        await peer.send("four")
        assert await peer.wait_closed() == 1009
    assert codes == [1009]


@given(st.text(max_size=30), st.integers(1, 40))
def test_the_size_of_a_text_is_that_of_its_bytes(text, limit):
    is_too_large = MessageSizeLimit(None, limit)._is_too_large({"text": text})
    assert is_too_large == (len(text.encode()) > limit)


async def test_what_is_no_websocket_passes():
    seen = []

    async def application(scope, receive, send):
        seen.append((scope, receive, send))

    await MessageSizeLimit(application, 1)({"type": "http"}, "receive", "send")
    assert seen == [({"type": "http"}, "receive", "send")]
