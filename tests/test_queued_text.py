"""Messages that wait for the application."""

from __future__ import annotations

import asyncio
import sys

import pytest

from ws_support._queued_text import packed, size, unpacked
from ws_support.servers.daphne.flow import MAX_SIZE, ReceiveQueue


@pytest.mark.parametrize(
    "text", ["", "x", "é" * 2**20, "x" * 2**20, "x" * 10 + "𝄞", "𝄞" * 2**18, "中" * 2**18]
)
def test_text_that_would_take_as_much_as_utf_8_waits_as_it_is(text):
    message = {"type": "websocket.receive", "text": text}
    assert packed(message) is message
    assert unpacked(message) is message
    assert size(message) == len(text)


@pytest.mark.parametrize("one", ["€", "𝄞"])
def test_text_that_is_wide_for_the_sake_of_one_character_waits_as_utf_8(one):
    message = {"type": "websocket.receive", "text": "x" * 2**20 + one}
    (held,) = packed(message).values()
    assert sys.getsizeof(held) < 1.01 * 2**20
    assert size(packed(message)) == len(held)
    assert unpacked(packed(message)) == message


async def test_the_queue_of_daphne_holds_wide_text_as_utf_8():
    emptied = asyncio.Event()
    queue = ReceiveQueue(emptied.set)
    message = {"type": "websocket.receive", "text": "x" * MAX_SIZE + "𝄞", "bytes": None}
    queue.put_nowait(message)
    assert queue.is_full
    assert (await queue.get())["text"] == message["text"]
    assert not queue.is_full
    await emptied.wait()
