"""`runasgi` at its end: nobody is lost, and it does end."""

from __future__ import annotations

import os
import resource
import signal
import struct
import time
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.harness import ASGI_SERVERS, BOUND, until

WITH_WORKERS = [name for name in ASGI_SERVERS if name != "daphne"]
TEXT, CLOSE, PING = 1, 8, 9
GOODBYE = (CLOSE, struct.pack("!H", 1012) + b"The server is stopping")


@pytest.fixture(scope="module", autouse=True)
def many_files():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(params=ASGI_SERVERS)
def name(request):
    return request.param


def connected(stack: ExitStack, server, path: str, count: int = 1):
    """Raw clients of `path/0`, `path/1` ..., which are accepted."""
    clients = []
    for start in range(0, count, 100):  # Each waits for its turn, Daphne for 5 s at the most.
        some = [stack.enter_context(server.raw()) for _ in range(start, min(start + 100, count))]
        for number, client in enumerate(some, start=start):
            client.request(f"{path}/{number}")
        for client in some:
            status, _ = client.response()
            if status == 0:
                raise ConnectionError("It ended without an answer.")
            assert status == 101
        clients += some
    return clients


def frame_of(client) -> tuple[int, bytes]:
    while frame := client.frame():
        if frame[0] != PING:  # Hypercorn pings at once.
            return frame
    raise ConnectionError("It ended without a close frame.")


def ended(server) -> float:
    """Seconds until the process has ended, with 0."""
    start = time.monotonic()
    assert server.process.wait(BOUND) == 0, server.log()
    return time.monotonic() - start


def workers_of(server) -> list[int]:
    main = server.process.pid
    pids = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    # multiprocessing has a helper of its own, which looks like its parent at first.
    return [int(pid) for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def workers_with(event: str, server, count: int = 1) -> list[int]:
    """Both workers, when each has logged this event so often."""
    for _ in until(f"event {event} of two workers", server.log):
        workers = workers_of(server)
        counts = Counter(each["pid"] for each in server.events(event))
        if len(workers) == 2 and all(counts[pid] >= count for pid in workers):
            return workers
    raise AssertionError


@pytest.mark.slow
def test_everybody_of_2000_hears_1012_and_each_disconnect_runs(serve, name):
    server = serve(asgi_server=name)
    with ExitStack() as stack:
        clients = connected(stack, server, "/ends", 2000)
        server.process.send_signal(signal.SIGTERM)
        assert Counter(map(frame_of, clients)) == {GOODBYE: 2000}
        assert ended(server) < 10
    done = server.events("disconnect() done")
    assert {event["path"] for event in done} == {f"/ends/{number}" for number in range(2000)}
    assert Counter(event["code"] for event in done) == {1012: 2000}
    assert Counter(event["code"] for event in server.events("disconnected")) == {1012: 2000}
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_stop_it_in_good_order(serve, name, number):
    server = serve(asgi_server=name)
    with server.connect("/ends-with-layer/x?background") as socket:
        server.process.send_signal(number)
        with pytest.raises(ConnectionClosed) as closed:
            list(iter(partial(socket.recv, BOUND), None))
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "The server is stopping")
    ended(server)
    assert [event["code"] for event in server.events("disconnect() done")] == [1012]
    assert "Traceback" not in server.log()


def test_a_busy_handler_is_cancelled_after_a_moment(serve, name):
    server = serve(asgi_server=name)
    with server.connect("/ends/busy") as socket:
        socket.send('{"do": "wait", "seconds": 60}')
        server.wait_for_event("waiting", "/ends/busy")
        server.process.send_signal(signal.SIGTERM)
        assert ended(server) < 5
    assert len(server.events("cancelled")) == 1
    assert [event["code"] for event in server.events("disconnect() done")] == [1012]


def test_a_handler_that_is_not_to_be_cancelled_finishes(serve, name):
    server = serve(asgi_server=name)
    with server.connect("/finishes/busy") as socket:
        socket.send('{"do": "wait", "seconds": 1.5}')
        server.wait_for_event("waiting", "/finishes/busy")
        server.process.send_signal(signal.SIGTERM)
        ended(server)
    assert len(server.events("waited")) == 1
    assert [event["code"] for event in server.events("disconnect() done")] == [1012]


