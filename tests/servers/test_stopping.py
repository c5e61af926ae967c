"""`runasgi` at its end: nobody is lost, and it does end."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import platform
import re
import resource
import signal
import socket as sockets
import struct
import subprocess
import sys
import termios
import time
from array import array
from collections import Counter
from contextlib import ExitStack, closing, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import unix_connect

from tests.harness import ASGI_SERVERS, BOUND, ROOT, free_port, until, wait_until
from tests.warm import WORKER
from ws_support.servers._run.shutdown import wake_at_signals
from ws_support.servers._run.supervisor import _be_killed_after_main_process

pytestmark = pytest.mark.alone

WITH_WORKERS = [name for name in ASGI_SERVERS if name != "daphne"]
TEXT, CLOSE, PING = 1, 8, 9
GOODBYE = (CLOSE, struct.pack("!H", 1012) + b"The server is stopping")
EVENTS = {"ROOT_URLCONF": "tests.project.urls", "WS_SUPPORT": {"SHUTDOWN_TIMEOUT": 60}}


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
            if status != 101:  # 0 if it has ended without an answer.
                raise ConnectionError(f"It was refused with {status}.")
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


def switches_of(pid: int) -> str:
    """How often the main thread of a process has waited."""
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    return re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.M)[1]


def signal_thread(pid: int, thread: int, number: int) -> int:
    """Send a signal to one thread of another process, and return 0 if that was possible."""
    return ctypes.CDLL(None).syscall(_TGKILL[platform.machine()], pid, thread, number)


_TGKILL = {"x86_64": 234, "aarch64": 131}
"""The number of the system call tgkill."""


def children_of(server) -> list[int]:
    main = server.process.pid
    return [int(pid) for pid in Path(f"/proc/{main}/task/{main}/children").read_text().split()]


def workers_of(server) -> list[int]:
    # multiprocessing has a helper of its own, which looks like its parent at first.
    return [pid for pid in children_of(server) if WORKER in name_and_command_line(pid)]


def name_and_command_line(pid) -> str:
    return "".join(Path(f"/proc/{pid}/{name}").read_text() for name in ("comm", "cmdline"))


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
    # On a busy machine, their 10 s are too short for so many.
    server = serve(asgi_server=name, measured=False, WS_SUPPORT={"SHUTDOWN_TIMEOUT": 30})
    with ExitStack() as stack:
        clients = connected(stack, server, "/ends", 2000)
        server.process.send_signal(signal.SIGTERM)
        assert Counter(map(frame_of, clients)) == {GOODBYE: 2000}
        assert ended(server) < 30
    done = server.events("disconnect() done")
    assert {event["path"] for event in done} == {f"/ends/{number}" for number in range(2000)}
    assert Counter(event["code"] for event in done) == {1012: 2000}
    assert Counter(event["code"] for event in server.events("disconnected")) == {1012: 2000}


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


STARTED = [pytest.param({"asgi_server": name}, id=name) for name in ASGI_SERVERS]
STARTED += [
    pytest.param({"command": "granian", "arguments": ("--loop", loop)}, id=f"granian-{loop}")
    for loop in ("asyncio", "uvloop")
]


@pytest.mark.slow
@pytest.mark.parametrize("started", STARTED)
def test_a_signal_that_does_not_interrupt_the_event_loop_stops_it(serve, started):
    """It comes to another thread, or just before the loop waits."""
    server = serve(**started)
    [pid] = workers_of(server) or children_of(server) or [server.process.pid]
    for _ in until("a loop that waits, and another thread", server.log):
        before = switches_of(pid)
        # The connection that has found it listening, and sent nothing, wakes Hypercorn after 5 s.
        time.sleep(5.5 if started.get("asgi_server") == "hypercorn" else 0.05)
        threads = sorted(int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir())
        if switches_of(pid) == before and len(threads) > 1:
            break
    assert signal_thread(pid, threads[-1], signal.SIGTERM) == 0
    if pid == server.process.pid:
        ended(server)
    else:
        wait_until(lambda: pid not in children_of(server), "end of the worker", server.log)


def test_a_loop_that_signals_wake_already_keeps_its_own_way():
    """As that of Windows does."""
    loop = asyncio.new_event_loop()
    here, there = sockets.socketpair()
    with here, there, closing(loop):
        there.setblocking(False)
        before = signal.set_wakeup_fd(there.fileno())
        try:
            wake_at_signals(loop)
            assert signal.set_wakeup_fd(before) == there.fileno()
        finally:
            signal.set_wakeup_fd(before)


@pytest.mark.parametrize(
    "name", [each for each in ASGI_SERVERS if each != "granian"], indirect=True
)
def test_sighup_stops_it_in_good_order(serve, name):
    server = serve(asgi_server=name)
    with ExitStack() as stack:
        clients = connected(stack, server, "/ends", 20)
        server.process.send_signal(signal.SIGHUP)
        assert Counter(map(frame_of, clients)) == {GOODBYE: 20}
        ended(server)
    assert [event["code"] for event in server.events("disconnect() done")] == [1012] * 20


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"], indirect=True)
def test_sighup_to_every_process_at_once_stops_workers_in_good_order(serve, name):
    """As the kernel sends it when a terminal is closed."""
    server = serve(asgi_server=name, arguments=("--workers", "2"))
    with ExitStack() as stack:
        clients = connected(stack, server, "/ends", 20)
        for pid in [server.process.pid, *workers_with("loaded", server)]:
            os.kill(pid, signal.SIGHUP)
        assert Counter(map(frame_of, clients)) == {GOODBYE: 20}
        ended(server)


@pytest.mark.slow
def test_sighup_replaces_the_workers_of_granian_in_good_order(serve):
    server = serve(asgi_server="granian", arguments=("--workers", "2"))
    with ExitStack() as stack:
        before = served_by(stack, server, 2)
        for pid in [server.process.pid, *before.values()]:
            os.kill(pid, signal.SIGHUP)
        assert {frame_of(client) for client in before} == {GOODBYE}
        assert not set(before.values()) & set(served_by(stack, server, 2).values())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_that_nohup_ignores_is_ignored(serve, workers):
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = serve(asgi_server="uvicorn", arguments=("--workers", workers))
    finally:
        signal.signal(signal.SIGHUP, handler)
    with server.connect() as socket:
        for pid in [server.process.pid, *workers_of(server)]:
            os.kill(pid, signal.SIGHUP)
        socket.send("still there")
        assert socket.recv(BOUND) == "still there"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_is_no_second_signal(serve, workers):
    """systemd and shells send it besides."""
    server = serve(asgi_server="uvicorn", arguments=("--workers", workers))
    with server.connect("/stubborn") as socket:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            socket.recv(BOUND)
        server.process.send_signal(signal.SIGHUP)
        ended(server)


@pytest.fixture
def path(tmp_path_factory):
    # Not in the folder of the test, whose name may be too long for a Unix socket.
    return tmp_path_factory.mktemp("s") / "asgi.sock"


LOADING = [(name, signal.SIGTERM) for name in ASGI_SERVERS]
LOADING += [("uvicorn", signal.SIGHUP), ("uvicorn", signal.SIGINT)]


@pytest.mark.parametrize(("name", "number"), LOADING, indirect=["name"])
def test_a_signal_while_it_loads_the_application_ends_it_quietly(serve, name, number, path):
    server = serve(
        asgi_server=name,
        arguments=("--uds", str(path)),
        ASGI_APPLICATION="tests.project.slow_in_main.application",
        waits=False,
    )
    server.wait_for_log('"loading"')
    server.process.send_signal(number)
    ended(server)
    assert not path.exists()


def test_a_signal_between_listening_and_serving_takes_the_unix_socket_along(path):
    """In a process of its own: the time in which that may happen is short."""
    path.touch()
    program = (
        "import os, sys; from ws_support.servers._run import shutdown;"
        " shutdown.unix_sockets.add(sys.argv[1]); shutdown.stop_at_once_until_it_serves();"
        f" os.kill(os.getpid(), {int(signal.SIGTERM)}); sys.exit(1)"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True)
    assert not path.exists()


STARTING = [("uvicorn-picows", 1), ("uvicorn", 2), ("hypercorn", 1), ("hypercorn", 2)]
STARTING += [("granian", 1), ("granian", 2)]


@pytest.mark.parametrize(("name", "workers"), STARTING, indirect=["name"])
def test_a_signal_while_the_lifespan_starts_ends_it_at_once(serve, name, workers, path):
    server = serve(
        asgi_server=name,
        arguments=("--uds", str(path), "--workers", str(workers)),
        ASGI_APPLICATION="tests.project.broken.without_an_end_of_its_start",
        WS_SUPPORT={"SHUTDOWN_TIMEOUT": 60},
        waits=False,
    )
    server.wait_for_log('"starting"')
    server.process.send_signal(signal.SIGTERM)
    ended(server)
    assert not path.exists()


def test_a_signal_in_the_moment_before_the_lifespan_starts_ends_it_at_once():
    """In a process that sends it to itself: the moment is short."""
    program = (
        "import os, signal, sys; from uvicorn import Config; load = Config.load\n"
        "def loaded(self): load(self); os.kill(os.getpid(), signal.SIGTERM)\n"
        "Config.load = loaded; from django.core.management import execute_from_command_line\n"
        f"execute_from_command_line(['', 'runasgi', '--server', 'uvicorn', '{free_port()}'])"
    )
    settings = {
        "ASGI_APPLICATION": "tests.project.broken.without_an_end_of_its_start",
        "WS_SUPPORT": {"SHUTDOWN_TIMEOUT": 60},
    }
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.project.settings",
        "TEST_SETTINGS": json.dumps(settings),
    }
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=BOUND,
        check=True,
    )


def test_a_signal_while_hypercorn_begins_to_listen_leaves_no_connection_behind():
    """In a process that sends it to itself and is its own client: the moment is short."""
    program = """
