"""The fixtures of the pytest plugin, in a project of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.testing.test_server import COMMAND
from ws_support.testing import Peer, ServerPool

CONFTEST = 'pytest_plugins = ["ws_support.testing.plugin"]\n'
TESTS = f"""
import socket
import pytest

COMMAND = {COMMAND!r}
seen = []

def logged_traceback(server):
    mark = server.mark()
    with socket.create_connection((server.host, server.port)) as client:
        client.sendall(b"fail")
    server.wait_for_log("Traceback", since=mark)

def test_one(websocket_server):
    seen.append(websocket_server(command=COMMAND))

def test_two(websocket_server):
    assert websocket_server(command=COMMAND) is seen[0]

@pytest.mark.websocket_tracebacks
def test_three(websocket_server):
    logged_traceback(websocket_server(command=COMMAND))

def test_four(websocket_server):
    assert websocket_server(command=COMMAND) is seen[0]

def test_five(websocket_server):
    logged_traceback(websocket_server(command=COMMAND, arguments=["another"]))
"""


@pytest.mark.slow
def test_a_server_is_shared_by_tests_and_its_log_checked_after_each(pytester):
    pytester.makeini("[pytest]\naddopts = --strict-markers -p no:randomly")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=5, errors=1)
    result.stdout.fnmatch_lines(["*There is a traceback in the log of the server*"])


@pytest.mark.slow
def test_the_report_of_a_failed_test_shows_what_its_servers_have_logged(pytester):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(f"""
        import socket
        import pytest

        @pytest.mark.websocket_tracebacks
        def test_wrong(websocket_server):
            server = websocket_server(command={COMMAND!r})
            mark = server.mark()
            with socket.create_connection((server.host, server.port)) as client:
                client.sendall(b"fail")
            server.wait_for_log("Traceback", since=mark)
            assert 1 == 2
    """)
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(
        [
            "*test_wrong*",
            "E       assert 1 == 2",
            "*Captured log of the server*",
            "Traceback (most recent call last):",
        ]
    )


async def test_a_peer_speaks_to_the_application_of_the_project(websocket_peer, settings):
    settings.WS_SUPPORT = {"ALLOWED_ORIGINS": ["https://client.com"]}
    async with websocket_peer("/ws", origin="https://client.com") as peer:
        assert isinstance(peer, Peer)
        await peer.send("hello")
        assert await peer.receive() == "hello"


def test_the_pool_of_the_session_is_our_own(websocket_server_pool, websocket_server):
    assert isinstance(websocket_server_pool, ServerPool)
    assert websocket_server(command=COMMAND) is websocket_server_pool.get(command=COMMAND)


@pytest.mark.websocket_tracebacks
def test_a_test_that_expects_tracebacks_has_servers_apart(websocket_server_pool, websocket_server):
    server = websocket_server(command=COMMAND)
    assert server is websocket_server_pool.get(command=COMMAND, group="websocket_tracebacks")
    assert server is not websocket_server_pool.get(command=COMMAND)


def test_pytest_and_websockets_are_imported_only_where_they_are_used():
    code = (
        "import sys, ws_support.testing\n"
        "print([name for name in ('pytest', 'websockets', 'django.conf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
