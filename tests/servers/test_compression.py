"""`PER_MESSAGE_DEFLATE`, on the servers that can compress (RFC 7692)."""

from __future__ import annotations

import random
import struct
import time
import zlib
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from tests.harness import BOUND, memory, serving
from ws_support.servers.daphne.websocket import CAN_DEFLATE

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
RSV1 = 0x40
SERVERS = ["uvicorn", "hypercorn", *(["daphne"] if CAN_DEFLATE else [])]
OFFER = b"permessage-deflate"


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    settings = {"PER_MESSAGE_DEFLATE": True, "KEEP_ALIVE_INTERVAL": None}
    with serving(log_file, asgi_server=request.param, WS_SUPPORT=settings) as server:
        yield server


def offering(server, *offers: bytes, path: str = "/ws"):
    """A raw client with these offers, and what the server says of them."""
    client = server.raw()
    headers = [(b"Origin", server.origin.encode())]
    headers += [(b"Sec-WebSocket-Extensions", offer) for offer in offers]
    head = client.open(path, headers)
    lines = [line.decode() for line in head.split(b"\r\n")]
    answers = [
        line.partition(": ")[2] for line in lines if line.lower().startswith("sec-websocket-ext")
    ]
    return client, answers


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-12)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def send_compressed(client, opcode: int, data: bytes, *, fin: bool = True) -> None:
    frame = bytearray(client.frame_of(opcode, data, fin=fin))
    frame[0] |= RSV1
    client.socket.sendall(frame)


@pytest.mark.parametrize("message", ["", b"", "text", b"binary" * 1000, "x" * 2**20, bytes(2**20)])
def test_a_message_comes_back_compressed(server, message):
    with server.connect() as socket:
        assert [each.name for each in socket.protocol.extensions] == ["permessage-deflate"]
        for _ in range(3):
            socket.send(message)
            assert socket.recv(BOUND) == message


def test_what_is_sent_is_smaller(server):
    with offering(server, OFFER)[0] as client:
        message = b'{"price": 1234.5, "name": "something"}' * 50
        send_compressed(client, TEXT, deflated(message))
        _, payload = client.frame()
        assert len(payload) < len(message) / 5
        assert zlib.decompressobj(wbits=-15).decompress(payload + b"\0\0\xff\xff") == message


@pytest.mark.parametrize(
    "factory",
    [
        ClientPerMessageDeflateFactory(client_no_context_takeover=True),
        ClientPerMessageDeflateFactory(server_no_context_takeover=True),
        ClientPerMessageDeflateFactory(server_max_window_bits=10, client_max_window_bits=10),
        ClientPerMessageDeflateFactory(client_max_window_bits=True),
    ],
)
def test_what_a_client_asks_for_is_kept(server, factory):
    with server.connect(extensions=[factory]) as socket:
        assert [each.name for each in socket.protocol.extensions] == ["permessage-deflate"]
        for number in range(5):
            message = f"{number} " * 1000
            socket.send(message)
            assert socket.recv(BOUND) == message


def test_a_client_that_offers_nothing_gets_nothing(server):
    with server.connect(compression=None) as socket:
        assert socket.protocol.extensions == []
        socket.send("plain")
        assert socket.recv(BOUND) == "plain"


