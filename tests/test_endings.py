"""However a connection ends, `disconnect()` is called once, on every server at hand."""

from __future__ import annotations

import json
import os
import signal
import socket as sockets
import struct
import time
import uuid
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.harness import BOUND, SERVERS, serving, until

pytestmark = pytest.mark.long

# A consumer with a channel layer listens to two sources, one without only to the client.
ROUTES = ["ends", "ends-with-layer"]


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    with serving(log_file, command=request.param) as server:
        server.name = request.param
        yield server


@pytest.fixture(params=ROUTES)
def path(request):
    return f"/{request.param}/{uuid.uuid4().hex}"


def do(socket, command, **arguments):
    socket.send(json.dumps({"do": command, **arguments}))


def codes_of_disconnect(server, path):
    """The codes with which `disconnect()` was called, when it is through."""
    done = server.wait_for_event("disconnect() done", path)
    codes = [event["code"] for event in server.events("disconnect()", path)]
    assert codes == [done["code"]]
    return codes


def codes_of_signal(server, path):
    server.wait_for_event("disconnected", path)
    return [event["code"] for event in server.events("disconnected", path)]


def raw(server, path):
    client = server.raw()
    client.open(path)
    return client


def lost(server):
    """What the servers report of a connection that is lost without a close frame."""
    return 1005 if server.name in ("uvicorn", "granian") else 1006


def test_the_client_closes(server, path):
    with server.connect(path) as socket:
        socket.close(3001)
    # Hypercorn 0.18 reports every close of the client as 1006.
    expected = [1006] if server.name == "hypercorn" else [3001]
    assert codes_of_disconnect(server, path) == expected
    assert codes_of_signal(server, path) == expected


def test_the_client_closes_without_a_code(server, path):
    with raw(server, path) as client:
        client.send_frame(8)
        assert codes_of_disconnect(server, path) == [1006 if server.name == "hypercorn" else 1005]


@pytest.mark.parametrize("way", ["orderly", "reset"])
def test_the_client_is_lost_without_a_close_frame(server, path, way):
    with raw(server, path) as client:
        if way == "reset":
            client.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    assert codes_of_disconnect(server, path) == [lost(server)]


def test_the_client_is_silent(server):
    path = f"/silent/{uuid.uuid4().hex}"
    with server.connect(path) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
        assert closed.value.rcvd.code == 3008
        assert codes_of_disconnect(server, path) == [3008]


def test_the_client_is_silent_while_its_handler_is_busy(server):
    path = f"/silent/{uuid.uuid4().hex}"
    with server.connect(path) as socket:
        do(socket, "wait", seconds=60)
        server.wait_for_event("cancelled", path)
        assert codes_of_disconnect(server, path) == [3008]


def test_the_client_speaks_no_websocket(server, path):
    with raw(server, path) as client:
        client.socket.sendall(b"\xff\xff\xff\xff")
    codes_of_disconnect(server, path)


def test_the_consumer_closes(server, path):
    with server.connect(path) as socket:
        do(socket, "close", code=4001, reason="because")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "because")
        assert codes_of_disconnect(server, path) == [4001]
        assert codes_of_signal(server, path) == [4001]


def test_the_consumer_closes_and_the_client_never_answers(server, path):
    with raw(server, path) as client:
        client.send_frame(1, b'{"do": "close"}')
        assert client.frame()[0] == 8
        assert codes_of_disconnect(server, path) == [1000]


def test_the_consumer_closes_and_more_messages_come(server, path):
    with raw(server, path) as client:
        close = client.frame_of(1, b'{"do": "close", "code": 4001}')
        say = client.frame_of(1, b'{"do": "say", "text": "too late"}')
        # Together: a server may have ended the connection before the last one is sent.
        client.socket.sendall(3 * (close + say))
        opcode, payload = client.frame()
        assert (opcode, payload[:2]) == (8, struct.pack("!H", 4001))
        assert codes_of_disconnect(server, path) == [4001]


def test_the_consumer_closes_and_what_it_still_does_is_not_cancelled(server, path):
    with server.connect(path) as socket:
        do(socket, "close and wait")
        assert codes_of_disconnect(server, path) == [4002]
    assert len(server.events("waited", path)) == 1