@pytest.mark.parametrize("path", ["/told", "/told-meanwhile"])
def test_an_application_that_is_no_consumer_hears_that_its_client_has_left(serve, name, path):
    server = serve(asgi_server=name)
    with server.connect(path) as socket:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "The server is stopping")
    ended(server)
    [event] = server.events("told")
    assert (event["message"]["type"], event["message"]["code"]) == ("websocket.disconnect", 1012)


def test_a_handshake_in_progress_is_finished(serve, name):
    server = serve(asgi_server=name)
    with server.raw() as client:
        client.request("/slow-accept")
        server.wait_for_event("connecting", "/slow-accept")
        server.process.send_signal(signal.SIGTERM)
        assert client.response()[0] == 101
        assert frame_of(client) == GOODBYE
    ended(server)
    assert [event["code"] for event in server.events("disconnected")] == [1012]


def test_a_request_in_progress_is_answered(serve, name):
    server = serve(asgi_server=name)
    request = HTTPConnection(server.host, server.port, timeout=BOUND)
    request.request("GET", "/slow?1")
    server.wait_for_event("requested", "/slow")
    server.process.send_signal(signal.SIGTERM)
    assert request.getresponse().read() == b"slow"
    request.close()
    ended(server)


def test_nobody_gets_in_while_it_ends(serve, name):
    server = serve(asgi_server=name)
    with server.connect("/stubborn") as socket:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            socket.recv(BOUND)
        # It takes a second to end. Granian listens on meanwhile, and whoever comes is sent away.
        try:
            late = server.connect("/logged", open_timeout=5)
        except (OSError, EOFError, TimeoutError):
            assert name != "granian"
        else:
            with late, pytest.raises(ConnectionClosed) as closed:
                late.recv(BOUND)
            assert (name, closed.value.rcvd.code) == ("granian", 1012)
    ended(server)


def test_it_ends_in_time_also_when_a_consumer_does_not(serve, name):
    server = serve(asgi_server=name, WS_SUPPORT={"SHUTDOWN_TIMEOUT": 1})
    with server.connect("/immortal"):
        server.process.send_signal(signal.SIGTERM)
        assert ended(server) < 1 + 2  # and two seconds for a busy machine
    assert "1 WebSocket consumers have not ended within 0.8 s and are cancelled." in server.log()
    assert 'raise WS_SUPPORT["SHUTDOWN_TIMEOUT"]' in server.log()


def test_a_second_signal_ends_it_at_once(serve, name):
    server = serve(asgi_server=name, WS_SUPPORT={"SHUTDOWN_TIMEOUT": 60})
    with server.connect("/immortal") as socket:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            socket.recv(BOUND)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(BOUND) == 128 + signal.SIGTERM