def test_a_message_that_becomes_too_large_closes_with_1009(server):
    """A bomb: a megabyte of zeros is a kilobyte."""
    bomb = deflated(bytes(50 * 2**20))
    assert len(bomb) < 2**20
    with offering(server, OFFER)[0] as client:
        send_compressed(client, BINARY, bomb)
        opcode, payload = client.frame()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1009))


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_a_connection_that_compresses_costs_little_memory_and_time(serve, name):
    settings = {"PER_MESSAGE_DEFLATE": True, "KEEP_ALIVE_INTERVAL": None}
    server = serve(asgi_server=name, measured=False, WS_SUPPORT=settings)
    pid, count = server.process.pid, 60
    # No page of a window is left that was never written to.
    texts = [random.Random(seed).randbytes(512).hex() for seed in range(70)]
    with ExitStack() as stack:

        def open_and_use(count: int) -> None:
            for _ in range(count):
                socket = stack.enter_context(server.connect())
                for text in texts:
                    socket.send(text)
                    assert socket.recv(BOUND) == text

        open_and_use(20)  # What is loaded once is loaded by then.
        memory_before, time_before = memory(pid), cpu_time(pid)
        open_and_use(count)
        # Hypercorn keeps a window of 32 KiB, and the others one of 4.
        limit = 400 if server.name == "hypercorn" else 150
        assert (memory(pid) - memory_before) / count < limit * 1024
        assert (cpu_time(pid) - time_before) / count / len(texts) < 0.002


def cpu_time(pid: int) -> float:
    """Return the seconds of CPU time of a process (`CPUCLOCK_SCHED` in Linux)."""
    return time.clock_gettime(~pid << 3 | 2)


def test_what_cannot_be_decompressed_ends_the_connection_without_a_traceback(server):
    with offering(server, OFFER)[0] as client:
        send_compressed(client, TEXT, b"\xff" * 10)
        frame = client.frame()
        assert frame is None or frame[0] == CLOSE


# Hypercorn


@pytest.fixture(scope="module")
def hypercorn(tmp_path_factory):
    log_file = tmp_path_factory.mktemp("hypercorn-alone") / "server.log"
    settings = {"PER_MESSAGE_DEFLATE": True, "KEEP_ALIVE_INTERVAL": None}
    with serving(log_file, asgi_server="hypercorn", WS_SUPPORT=settings) as server:
        yield server


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (b'; client_max_window_bits="10"', "; client_max_window_bits=10"),
        (b'; server_max_window_bits = "1\\0"', "; server_max_window_bits=10"),
        (b"; client_max_window_bits", ""),
        (b"; client_max_window_bits=8", "; client_max_window_bits=8"),
        (b"; server_no_context_takeover", "; server_no_context_takeover"),
    ],
)
def test_a_parameter_may_be_written_in_each_lawful_way(hypercorn, offer, answer):
    client, answers = offering(hypercorn, b"x-other", OFFER + offer)
    with client:
        assert answers == [f"permessage-deflate{answer}"]
        send_compressed(client, TEXT, deflated(b"hello"))
        assert client.frame()[0] == TEXT


def test_a_ping_between_compressed_fragments_harms_nothing(hypercorn):
    data = deflated(b"x" * 1000)
    with offering(hypercorn, OFFER)[0] as client:
        send_compressed(client, TEXT, data[:5], fin=False)
        client.send_frame(PING, b"here")
        client.send_frame(CONTINUATION, data[5:])
        assert client.frame() == (PONG, b"here")
        _, payload = client.frame()
    assert zlib.decompressobj(wbits=-15).decompress(payload + b"\0\0\xff\xff") == b"x" * 1000


def test_a_message_that_is_not_compressed_may_come_beside_those_that_are(hypercorn):
    with offering(hypercorn, OFFER + b"; server_no_context_takeover")[0] as client:
        client.send_frame(TEXT, b"plain")
        send_compressed(client, TEXT, deflated(b"small"))
        for text in (b"plain", b"small"):
            _, payload = client.frame()
            assert zlib.decompressobj(wbits=-15).decompress(payload + b"\0\0\xff\xff") == text


def test_a_message_may_end_the_stream_of_the_compressor(hypercorn):
    with offering(hypercorn, OFFER + b"; server_no_context_takeover")[0] as client:
        for _ in range(2):
            compressor = zlib.compressobj(wbits=-12)
            send_compressed(client, TEXT, compressor.compress(b"end") + compressor.flush() + b"\0")
            _, payload = client.frame()
            assert zlib.decompressobj(wbits=-15).decompress(payload + b"\0\0\xff\xff") == b"end"