def test_a_background_task_closes_while_a_handler_is_busy(server, path):
    with server.connect(path) as socket:
        do(socket, "close in background and wait")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4003, "from behind")
        server.wait_for_event("cancelled", path)
        assert codes_of_disconnect(server, path) == [4003]


def test_a_background_task_closes(server, path):
    with server.connect(path) as socket:
        do(socket, "close in background")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4003, "from behind")
        assert codes_of_disconnect(server, path) == [4003]


def test_the_consumer_stops(server, path):
    with server.connect(path) as socket:
        do(socket, "stop")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
        assert closed.value.rcvd.code == 1000
        assert codes_of_disconnect(server, path) == [1000]


def test_connect_refuses(server, path):
    with pytest.raises(InvalidStatus) as refused:
        server.connect(f"{path}?refuse")
    assert refused.value.response.status_code == 403
    assert codes_of_disconnect(server, path) == [1006]
    assert server.wait_for_event("rejected", path)["rule"] == "application"


def test_connect_refuses_and_the_client_keeps_its_connection(server, path):
    with server.raw() as client:
        status, _ = client.handshake(f"{path}?refuse")
        assert status == 403
        assert codes_of_disconnect(server, path) == [1006]


@pytest.mark.websocket_tracebacks
def test_connect_raises(server, path):
    with pytest.raises(InvalidStatus) as refused:
        server.connect(f"{path}?raise")
    assert refused.value.response.status_code in (403, 500)
    assert codes_of_disconnect(server, path) == [1011]
    server.wait_for_log("RuntimeError: asked for")


def test_the_client_leaves_while_connect_is_busy(server, path):
    # Granian 2.8 says so only when the handshake is answered.
    is_told = server.name != "granian"
    with server.raw() as client:
        client.request(f"{path}?{'wait' if is_told else 'wait-a-second'}")
        server.wait_for_event("waiting", path)
    server.wait_for_event("cancelled" if is_told else "waited", path)
    codes_of_disconnect(server, path)


@pytest.mark.websocket_tracebacks
@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("raise", "RuntimeError: asked for"),
        ("raise in background", "RuntimeError: in background"),
    ],
)
def test_something_raises(server, path, command, error):
    with server.connect(path) as socket:
        do(socket, command)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
        assert closed.value.rcvd.code == 1011
        assert codes_of_disconnect(server, path) == [1011]
        assert codes_of_signal(server, path) == [1011]
    server.wait_for_log(error)


@pytest.mark.websocket_tracebacks
def test_a_background_task_that_raises_is_named_in_the_log(server, path):
    with server.connect(path) as socket:
        do(socket, "raise in background")
        codes_of_disconnect(server, path)
    server.wait_for_log(
        "The background task the failing one raised RuntimeError('in background'): path '" + path
    )


@pytest.mark.websocket_tracebacks
def test_a_background_task_that_raises_interrupts_a_busy_handler(server, path):
    with server.connect(path) as socket:
        do(socket, "raise in background and wait")
        assert codes_of_disconnect(server, path) == [1011]
    assert len(server.events("cancelled", path)) == 1


@pytest.mark.websocket_tracebacks
def test_a_handler_of_the_channel_layer_raises(server):
    path = f"/ends-with-layer/{uuid.uuid4().hex}"
    with server.connect(path) as socket:
        do(socket, "raise in a layer handler")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
        assert closed.value.rcvd.code == 1011
        assert codes_of_disconnect(server, path) == [1011]
    server.wait_for_log("RuntimeError: from the layer")


@pytest.mark.websocket_tracebacks  # Of the servers, when they stop.
@pytest.mark.parametrize("command", SERVERS)
def test_the_client_is_gone_when_the_handler_sends(serve, command):
    server = serve(command=command)
    server.name = command
    for route, way in product(ROUTES, ["close", "drop"]):
        path = f"/{route}/{way}"
        with server.connect(path) as socket:
            do(socket, "send when the client has gone")
            server.wait_for_event("waiting", path)
            if way == "drop":
                socket.socket.shutdown(sockets.SHUT_RDWR)
            else:
                socket.close()
        [code] = codes_of_disconnect(server, path)
        assert code in (1000, lost(server))
        assert codes_of_signal(server, path) == [code]
    server.stop()
    # Of the servers when they stop: asyncio's and Hypercorn's own.
    assert "Traceback" not in server.log().partition("Shutting down")[0]


