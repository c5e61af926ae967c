"""A client that sends without end: what it costs the server, and everybody else."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from statistics import median

import pytest

from tests.harness import ASGI_SERVERS, BOUND, RawClient, memory, serving
from tests.servers.test_behaviours import expected

pytestmark = pytest.mark.long

MEGABYTE = 10**6
SECONDS = 1.0
LONGEST_WAIT = 0.5
"""Seconds; a tenth of that on a machine of its own."""
TEXT, BINARY, PING, PONG = 1, 2, 9, 10


@pytest.fixture(scope="module", params=ASGI_SERVERS)
def server(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    # Channels' consumer does not end while its handler is busy.
    settings = {"SHUTDOWN_TIMEOUT": 1}
    with serving(log_file, asgi_server=request.param, WS_SUPPORT=settings) as server:
        # The largest messages, so that the allocator has what it needs for them.
        with server.connect() as socket:
            for _ in range(20):
                socket.send(bytes(2**20))
                assert len(socket.recv(BOUND)) == 2**20
        yield server


@contextmanager
def flooding(server, path: str, frame: tuple[int, bytes], *first: tuple[int, bytes]):
    """Send `first`, and then this frame again and again. The client reads nothing."""
    with server.raw() as client:
        assert client.handshake(path)[0] == 101
        for each in first:
            client.send_frame(*each)
        client.socket.settimeout(0.1)
        is_over = threading.Event()
        thread = threading.Thread(target=flood, args=(client, frame, is_over))
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def flood(client: RawClient, frame: tuple[int, bytes], is_over: threading.Event) -> None:
    data = client.frame_of(*frame)
    data *= max(2**18 // len(data), 1)
    left = memoryview(data)
    while not is_over.is_set():
        with suppress(OSError):  # It takes no more now, or ever.
            left = left[client.socket.send(left) :] or memoryview(data)


def growth_while_another_is_served(server) -> tuple[float, float]:
    """Return megabytes at the most, and the seconds that a well-behaved client waits for an answer.

    The wait is the median: what a busy machine does to one of them is no flood's doing.
    """
    before = most = memory(server.process.pid)
    waits = []
    end = time.monotonic() + SECONDS
    with server.connect() as socket:
        while not waits or time.monotonic() < end:
            sent_at = time.monotonic()
            socket.send("hello")
            assert socket.recv(BOUND) == "hello"
            waits.append(time.monotonic() - sent_at)
            most = max(most, memory(server.process.pid))
            time.sleep(0.02)
    return (most - before) / MEGABYTE, median(waits)


FLOODS = {
    "texts-echoed": ("/ws", (TEXT, b"x" * 1000)),
    "short-texts-echoed": ("/ws", (TEXT, b"x" * 100)),
    "large-messages-echoed": ("/ws", (BINARY, bytes(2**20))),
    "large-messages-swallowed": ("/sink", (BINARY, bytes(2**20))),
    "a-busy-consumer": ("/busy", (BINARY, bytes(2**20)), (TEXT, b"600")),
    "a-busy-consumer-of-channels": ("/busy-of-channels", (TEXT, b"x" * 100), (TEXT, b"600")),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLOODS)
def test_a_client_that_floods_and_never_reads_costs_less_than_10_mb_and_delays_nobody(server, kind):
    with flooding(server, *FLOODS[kind]):
        growth, wait = growth_while_another_is_served(server)
    assert growth < 10
    assert wait < LONGEST_WAIT


@pytest.mark.slow
def test_a_busy_consumer_of_wide_text_costs_less_than_10_mb(server):
    wide = b"x" * (2**20 - 4) + "𝄞".encode()  # In memory four times as much.
    # Of several, since what one takes while a message is put together is not held.
    clients = 4
    with ExitStack() as stack:
        for _ in range(clients):
            stack.enter_context(flooding(server, "/busy", (TEXT, wide), (TEXT, b"600")))
        growth, wait = growth_while_another_is_served(server)
    assert growth / clients < 10
    assert wait < LONGEST_WAIT


@pytest.mark.slow
def test_a_client_that_is_sent_to_and_never_reads_costs_less_than_10_mb(server):
    with server.raw() as client:
        assert client.handshake("/spring")[0] == 101
        growth, wait = growth_while_another_is_served(server)
    assert growth < 10
    assert wait < LONGEST_WAIT


@pytest.mark.slow
@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_a_flood_of_pings_costs_less_than_10_mb(serve, name):
    server = serve(asgi_server=name, WS_SUPPORT={"SHUTDOWN_TIMEOUT": 1})
    with flooding(server, "/ws", (PING, b"x" * 100)):
        growth, _ = growth_while_another_is_served(server)
    # Granian 2.8 keeps its answers until they are read.
    assert (growth < 10) == (expected(server, "A flood of pings", "10 MB") == "10 MB")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["daphne", "uvicorn"])
def test_the_last_ping_is_answered_when_a_client_reads_again(serve, name):
    """The two servers where that is our doing."""
    server = serve(asgi_server=name, measured=True, WS_SUPPORT={"KEEP_ALIVE_INTERVAL": None})
    with server.raw() as client:
        client.handshake()
        for _ in range(120):  # 12 MB, which is more than the kernel takes
            client.socket.sendall(client.frame_of(PING, bytes(100)) * 1000)
        client.send_frame(PING, b"the last one")
        answers = 0
        while (frame := client.frame()) != (PONG, b"the last one"):
            assert frame == (PONG, bytes(100))
            answers += 1
        assert answers < 120_000
        client.send_frame(TEXT, b"go on")
        assert client.frame() == (TEXT, b"go on")