def test_what_comes_behind_the_end_of_the_stream_is_no_data(hypercorn):
    compressor = zlib.compressobj(wbits=-12)
    data = compressor.compress(b"end") + compressor.flush()
    with offering(hypercorn, OFFER)[0] as client:
        send_compressed(client, TEXT, data + bytes(100))
        opcode, payload = client.frame()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1007))


def test_a_control_frame_is_not_compressed(hypercorn):
    with offering(hypercorn, OFFER)[0] as client:
        send_compressed(client, PING, b"")
        opcode, payload = client.frame()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1002))


def test_a_bomb_costs_no_more_than_a_message(hypercorn):
    compressor = zlib.compressobj(9, wbits=-12)
    block = bytes(2**20)
    bomb = b"".join(compressor.compress(block) for _ in range(100))
    with hypercorn.connect() as socket:
        socket.send(block)
        assert socket.recv(BOUND) == block
    # What was inflated may have been given back by the time of the answer.
    process = Path("/proc") / str(hypercorn.process.pid)
    (process / "clear_refs").write_text("5")
    before = peak(process)
    with offering(hypercorn, OFFER)[0] as client:
        send_compressed(client, BINARY, bomb + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4])
        opcode, payload = client.frame()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1009))
        assert peak(process) - before < 10 * 10**6


def peak(process: Path) -> int:
    """The most bytes of memory that it has had since that was cleared."""
    [line] = [each for each in (process / "status").read_text().splitlines() if "VmHWM" in each]
    return int(line.split()[1]) * 1024


# Uvicorn's own protocol


@pytest.fixture(scope="module")
def uvicorn(tmp_path_factory):
    log_file = tmp_path_factory.mktemp("uvicorn") / "server.log"
    settings = {"PER_MESSAGE_DEFLATE": True, "KEEP_ALIVE_INTERVAL": None, "SHUTDOWN_TIMEOUT": 1}
    with serving(log_file, asgi_server="uvicorn", WS_SUPPORT=settings) as server:
        yield server


@pytest.mark.parametrize("path", ["/busy-of-channels", "/busy"])
@pytest.mark.websocket_tracebacks
def test_compressed_messages_wait_as_they_were_sent(uvicorn, path):
    """55 of 1 MiB are 60 KiB."""
    mark = uvicorn.mark()
    with uvicorn.connect() as socket, offering(uvicorn, OFFER, path=path)[0] as client:
        client.send_frame(TEXT, b"2")
        socket.send("up")
        assert socket.recv(BOUND) == "up"
        before = most = memory(uvicorn.process.pid)
        takeover = zlib.compressobj(wbits=-12)
        messages = b""
        for _ in range(55):
            data = takeover.compress(bytes(2**20)) + takeover.flush(zlib.Z_SYNC_FLUSH)
            frame = bytearray(client.frame_of(BINARY, data[:-4]))
            frame[0] |= RSV1
            messages += bytes(frame)
        assert len(messages) < 2**16
        client.socket.sendall(messages)
        for _ in range(50):
            socket.send("up")
            assert socket.recv(BOUND) == "up"
            most = max(most, memory(uvicorn.process.pid))
            time.sleep(0.01)
        # The consumer cannot wait for the seconds that zeros say.
        uvicorn.wait_for_log("The application raised TypeError", mark)
        assert most - before < 10e6


@pytest.mark.parametrize("size", [10, 300, 70_000, 300_000])
def test_compressed_frames_come_back_however_they_are_cut(uvicorn, size):
    message = random.Random(size).randbytes(size)
    with offering(uvicorn, OFFER)[0] as client:
        compressor = zlib.compressobj(wbits=-12)
        data = b""
        for _ in range(2):
            payload = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
            frame = bytearray(client.frame_of(BINARY, payload[:-4]))
            frame[0] |= RSV1
            data += bytes(frame)
        for byte in data[:16]:
            client.socket.sendall(bytes([byte]))
            time.sleep(0.005)
        client.socket.sendall(data[16:])
        decompressor = zlib.decompressobj(wbits=-15)
        for _ in range(2):
            opcode, payload = client.frame()
            assert opcode == BINARY
            assert decompressor.decompress(payload + b"\0\0\xff\xff") == message


