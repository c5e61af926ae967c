"""The examples of docs/history.md, as a project that a server runs."""

from __future__ import annotations

import json
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from tests.docs.test_examples import (
    _ASGI,
    _DATABASE,
    assert_its_tests_pass,
    environment_of,
    examples_of,
)
from tests.harness import BOUND

VIEWS = """
from django.http import HttpResponse
from ws_support.broadcast import broadcast_json

async def publish(request):
    return HttpResponse(await broadcast_json("news/sport", request.GET["score"]))
"""
URLS = """
from django.urls import path
from mysite.publishing import publish
from mysite.views import news
urlpatterns = [path("news/<slug:section>", news), path("publish", publish)]
"""


@pytest.fixture
def server(tmp_path, serve):
    directory = tmp_path / "mysite"
    directory.mkdir()
    files = {
        "__init__": "",
        **examples_of("history.md"),
        "settings": "from tests.project.settings import *\nROOT_URLCONF = 'mysite.urls'\n"
        f"INSTALLED_APPS = [*INSTALLED_APPS, 'mysite']\n{_DATABASE}",
        "publishing": VIEWS,
        "urls": URLS,
        "asgi": _ASGI.format(
            imports="from mysite.editor import Editor\nfrom mysite.news import News",
            routes="path('news/<slug:section>', News.as_asgi()), path('edit', Editor.as_asgi())",
        ),
    }
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    return serve(environment=environment_of(tmp_path), ASGI_APPLICATION="mysite.asgi.application")


@pytest.mark.slow
def test_the_tests_of_the_news_run_as_they_are(tmp_path):
    assert_its_tests_pass(tmp_path, "history.md")


def get(server, path):
    with urlopen(f"{server.origin}{path}", timeout=BOUND) as response:
        return response.read().decode()


def received(socket):
    return json.loads(socket.recv(BOUND))


@pytest.mark.slow
def test_a_client_of_the_news_goes_on_where_it_was(server):
    with server.connect("/news/sport") as socket:
        assert received(socket)["recovered"] is False
        first = get(server, "/publish?score=1:0")
        assert received(socket) == {"topic": "news/sport", "position": first, "json": "1:0"}
    second = get(server, "/publish?score=2:0")
    with server.connect(f"/news/sport?since={first}") as socket:
        assert received(socket) == {"topic": "news/sport", "position": second, "json": "2:0"}
        assert received(socket) == {"recovered": True, "position": second}
    for since in ("1-1", quote("nonsense ü")):
        with server.connect(f"/news/sport?since={since}") as socket:
            assert received(socket) == {"recovered": False, "position": second}
    loaded = json.loads(get(server, "/news/sport"))
    assert loaded == {"news": ["1:0", "2:0"], "position": second}


@pytest.mark.slow
def test_an_editor_hears_the_others_and_not_itself(server):
    with server.connect("/edit") as one, server.connect("/edit") as two:
        one.send("from one")
        assert two.recv(BOUND) == "from one"
        two.send("from two")
        assert one.recv(BOUND) == "from two"