import asyncio, os, signal, socket, sys
from django.core.management import execute_from_command_line

begin, clients, port = asyncio.start_server, [], sys.argv[1]

async def start_server(*arguments, **options):
    server = await begin(*arguments, **options)
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        await asyncio.sleep(0.2)
    finally:
        connect()
    return server

def connect():
    client = socket.socket()
    if client.connect_ex(("127.0.0.1", int(port))) == 0:
        clients.append(client)
        if len(clients) < 20:
            asyncio.get_running_loop().call_soon(connect)

asyncio.start_server = start_server
execute_from_command_line(["", "runasgi", "--server", "hypercorn", "--port", port])
assert clients
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(free_port())],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.project.settings"},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "destroyed" not in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("name", ["granian"], indirect=True)
def test_a_worker_of_granian_that_is_told_so_in_that_moment_ends_at_once(serve, name):
    server = serve(
        asgi_server=name,
        ASGI_APPLICATION="tests.project.stopped.application",
        WS_SUPPORT={"SHUTDOWN_TIMEOUT": 60},
        waits=False,
    )
    ended(server)


@pytest.mark.parametrize(
    ("name", "workers"),
    [("uvicorn", 1), ("uvicorn", 2), ("granian", 1)],
    indirect=["name"],
)
def test_the_unix_socket_goes_also_at_the_second_signal(serve, name, workers, path):
    server = serve(
        asgi_server=name,
        arguments=("--uds", str(path), "--workers", str(workers)),
        listens_at=path,
        WS_SUPPORT={"SHUTDOWN_TIMEOUT": 60},
    )
    with unix_connect(str(path), "ws://localhost/immortal", origin="http://localhost") as socket:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            socket.recv(BOUND)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(BOUND) == 128 + signal.SIGTERM
    assert not path.exists()


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