@pytest.mark.slow
def test_many_short_fragments_take_no_more_than_their_sum(uvicorn):
    with uvicorn.raw() as client:
        assert client.handshake()[0] == 101
        client.send_frame(BINARY, b"", fin=False)
        before = memory(uvicorn.process.pid)
        for _ in range(20):
            client.socket.sendall(client.frame_of(0, b"xy", fin=False) * 10_000)
        client.send_frame(PING, b"there")
        assert client.frame() == (PONG, b"there")
        assert memory(uvicorn.process.pid) - before < 5e6
        client.send_frame(0, b"end")
        assert client.frame() == (BINARY, b"xy" * 200_000 + b"end")


# Daphne


@pytest.fixture(scope="module")
def runserver(tmp_path_factory):
    if not CAN_DEFLATE:
        pytest.skip("needs autobahn 26, which limits decompression")
    log_file = tmp_path_factory.mktemp("daphne") / "runserver.log"
    with serving(log_file, WS_SUPPORT={"PER_MESSAGE_DEFLATE": True}) as runserver:
        yield runserver


def test_a_client_is_asked_for_a_window_of_4_kib(runserver):
    client, [answer] = offering(runserver, OFFER + b"; client_max_window_bits")
    client.socket.close()
    assert answer == "permessage-deflate; client_max_window_bits=12"


def test_runserver_compresses_as_well(runserver):
    assert "compression for clients that offer it" in runserver.log()
    with runserver.connect() as socket:
        assert [each.name for each in socket.protocol.extensions] == ["permessage-deflate"]


def test_a_message_of_the_consumer_is_no_matter_of_the_limit(runserver):
    with runserver.connect("/commands") as socket:
        socket.send('{"do": "send large", "size": 3000000}')
        assert socket.recv(BOUND) == "x" * 3_000_000


def test_an_oversized_message_names_the_setting(runserver):
    with runserver.connect("/logged") as socket:
        socket.send("x" * (2**20 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(BOUND)
    assert closed.value.rcvd.reason == "A message may have at most 1048576 bytes"
    runserver.wait_for_log('To allow more, raise WS_SUPPORT["MAX_MESSAGE_SIZE"].')


# Both


@pytest.mark.parametrize(
    "offer",
    [
        b"permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        b"permessage-deflate; server_max_window_bits=99",
        b"permessage-deflate; server_max_window_bits=8",
        b"permessage-deflate; unknown",
        b"permessage-bzip2",
        b"x-webkit-deflate-frame",
    ],
)
@pytest.mark.parametrize("name", ["hypercorn", "runserver"])
def test_an_odd_offer_is_declined_and_the_next_one_taken(request, name, offer):
    server = request.getfixturevalue(name)
    client, answers = offering(server, offer)
    client.socket.close()
    assert answers == []
    client, answers = offering(server, offer + b", permessage-deflate")
    client.socket.close()
    assert len(answers) == 1


@pytest.mark.parametrize("offers", [b"; ; =", b"permessage-deflate; \xe9", b"a; b=c d, other"])
@pytest.mark.parametrize("name", ["hypercorn", "runserver"])
def test_what_is_no_list_of_offers_is_refused(request, name, offers):
    server = request.getfixturevalue(name)
    headers = [(b"Origin", server.origin.encode()), (b"Sec-WebSocket-Extensions", offers)]
    with server.raw() as client:
        assert client.handshake(headers=headers)[0] == 400
    server.wait_for_log("Sec-WebSocket-Extensions has to be a list of extensions.")