def test_background_tasks_have_ended_before_disconnect_is_called(server, path):
    with server.connect(f"{path}?background") as socket:
        assert socket.recv(BOUND) == "tick"
    codes_of_disconnect(server, path)
    log = server.log()
    names = [line.split('"')[3] for line in log.splitlines() if f'"path": "{path}"' in line]
    assert names.index("background ended") < names.index("disconnect()")


def test_a_handler_of_60_seconds_does_not_delay_disconnect(server, path):
    with server.connect(path) as socket:
        do(socket, "wait", seconds=60)
        server.wait_for_event("waiting", path)
        time.sleep(1)  # The handler is not a new one any more.
    left = time.monotonic()
    server.wait_for_event("disconnect()", path)
    assert time.monotonic() - left < 10
    codes_of_disconnect(server, path)
    assert len(server.events("cancelled", path)) == 1


def test_it_is_finished_when_the_consumer_says_so(server):
    path = f"/finishes/{uuid.uuid4().hex}"
    with server.connect(path) as socket:
        do(socket, "wait", seconds=1.5)
        do(socket, "wait", seconds=0.1)
        server.wait_for_event("waiting", path)
    codes_of_disconnect(server, path)
    assert len(server.events("waited", path)) == 2
    assert server.events("cancelled", path) == []


def test_a_message_before_the_close_is_handled(server, path):
    with server.connect(path) as socket:
        for _ in range(20):
            do(socket, "wait", seconds=0.01)
    codes_of_disconnect(server, path)
    assert len(server.events("waited", path)) == 20


KEEP_ALIVE = {
    "runserver": (),
    "uvicorn": ("--ws-ping-interval", "1", "--ws-ping-timeout", "1"),
}


@pytest.mark.parametrize("command", KEEP_ALIVE)
@pytest.mark.parametrize("route", ROUTES)
def test_the_client_answers_no_ping(serve, command, route):
    server = serve(
        command=command,
        arguments=KEEP_ALIVE[command],
        WS_SUPPORT={"KEEP_ALIVE_INTERVAL": 1, "KEEP_ALIVE_TIMEOUT": 1},
    )
    path = f"/{route}/pingless"
    with raw(server, path):
        codes_of_disconnect(server, path)


@pytest.mark.websocket_tracebacks  # Hypercorn's own, when it stops.
@pytest.mark.parametrize(
    "command",
    # Hypercorn 0.18 does not end the TCP connections, and its clients wait.
    [*SERVERS[:2], pytest.param("hypercorn", marks=pytest.mark.slow), "granian"],
)
@pytest.mark.parametrize("busy", ["idle", "busy"])
def test_the_server_stops(serve, command, busy):
    server = serve(command=command)
    paths = [f"/{route}/stopped-{number}" for route in ROUTES for number in range(5)]
    with ExitStack() as stack:
        for path in paths:
            client = stack.enter_context(server.connect(f"{path}?background"))
            if busy == "busy":
                do(client, "wait", seconds=60)
                server.wait_for_event("waiting", path)
        server.stop()
    for path in paths:
        assert codes_of_disconnect(server, path) == [1012]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_granian_is_stopped_from_a_terminal(serve, loop):
    """Ctrl-C reaches the worker as well as the main process, which ends the worker again."""
    server = serve(command="granian", arguments=("--loop", loop))
    path = "/ends/stopped"
    with server.connect(path):
        main = server.process.pid
        [worker] = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        os.kill(int(worker), signal.SIGINT)
        server.process.send_signal(signal.SIGINT)
        assert codes_of_disconnect(server, path) == [1012]
    # No third signal: one that comes while Python takes the process down ends it with -15.
    assert server.process.wait(BOUND) == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_granian_tells_an_application_that_is_no_consumer(serve, loop):
    server = serve(command="granian", arguments=("--loop", loop))
    with server.connect("/told"):
        assert server.stop() == 0
    [event] = server.events("told")
    assert (event["message"]["code"], event["message"]["reason"]) == (
        1012,
        "The server is stopping",
    )


def test_no_server_has_a_word_to_say_about_tasks(server):
    """asyncio's complaints of tasks that were forgotten."""
    for _ in until("a server that is done", server.log):
        if len(server.events("disconnect()")) == len(server.events("disconnect() done")):
            break
    for words in ("never retrieved", "was never awaited", "Task was destroyed"):
        assert words not in server.log()