@pytest.mark.parametrize("path", ["/events", "/deaf-events"])
def test_an_event_stream_is_ended_soon_and_its_view_is_told(serve, name, path):
    server = serve(asgi_server=name, **EVENTS)
    request = HTTPConnection(server.host, server.port, timeout=BOUND)
    request.request("GET", path)
    response = request.getresponse()
    assert response.read(9) == b"data: x\n\n"
    server.process.send_signal(signal.SIGTERM)
    response.read()  # Its end is one that HTTP knows: otherwise this raises.
    request.close()
    ended(server)
    assert len(server.events("told", path)) == 1
    for word in ("Traceback", "rror", "ancel"):
        assert word not in server.log()


def test_an_event_stream_that_begins_while_it_stops_is_ended_at_once(serve, name):
    server = serve(asgi_server=name, **EVENTS)
    request = HTTPConnection(server.host, server.port, timeout=BOUND)
    request.request("GET", "/events?1")
    server.wait_for_event("waiting", "/events")
    server.process.send_signal(signal.SIGTERM)
    assert request.getresponse().status == 200
    request.close()
    ended(server)
    assert len(server.events("told", "/events")) == 1


@pytest.mark.parametrize("name", WITH_WORKERS, indirect=True)
def test_a_request_that_takes_too_long_is_answered_with_503(serve, name):
    server = serve(asgi_server=name, WS_SUPPORT={"SHUTDOWN_TIMEOUT": 5})
    request = HTTPConnection(server.host, server.port, timeout=BOUND)
    request.request("GET", "/deaf")
    server.wait_for_event("requested", "/deaf")
    server.process.send_signal(signal.SIGTERM)
    response = request.getresponse()
    assert (response.status, response.read()) == (503, b"The server is stopping.\n")
    request.close()
    ended(server)
    assert len(server.events("told", "/deaf")) == 1
    assert "1 requests have not been answered in time and are cancelled." in server.log()


