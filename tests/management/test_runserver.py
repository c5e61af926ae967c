"""`manage.py runserver`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.harness import BOUND, ROOT, free_port, until


def banner(server) -> list[str]:
    lines = server.log().splitlines()
    start = lines.index("WebSockets (WS_SUPPORT):")
    return [re.sub(r"^  (\S+) +", r"\1: ", line) for line in lines[start + 1 : start + 5]]


def test_it_prints_what_it_set(demo):
    assert banner(demo) == [
        "origins: the hosts of ALLOWED_HOSTS: localhost, 127.0.0.1, [::1]",
        "keep-alive: a ping every 30 s, dropped when the pong takes more than 20 s",
        "heartbeat: off",
        "messages: up to 1048576 bytes",
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {
                "ALLOWED_ORIGINS": ["https://one.com", "https://*.two.com"],
                "ALLOWED_ORIGIN_REGEXES": ["x"],
                "KEEP_ALIVE_TIMEOUT": None,
                "HEARTBEAT_INTERVAL": 10,
                "MAX_MESSAGE_SIZE": 5000,
            },
            [
                "origins: https://one.com, https://*.two.com and ALLOWED_ORIGIN_REGEXES",
                "keep-alive: a ping every 120 s",
                "heartbeat: closed after 20 s without a message",
                "messages: up to 5000 bytes",
            ],
        ),
        (
            {"ALLOWED_ORIGINS": [], "KEEP_ALIVE_INTERVAL": None},
            [
                "origins: none",
                "keep-alive: off",
                "heartbeat: off",
                "messages: up to 1048576 bytes",
            ],
        ),
    ],
)
def test_it_follows_the_settings(serve, settings, expected):
    assert banner(serve(WS_SUPPORT=settings)) == expected


def test_it_names_routes_whose_origins_nobody_checks(serve):
    server = serve(ASGI_APPLICATION="tests.project.unguarded.application")
    assert banner(server)[0].startswith("origins: NOT checked on every route: tests.project.")


def test_the_command_line_goes_before_the_settings(serve):
    server = serve(
        arguments=("--websocket-max-message-size", "10"), WS_SUPPORT={"MAX_MESSAGE_SIZE": 5}
    )
    assert banner(server)[-1] == "messages: up to 10 bytes"
    with server.connect() as socket:
        socket.send("x" * 10)
        assert socket.recv() == "x" * 10
        socket.send("x" * 11)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd.code == 1009


def test_it_warns_of_no_database_and_no_migration(demo):
    log = demo.log().lower()
    assert "migration" not in log
    assert "database" not in log


def runserver(*arguments: str, settings: str = "{}") -> subprocess.CompletedProcess[str]:
    """A run that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "manage.py", "runserver", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.project.settings",
            "TEST_SETTINGS": settings,
        },
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


@pytest.mark.parametrize("options", [["--noreload"], []])
def test_it_ends_when_its_port_is_taken(demo, options):
    result = runserver(f"{demo.host}:{demo.port}", *options)
    assert result.returncode == 1
    assert f"Error: Couldn't listen on {demo.host}:{demo.port}:" in result.stderr


def test_it_does_not_start_with_a_setting_that_is_wrong():
    result = runserver(
        "--noreload", str(free_port()), settings='{"WS_SUPPORT": {"MAX_MESSAGE_SIZE": 0}}'
    )
    assert result.returncode == 1
    assert '(ws_support.E004) WS_SUPPORT["MAX_MESSAGE_SIZE"] is 0' in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_on_a_signal_without_a_traceback(serve, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("The tests run under nohup, which servers inherit.")
    server = serve()
    with (
        server.connect("/logged") as first,
        server.connect("/busy") as second,
        server.raw() as idle,
    ):
        second.send("60")
        idle.socket.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert idle.response()[0] == 200
        server.process.send_signal(number)
        for socket in (first, second):
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=5)
            assert closed.value.rcvd.code == 1012
        assert server.process.wait(BOUND) == 0
    assert [event["code"] for event in server.events("disconnected")] == [1012, 1012]


def test_nobody_gets_in_while_it_ends(serve):
    server = serve()
    with server.connect("/stubborn") as socket:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=5)
        with pytest.raises(ConnectionRefusedError):
            server.connect("/logged")
        assert server.process.wait(BOUND) == 0
    assert server.events("disconnected", "/stubborn")[0]["code"] == 1012


def test_it_ends_in_time_also_when_an_application_does_not(serve):
    server = serve(WS_SUPPORT={"SHUTDOWN_TIMEOUT": 1})
    with server.connect("/immortal"):
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(BOUND) == 0


@pytest.mark.slow
def test_under_the_autoreloader_ctrl_c_says_goodbye_too(serve):
    server = serve(command="reloading")
    with server.connect("/logged") as socket, server.connect("/sync"):
        os.killpg(server.process.pid, signal.SIGINT)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
    assert closed.value.rcvd.code == 1012
    assert server.process.wait(BOUND) == 0
    assert [event["code"] for event in server.events("disconnected")] == [1012, 1012]
    assert [event["code"] for event in server.events("disconnect()", "/sync")] == [1012]


@pytest.mark.slow
def test_under_the_autoreloader_a_closed_terminal_says_goodbye_too(serve):
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        pytest.skip("The tests run under nohup, which servers inherit.")
    server = serve(command="reloading")
    with server.connect("/logged") as socket:
        os.kill(server.events("loaded")[0]["pid"], signal.SIGHUP)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
    assert closed.value.rcvd.code == 1012
    assert server.process.wait(BOUND) == 0
    assert [event["code"] for event in server.events("disconnected")] == [1012]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/events", "/poll?60"])
def test_a_change_reloads_it_while_a_request_is_open_whose_view_is_told(serve, tmp_path, path):
    module = tmp_path / "reloaded.py"
    module.write_text("from tests.project.asgi import application\n")
    server = serve(
        command="reloading",
        environment={"PYTHONPATH": str(tmp_path)},
        ASGI_APPLICATION="reloaded.application",
        ROOT_URLCONF="tests.project.urls",
    )
    with server.raw() as client:
        client.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        if path == "/events":
            assert b"data: x" in client.socket.recv(1000)
        else:
            server.wait_for_event("waiting", "/poll")
        for _ in until("reload whose view is told", server.log):
            # Django looks once a second, and first has to see what was there before.
            module.write_text(f"from tests.project.asgi import application\n# {time.time()}\n")
            if server.events("told", path.partition("?")[0]):
                break
        for _ in until("second start", server.log):
            if len(server.events("loaded")) == 2:
                break
    server.wait_until_listening()
    with server.connect() as socket:
        socket.send("still there")
        assert socket.recv() == "still there"
    assert "Fatal" not in server.log()
