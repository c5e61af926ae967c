"""A Socket.IO application beside ours, in the same server: neither is in the other's way."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection

import pytest
import requests
import socketio
from websockets.exceptions import InvalidStatus

from tests.harness import ASGI_SERVERS, BOUND, serving

POLL_STOP = 10
"""Seconds for a stop with a long poll, of which a fifth is left when it is cancelled: five servers
stop at once here."""

APPLICATION = "tests.project.socketio.application"
PATH = "/socket.io/"
REFUSED = "https://refused.example"  # By that application.
BY_WEBSOCKET = f"{PATH}?EIO=4&transport=websocket"
BY_POLLING = f"{PATH}?EIO=4&transport=polling"
FOREIGN = "https://foreign.example"


@pytest.fixture(scope="module", params=ASGI_SERVERS)
def server(request, tmp_path_factory):
    log_file = tmp_path_factory.mktemp(request.param) / "server.log"
    with serving(log_file, asgi_server=request.param, ASGI_APPLICATION=APPLICATION) as server:
        yield server


@contextmanager
def connected(server, *transports: str, **headers: str) -> Iterator[socketio.SimpleClient]:
    """python-socketio's own client."""
    with requests.Session() as session:
        client = socketio.SimpleClient(
            reconnection=False,
            handle_sigint=False,
            http_session=session,
            websocket_extra_options={"suppress_origin": True},  # That would be another one.
        )
        client.connect(server.origin, headers, transports=transports, wait_timeout=BOUND)
        websocket = client.client.eio.ws
        try:
            yield client
        finally:
            client.disconnect()
            # Left open by python-engineio 4.15 when the server has closed.
            websocket.shutdown()


class PollingClient:
    """Speaks Engine.IO 4 in requests, each of them in plain sight.

    python-socketio's own client polls in a thread, which goes on to wait when it has left.
    """

    def __init__(self, server, **headers: str) -> None:
        self._connection = HTTPConnection(server.host, server.port, timeout=BOUND)
        self._headers = headers
        self._url = BY_POLLING
        self._url += f"&sid={json.loads(self.poll()[1:])['sid']}"
        self.post("40")
        self.sid = json.loads(self.poll()[2:])["sid"]

    def __enter__(self) -> PollingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, event: str, argument: object) -> object:
        self.post(f"420{json.dumps([event, argument])}")
        [answer] = json.loads(self.poll().removeprefix("430"))
        return answer

    def leave(self) -> None:
        self.post("1")

    def post(self, packets: str) -> None:
        self._connection.request("POST", self._url, packets, headers=self._headers)
        assert self._answer() == "OK"

    def poll(self) -> str:
        self.begin_to_poll()
        return self._answer()

    def begin_to_poll(self) -> None:
        self._connection.request("GET", self._url, headers=self._headers)

    def _answer(self) -> str:
        response = self._connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
        return body


def wait_for_end(server, sid: str) -> None:
    server.wait_for_event("Socket.IO disconnect", PATH + sid)


def test_events_are_answered_over_a_websocket(server):
    with connected(server, "websocket") as client:
        assert client.call("echo", {"text": "hé"}, timeout=BOUND) == {"text": "hé"}
        assert client.call("echo", b"\x00\xff", timeout=BOUND) == b"\x00\xff"


def test_a_polling_client_gets_a_websocket(server):
    with connected(server, "polling", "websocket") as client:
        assert client.transport == "websocket"
        assert client.call("echo", "upgraded", timeout=BOUND) == "upgraded"


def test_events_are_answered_to_a_client_that_goes_on_polling(server):
    with PollingClient(server) as client:
        assert client.call("echo", {"text": "hé"}) == {"text": "hé"}
        assert client.call("echo", "again") == "again"


@pytest.mark.parametrize("transports", [["websocket"], ["polling", "websocket"]])
def test_it_sees_its_client_leave(server, transports):
    with connected(server, *transports) as client:
        sid = client.sid
        server.wait_for_event("Socket.IO connect", PATH + sid)
        assert server.events("Socket.IO disconnect", PATH + sid) == []
    wait_for_end(server, sid)


def test_it_sees_a_polling_client_leave(server):
    with PollingClient(server) as client:
        client.leave()
        wait_for_end(server, client.sid)


def test_our_sockets_echo_meanwhile(server):
    with (
        connected(server, "websocket") as client,
        PollingClient(server) as polling,
        server.connect("/ws") as socket,
    ):
        for text in ("one", "two"):
            socket.send(text)
            assert client.call("echo", text, timeout=BOUND) == text
            assert polling.call("echo", text) == text
            assert socket.recv(BOUND) == text


def test_it_admits_an_origin_that_we_refuse(server):
    with pytest.raises(InvalidStatus) as refused:
        server.connect("/ws", origin=FOREIGN)
    assert refused.value.response.status_code == 403
    with connected(server, "websocket", Origin=FOREIGN) as client:
        assert client.call("echo", "here", timeout=BOUND) == "here"


