"""The rules of the topics of the demo, which its pages never break."""

from __future__ import annotations

import time
from typing import Any

import pytest

from example_project.topics import DAY, MAX_BROWSER, MAX_NAME, MAX_TEXT, RoomTopic


def message(**fields: Any) -> dict[str, Any]:
    return {"browser": "b", "name": "Ada", "text": "Hi", "time": int(time.time() * 1000), **fields}


@pytest.mark.parametrize(
    ("given", "is_allowed"),
    [
        (message(), True),
        (message(name="x" * MAX_NAME, text="x" * MAX_TEXT), True),
        (message(text="x" * (MAX_TEXT + 1)), False),
        (message(name="x" * (MAX_NAME + 1)), False),
        (message(text=" "), False),
        (message(name=None), False),
        (message(browser="x" * (MAX_BROWSER + 1)), False),
        (message(time="now"), False),
        (message(time=True), False),
        (message(time=0), False),
        (message(time=int(time.time() + 2 * DAY) * 1000), False),
        (message(more=1), False),
        ({"text": "Hi"}, False),
        ("Hi", False),
    ],
)
async def test_the_server_refuses_messages_that_no_page_would_send(
    given: Any, is_allowed: bool
) -> None:
    assert await RoomTopic().may_publish(None, given, "lobby") is is_allowed