def test_a_client_that_is_gone_without_a_word_to_tls_holds_up_nothing(serve, name, certificates):
    tls = ("--ssl-certfile", certificates.chain, "--ssl-keyfile", certificates.key)
    server = serve(asgi_server=name, arguments=tls)
    context = certificates.context()
    with server.raw() as client:
        # What comes to it is read by nobody.
        secure = context.wrap_socket(client.socket, server_hostname="localhost")
        secure.sendall(b"GET /scope HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert secure.recv(1000).startswith(b"HTTP/1.1 200")
        server.process.send_signal(signal.SIGTERM)
        assert ended(server) < 5
        secure.close()


# Workers


def served_by(stack: ExitStack, server, workers: int):
    """Clients and the process that each is served by, of so many workers."""
    pids = {}
    for _ in until(f"answer of {workers} workers", server.log):
        with suppress(OSError):  # A worker that is killed takes whoever waits for it along.
            [client] = connected(stack, server, "/pid")
            kind, payload = frame_of(client)
            if kind == TEXT:  # Granian listens on while a worker stops, and sends them away.
                pids[client] = int(payload)
        if len(set(pids.values())) == workers and len(pids) > 10:
            return pids
    raise AssertionError


@pytest.mark.parametrize("name", WITH_WORKERS, indirect=True)
def test_a_killed_worker_is_replaced_and_only_its_own_connections_are_lost(serve, name):
    server = serve(asgi_server=name, arguments=("--workers", "2"))
    with ExitStack() as stack:
        pids = served_by(stack, server, 2)
        killed, other = set(pids.values())
        os.kill(killed, signal.SIGKILL)
        for client, pid in pids.items():
            if pid == killed:
                assert client.frame() is None
        newer = served_by(stack, server, 2)
        assert killed not in newer.values()
        assert other in newer.values()
        for client, pid in pids.items():
            if pid == other:
                client.send_frame(1, b"still there")
                assert client.frame() == (1, b"still there")
        server.process.send_signal(signal.SIGTERM)
        assert {frame_of(client) for client in newer} == {GOODBYE}
        ended(server)


@pytest.mark.parametrize("name", WITH_WORKERS, indirect=True)
def test_a_signal_to_every_process_at_once_is_one_signal(serve, name):
    """As systemd sends it, and the Ctrl-C of a terminal."""
    server = serve(asgi_server=name, arguments=("--workers", "2"))
    with ExitStack() as stack:
        clients = connected(stack, server, "/ends", 40)
        for pid in [server.process.pid, *workers_with("loaded", server)]:
            os.kill(pid, signal.SIGINT)
        assert Counter(map(frame_of, clients)) == {GOODBYE: 40}
        ended(server)
    assert len(server.events("disconnect() done")) == 40
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("name", WITH_WORKERS, indirect=True)
def test_ctrl_c_while_workers_load_their_application_ends_them_quietly(serve, name):
    server = serve(
        asgi_server=name,
        arguments=("--workers", "2"),
        ASGI_APPLICATION="tests.project.slow.application",
        waits=False,
    )
    for pid in workers_with("loading", server):
        os.kill(pid, signal.SIGINT)
    workers_with("loading", server, len(server.events("loading")) + 2)
    server.process.send_signal(signal.SIGINT)
    ended(server)
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"], indirect=True)
def test_workers_end_with_their_main_process(serve, name):
    server = serve(asgi_server=name, arguments=("--workers", "2"))
    with ExitStack() as stack:
        clients = connected(stack, server, "/ends", 20)
        server.process.kill()
        assert Counter(map(frame_of, clients)) == {GOODBYE: 20}
    for _ in until("20 calls of disconnect()", server.log):
        if len(server.events("disconnect() done")) == 20:
            break


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"], indirect=True)
def test_a_stop_while_a_dead_worker_waits_for_its_replacement_is_a_stop(serve, name):
    server = serve(asgi_server=name, arguments=("--workers", "2"))
    for _ in until("workers", server.log):
        if workers := workers_of(server):
            break
    os.kill(workers[0], signal.SIGKILL)  # Within the second that lies between two starts.
    server.wait_for_log("is replaced.")
    server.process.send_signal(signal.SIGTERM)
    ended(server)


@pytest.mark.parametrize("name", WITH_WORKERS, indirect=True)
def test_a_worker_that_is_told_to_stop_is_replaced(serve, name):
    server = serve(asgi_server=name, arguments=("--workers", "2"))
    with ExitStack() as stack:
        before = served_by(stack, server, 2)
        stopped = min(before.values())
        os.kill(stopped, signal.SIGTERM)
        told = [client for client, pid in before.items() if pid == stopped]
        assert {frame_of(client) for client in told} == {GOODBYE}
        assert stopped not in served_by(stack, server, 2).values()


@pytest.mark.parametrize("name", WITH_WORKERS, indirect=True)
def test_a_second_signal_ends_workers_at_once(serve, name):
    server = serve(
        asgi_server=name, arguments=("--workers", "2"), WS_SUPPORT={"SHUTDOWN_TIMEOUT": 60}
    )
    with server.connect("/immortal") as socket:
        workers = workers_of(server)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            socket.recv(BOUND)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(BOUND) == 128 + signal.SIGTERM
    for pid in workers:
        for _ in until(f"end of process {pid}", server.log):
            if not Path(f"/proc/{pid}").exists():
                break
