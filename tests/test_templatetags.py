"""What the template tags put into a page."""

from __future__ import annotations

import json
import re

import pytest
from django.template import engines
from django.urls import clear_script_prefix, set_script_prefix

from ws_support._topics.tokens import is_good_token


def rendered(tag: str, **context: object) -> str:
    source = f"{{% load ws_support %}}{{% {tag} %}}"
    return engines["django"].from_string(source).render(context)


def handed_over(tag: str = "websocket_client", **context: object) -> dict[str, object]:
    id_ = tag.split()[0].replace("websocket_", "ws_support-")
    found = re.fullmatch(
        rf'<script id="{id_}" type="application/json">(.*)</script>',
        rendered(tag, **context),
    )
    assert found is not None
    return json.loads(found[1])


def test_without_an_interval_there_is_no_heartbeat():
    assert handed_over() == {
        "heartbeatInterval": None,
        "heartbeatMessage": "\x05",
        "heartbeatReply": "\x06",
    }


def test_the_interval_is_in_milliseconds(settings):
    settings.WS_SUPPORT = {"HEARTBEAT_INTERVAL": 1.5}
    assert handed_over()["heartbeatInterval"] == 1500


def test_an_interval_that_is_longer_than_timers_of_browsers_is_cut(settings):
    settings.WS_SUPPORT = {"HEARTBEAT_INTERVAL": 30 * 24 * 3600}
    assert handed_over()["heartbeatInterval"] == 2**31 - 1


def test_messages_are_those_of_the_settings(settings):
    settings.WS_SUPPORT = {"HEARTBEAT_MESSAGE": None, "HEARTBEAT_REPLY": "pong"}
    assert handed_over()["heartbeatMessage"] is None
    assert handed_over()["heartbeatReply"] == "pong"


def test_a_path_is_handed_over():
    assert handed_over('websocket_client "/chat"')["path"] == "/chat"
    assert handed_over("websocket_client path", path="/rooms/1")["path"] == "/rooms/1"
    assert "path" not in handed_over()


@pytest.mark.parametrize("text", ["</script><script>alert(1)</script>", '"', "\u2028", "&amp;"])
def test_no_setting_ends_the_script(settings, text):
    settings.WS_SUPPORT = {"HEARTBEAT_MESSAGE": text}
    assert rendered("websocket_client").count("<") == 2
    assert handed_over()["heartbeatMessage"] == text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/ws", "/app/ws"),
        ("/app/ws", "/app/ws"),
        ("/appendix", "/app/appendix"),
        ("ws", "ws"),
        ("//other.example/ws", "//other.example/ws"),
        ("wss://other.example/ws", "wss://other.example/ws"),
    ],
)
def test_a_path_is_below_the_prefix_of_the_project(path, expected):
    set_script_prefix("/app")
    try:
        assert handed_over("websocket_client path", path=path)["path"] == expected
    finally:
        clear_script_prefix()


def test_the_path_of_topics_is_handed_over_below_the_prefix():
    set_script_prefix("/app")
    try:
        assert handed_over('websocket_topics "/topics"') == {"path": "/app/topics"}
    finally:
        clear_script_prefix()


class Person:
    is_authenticated = True

    def __init__(self, pk: int) -> None:
        self.pk = pk


class Request:
    def __init__(self, user: object) -> None:
        self.user = user


class Nobody:
    is_authenticated = False


ANN, BOB = Person(1), Person(2)


@pytest.mark.parametrize("context", [{"user": ANN}, {"request": Request(ANN), "user": BOB}])
def test_a_token_is_for_the_user_of_the_page(context):
    token = rendered("topic_token name", name="room/7", **context)
    assert re.fullmatch(r"[\w:-]+", token)
    assert is_good_token(token, "room/7", ANN)
    assert not is_good_token(token, "room/7", BOB)
    assert not is_good_token(token, "room/8", ANN)


@pytest.mark.parametrize("context", [{}, {"user": Nobody()}, {"request": object()}])
def test_a_token_of_a_page_without_a_user_is_for_everybody(context):
    token = rendered('topic_token "room/7"', **context)
    assert is_good_token(token, "room/7", BOB)
    assert is_good_token(token, "room/7", None)


def test_a_token_is_good_for_so_many_seconds():
    assert not is_good_token(rendered('topic_token "room/7" -1'), "room/7", None)
    assert not is_good_token(rendered('topic_token "room/7" seconds=-1'), "room/7", None)
