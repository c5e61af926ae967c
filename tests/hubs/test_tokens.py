"""Connection tokens: who may connect with which, and for how long."""

from __future__ import annotations

import pytest
from django.test import override_settings

from tests.hubs.clients import Clock, Poller, Web, router, shake
from tests.hubs.recording import new_hub
from ws_support._hubs import tokens
from ws_support._hubs.tokens import Token, new_id, new_token, new_worker, read_token

SAFE = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize("is_old", [False, True])
def test_a_token_says_what_was_put_into_it(is_old):
    token = new_token(new_id(new_worker()), is_old=is_old)
    text = token.sign("chat")
    assert read_token(text, "chat") == token
    assert set(text) <= SAFE  # Clients paste it into the URL as it is.


def test_ids_begin_with_their_worker_and_differ():
    worker = new_worker()
    ids = {new_id(worker) for _ in range(100)}
    assert len(ids) == 100
    assert {(len(each), each[: tokens.WORKER_LENGTH]) for each in ids} == {(24, worker)}
    assert new_token(new_id(worker)).worker == worker


def test_a_token_of_another_hub_is_none():
    assert read_token(new_token(new_id(new_worker())).sign("chat"), "chats") is None


def test_a_token_that_was_changed_anywhere_is_none():
    text = new_token(new_id(new_worker())).sign("chat")
    for at, character in enumerate(text):
        other = "A" if character != "A" else "B"
        assert read_token(text[:at] + other + text[at + 1 :], "chat") is None


def test_a_token_that_was_cut_or_made_longer_is_none():
    text = new_token(new_id(new_worker())).sign("chat")
    for size in range(len(text)):
        assert read_token(text[:size], "chat") is None
    for more in ("A", "AA", "AAAA", "=", "==", "===="):
        assert read_token(text + more, "chat") is None


@pytest.mark.parametrize("more", ["!", " ", "\n", "\x00", ".", "%", "ä", "\ud800"])
def test_a_token_has_only_one_spelling(more):
    text = new_token(new_id(new_worker())).sign("chat")
    for at in (0, 10, len(text)):
        assert read_token(text[:at] + more + text[at:], "chat") is None


@pytest.mark.parametrize("text", ["", "A", "é" * 52, "=" * 52, "/" * 52, "A" * 52, "A" * 10**6])
def test_what_is_no_token_is_none(text):
    assert read_token(text, "chat") is None


def test_a_token_of_an_old_key_is_good_while_that_is_a_fallback():
    with override_settings(SECRET_KEY="old"):
        text = new_token(new_id(new_worker())).sign("chat")
    with override_settings(SECRET_KEY="new"):
        assert read_token(text, "chat") is None
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"]):
        assert read_token(text, "chat") is not None


def test_a_token_knows_its_age(monkeypatch):
    monkeypatch.setattr(tokens, "time", lambda: 100.5)
    assert Token("id", 90).age == 10.5
    assert new_token(new_id(new_worker())).created_at == 100


@pytest.mark.usefixtures("problems")
@pytest.mark.parametrize(("seconds", "status"), [(0, 200), (11, 200), (17, 404), (-17, 404)])
async def test_a_connection_begins_within_15_s_of_its_token(seconds, status, clock: Clock):
    web = Web(router(new_hub()))
    token = await web.token()
    await clock.forward(seconds)
    response = await web.request("GET", f"?id={token}")
    assert response.status == status
    if status == 200:
        await Poller(web, token).put(shake())
        await web.request("DELETE", f"?id={token}")


@pytest.mark.usefixtures("problems")
async def test_the_token_of_one_hub_is_unknown_to_another():
    token = await Web(router(new_hub())).token()

    class Other(new_hub()):
        pass

    response = await Web(router(Other)).request("GET", f"?id={token}")
    assert response.what == (404, "text/plain", b"No Connection with that ID")