def test_it_refuses_an_origin_by_its_own_setting(server):
    with server.raw() as client:
        status, _ = client.handshake(BY_WEBSOCKET, [(b"Origin", REFUSED.encode())])
    assert status == 403
    server.wait_for_log(f"{REFUSED} is not an accepted origin.")


def test_our_middlewares_see_nothing_of_it(server):
    with server.connect("/logged"):
        pass
    # The last lines of this one, and of those that tests before this one have left.
    server.wait_for_event("disconnected", None, len(server.events("connected")))
    before = server.log()
    with connected(server, "polling", "websocket", Origin=FOREIGN) as client:
        sid = client.sid
    wait_for_end(server, sid)
    with PollingClient(server, Origin=FOREIGN) as polling:
        polling.leave()
        wait_for_end(server, polling.sid)
    lines = server.log().removeprefix(before).splitlines()
    assert {json.loads(line)["event"] for line in lines} == {
        "GET",
        "POST",
        "Socket.IO connect",
        "Socket.IO disconnect",
    }


# The end of a server


@dataclass
class Stopped:
    """A server that was stopped while clients were connected."""

    log: str
    seconds: float
    reasons: list[str]
    """With which the Socket.IO application saw its client go."""
    last_words: tuple[int, bytes] | None = None
    """The last frame that came to a client."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """By name, while clients were connected by WebSocket."""

    def stop(name: str) -> Stopped:
        log_file = tmp_path_factory.mktemp(name) / "server.log"
        with (
            serving(log_file, asgi_server=name, ASGI_APPLICATION=APPLICATION) as server,
            connected(server, "websocket") as client,
            server.raw() as other,
        ):
            path = PATH + client.sid
            assert other.handshake(BY_WEBSOCKET)[0] == 101
            while (frame := other.frame())[0] == 9:  # Hypercorn pings at once.
                pass
            assert frame[1].startswith(b'0{"sid":')
            seconds = seconds_to_stop(server)
            return Stopped(server.log(), seconds, reasons(server, path), other.frame())

    return all_at_once(stop)


@pytest.fixture(scope="module")
def stopped_while_polling(tmp_path_factory):
    def stop(name: str) -> Stopped:
        log_file = tmp_path_factory.mktemp(name) / "server.log"
        with (
            serving(
                log_file,
                asgi_server=name,
                ASGI_APPLICATION=APPLICATION,
                WS_SUPPORT={"SHUTDOWN_TIMEOUT": POLL_STOP},
            ) as server,
            PollingClient(server) as client,
        ):
            client.begin_to_poll()  # For 25 s.
            server.wait_for_event("GET", PATH, 3)
            seconds = seconds_to_stop(server)
            return Stopped(server.log(), seconds, reasons(server, PATH + client.sid))

    return all_at_once(stop)


def all_at_once(stop: Callable[[str], Stopped]) -> dict[str, Future[Stopped]]:
    """They spend most of the time waiting."""
    with ThreadPoolExecutor(len(ASGI_SERVERS)) as pool:
        return {name: pool.submit(stop, name) for name in ASGI_SERVERS}


def seconds_to_stop(server) -> float:
    start = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(BOUND) == 0, server.log()
    return time.monotonic() - start


def reasons(server, path: str) -> list[str]:
    return [event["reason"] for event in server.events("Socket.IO disconnect", path)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_its_websockets_hold_up_no_stop(stopped, name):
    end = stopped[name].result()
    assert end.seconds < 8  # What holds up a stop has 80 % of ten seconds.
    assert "Traceback" not in end.log


@pytest.mark.slow
@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_it_hears_of_a_stop(stopped, name):
    # Granian 2.8 tells the applications of its WebSockets nothing, or too late for most.
    expected = [["transport close"]] if name != "granian" else [[], ["transport close"]]
    assert stopped[name].result().reasons in expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_its_clients_hear_of_a_stop_in_the_way_of_the_server(stopped, name):
    normal = (8, b"\x03\xe8")  # 1000
    expected = {
        "daphne": [(8, b"\x03\xf4The server is stopping")],  # 1012
        "uvicorn-picows": [(8, b"\x03\xf4")],  # 1012
        "uvicorn": [(8, b"\x03\xf4")],
        "hypercorn": [normal],  # python-engineio sends it, as it does whenever it is cancelled.
        "granian": [None, normal],  # Mostly nothing.
    }
    assert stopped[name].result().last_words in expected[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_a_stop_gives_a_long_poll_the_time_of_any_request(stopped_while_polling, name):
    end = stopped_while_polling[name].result()
    assert end.seconds > 0.8 * POLL_STOP
    assert "Traceback" not in end.log


@pytest.mark.slow
@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_a_long_poll_that_takes_longer_is_cancelled(stopped_while_polling, name):
    end = stopped_while_polling[name].result()
    assert end.reasons == ["transport error"]
    assert "and is killed" not in end.log