def is_stuck(client) -> bool:
    """Return True if nothing more comes for a client that does not read."""
    before = unread(client)
    time.sleep(0.1)
    return 0 < before == unread(client)


def unread(client) -> int:
    """Return how many bytes the kernel holds for a client that does not read."""
    size = array("i", [0])
    fcntl.ioctl(client.socket, termios.FIONREAD, size)
    return size[0]


@pytest.mark.slow
def test_a_client_that_has_closed_and_reads_nothing_holds_up_no_stop(serve, name):
    server = serve(asgi_server=name)
    with server.raw() as silent, ExitStack() as stack:
        silent.open("/spring")
        clients = connected(stack, server, "/ends", 3)
        wait_until(lambda: is_stuck(silent), "client whose buffers are full")
        silent.send_frame(8, b"\x03\xe8")
        if name != "hypercorn":  # It waits until its client reads.
            server.wait_for_event("disconnect()", "/spring")
        server.process.send_signal(signal.SIGTERM)
        assert Counter(map(frame_of, clients)) == {GOODBYE: 3}
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
        # A worker that is killed takes whoever waits for it along. Granian now and then refuses a
        # handshake that comes when a worker is told to stop, at the worker's end.
        with suppress(OSError):
            [client] = connected(stack, server, "/pid")
            kind, payload = frame_of(client)
            if kind == TEXT:  # Granian listens on while a worker stops, and sends them away.
                pids[client] = int(payload)
        if len(set(pids.values())) == workers and len(pids) > 10:
            return pids
    raise AssertionError


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("name", "workers"),
    [("uvicorn", 2), ("hypercorn", 2), ("granian", 1), ("granian", 2)],
    indirect=["name"],
)
def test_workers_end_with_their_main_process(serve, name, workers):
    server = serve(asgi_server=name, arguments=("--workers", str(workers)))
    with ExitStack() as stack:
        clients = connected(stack, server, "/ends", 20)
        server.process.kill()
        assert Counter(map(frame_of, clients)) == {GOODBYE: 20}
    for _ in until("20 calls of disconnect()", server.log):
        if len(server.events("disconnect() done")) == 20:
            break
    server.wait_until_nobody_listens()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "keeps_the_lock"),
    [("uvicorn", True), ("uvicorn", False), ("hypercorn", True), ("granian", True)],
    indirect=["name"],
)
def test_workers_that_hang_in_c_are_killed_when_their_main_process_has_ended(
    serve, name, keeps_the_lock
):
    server = serve(
        asgi_server=name, arguments=("--workers", "2"), WS_SUPPORT={"SHUTDOWN_TIMEOUT": 1}
    )
    with server.connect("/commands") as socket:
        socket.send(json.dumps({"do": "hang", "keeps_the_lock": keeps_the_lock}))
        server.wait_for_event("hanging", "/commands")
        server.process.kill()
        server.wait_until_nobody_listens()


@pytest.mark.parametrize(
    ("timeout", "number"), [(1, 16), (16, 16), (17, 34), (50.5, 51), (65, None)]
)
def test_the_kernel_kills_such_a_worker_no_sooner_than_it_may_end(timeout, number):
    """In a process of its own, whose handlers of signals stay as they are for the tests."""
    program = (
        "import ctypes; from ws_support.servers._run import supervisor;"
        f" supervisor._be_killed_after_main_process({timeout}); number = ctypes.c_int();"
        " ctypes.CDLL(None).prctl(2, ctypes.byref(number), 0, 0, 0); print(number.value)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(found.stdout) == (number or 0)


def test_elsewhere_than_on_linux_the_kernel_is_asked_for_nothing(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", None)  # Which cannot be called.
    _be_killed_after_main_process(1)


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
