"""What an application raises: one record of ours, whatever the server."""

from __future__ import annotations

import json

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.harness import ASGI_SERVERS, BOUND, serving


@pytest.fixture(scope="module", params=ASGI_SERVERS)
def server(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    with serving(log_file, asgi_server=request.param) as server:
        yield server


def logged(server, path, text):
    """What the log has gained since, when `text` and the end of the connection are there."""
    server.wait_for_log(text)
    with server.connect() as socket:  # Whatever is written at once has been.
        socket.send("done?")
        assert socket.recv(BOUND) == "done?"
    log = server.log()
    return log[log.index(f"path '{path}") - 200 :]


@pytest.mark.websocket_tracebacks
@pytest.mark.parametrize(
    ("do", "error"),
    [
        ("raise", "RuntimeError: asked for"),
        ("raise in background", "RuntimeError: in background"),
    ],
)
def test_an_exception_is_logged_once_with_the_path(server, do, error):
    path = f"/ends/{do.replace(' ', '-')}"
    before = server.log()
    with server.connect(path) as socket:
        socket.send(json.dumps({"do": do}))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
        assert closed.value.rcvd.code == 1011
    server.wait_for_event("disconnected", path)
    gained = logged(server, path, error)
    assert f"path '{path}'" in gained
    assert server.log().count(error) - before.count(error) == 1
    assert server.log().count("Traceback") - before.count("Traceback") == 1


@pytest.mark.websocket_tracebacks
def test_an_exception_of_a_view_is_logged_once(server):
    path = "/live/obedient/raising"
    before = server.log()
    with server.connect(path) as socket:
        socket.send(json.dumps({"do": "raise"}))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
        assert closed.value.rcvd.code == 1011
    server.wait_for_event("disconnected", path)
    logged(server, path, "asked for")
    assert server.log().count("Traceback") - before.count("Traceback") == 1


@pytest.mark.websocket_tracebacks
def test_an_exception_before_the_accept_refuses_the_handshake(server):
    path = "/ends/refused"
    before = server.log()
    with pytest.raises(InvalidStatus) as refused:
        server.connect(f"{path}?raise")
    assert refused.value.response.status_code == 500
    server.wait_for_event("disconnect() done", path)
    logged(server, path, "asked for")
    assert server.log().count("Traceback") - before.count("Traceback") == 1


@pytest.mark.websocket_tracebacks
@pytest.mark.parametrize("wrong", [{"code": 70000}, {"code": 1006}, {"reason": "é" * 62}])
def test_a_close_that_cannot_be_sent_raises(server, wrong):
    with server.connect("/ends/wrong-close") as socket:
        before = server.log().count("ValueError: ")
        socket.send(json.dumps({"do": "close", **wrong}))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
        assert closed.value.rcvd.code == 1011
    wanted = "124 bytes, and 123" if "reason" in wrong else f"cannot be closed with {wrong['code']}"
    logged(server, "/ends/wrong-close", wanted)
    assert server.log().count("ValueError: ") > before


@pytest.mark.websocket_tracebacks
@pytest.mark.parametrize("offered", [None, ["this"]])
def test_a_sub_protocol_that_was_not_offered_is_an_error_of_the_application(server, offered):
    with pytest.raises(InvalidStatus) as refused:
        server.connect("/wrong-subprotocol", subprotocols=offered)
    assert refused.value.response.status_code == 500
    logged(
        server,
        "/wrong-subprotocol",
        "ValueError: The client did not offer the sub-protocol 'nobody-offered-this', but"
        f" {offered or []}: accept one of these, or None.",
    )


def test_a_refusal_of_a_consumer_is_logged_once(server):
    with pytest.raises(InvalidStatus) as refused:
        server.connect("/ends/refusing?refuse")
    assert refused.value.response.status_code == 403
    line = "Refused with 403 by the application: path '/ends/refusing'"
    logged(server, "/ends/refusing", line)
    assert server.log().count(line) == 1
