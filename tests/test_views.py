"""The HTTP half."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from urllib.error import HTTPError

import pytest

from tests.harness import ROOT


def get(url: str):
    try:
        return urllib.request.urlopen(url)
    except HTTPError as error:
        return error


def test_plain_http_to_ws_is_told_to_upgrade(demo):
    with get(f"{demo.origin}/ws") as response:
        assert (response.status, response.reason) == (426, "Upgrade Required")
        assert response.headers["Upgrade"] == "websocket"
        assert "Upgrade" in response.headers.get_all("Connection")
        assert response.read() == b"This is a WebSocket: open it with ws:// or wss://.\n"


def test_the_demo_page_uses_only_files_of_its_own(demo):
    with get(f"{demo.origin}/") as response:
        assert response.status == 200
        policy = response.headers["Content-Security-Policy"]
        page = response.read().decode()
    assert "script-src 'self'; style-src 'self';" in policy
    assert "<style" not in page
    assert not re.search(r"\son\w+=|\sstyle=", page)
    files = re.findall(r"""(?:src|href)="(/[^"]+\.(?:js|css))\"""", page)
    assert len(files) >= 2
    for file in files:
        with get(demo.origin + file) as response:
            assert response.status == 200


def test_the_demo_page_follows_static_files_to_another_host(settings, client):
    settings.STATIC_URL = "https://static.example/files/"
    policy = client.get("/")["Content-Security-Policy"]
    assert "script-src https://static.example; style-src https://static.example;" in policy


def test_the_demo_page_is_for_reading_only(client):
    assert client.post("/").status_code == 405


def test_under_wsgi_plain_http_to_ws_is_426_without_hop_by_hop_headers(client):
    response = client.get("/ws")
    assert response.status_code == 426
    assert "Upgrade" not in response


@pytest.mark.parametrize("module", ["ws_support.urls", "ws_support.routing"])
def test_the_routes_are_there_to_include(module):
    code = f"import django; django.setup(); import {module}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("headers", "said", "advice"),
    [
        (
            {"upgrade": "websocket", "sec-websocket-key": "x"},
            "This is a WebSocket, and the server took its handshake for plain HTTP.",
            'This server speaks WSGI: start `manage.py runasgi`, or put "ws_support" first in'
            " INSTALLED_APPS for `manage.py runserver`.",
        ),
        (
            {"sec-websocket-key": "x"},
            "This is a WebSocket, and its handshake came without `Upgrade: websocket`.",
            "A proxy has dropped the header: in nginx, set proxy_http_version to 1.1, and Upgrade"
            " and Connection with proxy_set_header.",
        ),
    ],
)
def test_a_handshake_that_came_as_plain_http_is_told_from_a_request(
    client, caplog, headers, said, advice
):
    response = client.get("/ws?secret", headers=headers)
    assert (response.status_code, response.content.decode()) == (426, f"{said}\n")
    [record] = [each for each in caplog.records if each.name == "ws_support.views"]
    assert record.levelname == "WARNING"
    assert record.getMessage() == f"{said} Path '/ws'. {advice}"


async def test_an_asgi_server_without_websockets_is_told_to_get_them(async_client, caplog):
    response = await async_client.get("/ws", headers={"upgrade": "WebSocket"})
    assert response.status_code == 426
    [record] = [each for each in caplog.records if each.name == "ws_support.views"]
    assert record.getMessage().endswith(
        "This server speaks no WebSocket: on Uvicorn, install `websockets`, or start"
        " `manage.py runasgi`."
    )
