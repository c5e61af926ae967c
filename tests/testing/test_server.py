"""Real servers, kept for the next test."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from websockets.exceptions import InvalidStatus

from tests.harness import ROOT, spawn_warm
from ws_support.testing import BOUND, Server, ServerPool, free_port, ports, wait_until, waiting

QUICK = (
    "import socket, sys\n"
    "print('started with', sys.argv[3:])\n"
    "with socket.create_server((sys.argv[1], int(sys.argv[2]))) as listener:\n"
    "    while True:\n"
    "        if listener.accept()[0].recv(100):\n"
    "            print('Traceback (most recent call last):')\n"
)
"""A server that starts at once, and fails for what is sent to it."""
COMMAND = ["-c", QUICK, "{host}", "{port}"]


@pytest.fixture
def pool(tmp_path):
    pool = ServerPool(tmp_path, cwd=ROOT, spawn=spawn_warm)
    yield pool
    pool.stop()


@pytest.fixture
def project(monkeypatch):
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "tests.project.settings")


def test_a_server_has_settings_of_the_test_its_clients_and_its_log(pool, project):
    origin = "https://client.com"
    started = pool.get("uvicorn", settings={"WS_SUPPORT": {"ALLOWED_ORIGINS": [origin]}})
    assert started.name == "uvicorn"
    assert started.origin == f"http://127.0.0.1:{started.port}"
    assert started.url("/ws/chat") == f"ws://127.0.0.1:{started.port}/ws/chat"
    mark = started.mark()
    with pytest.raises(InvalidStatus):
        started.connect()
    with started.connect("/logged", origin=origin) as socket:
        socket.close(4000)
    assert '"code": 4000' in started.wait_for_log('{"event": "disconnected"', since=mark)
    assert "Uvicorn" in started.log()
    assert "Uvicorn" not in started.log(since=mark)
    with started.raw() as client:
        client.open("/ws", [(b"Origin", origin.encode())])
        client.send_frame(1, b"hello")
        assert client.frame() == (1, b"hello")
    started.check_log()


def test_runserver_is_started_like_any_command(pool, project):
    started = pool.get(command="runserver", environment={"TEST_SETTINGS": "{}"})
    with urllib.request.urlopen(f"{started.origin}/", timeout=BOUND) as response:
        assert response.status == 200
    assert started.name == "runserver"


def test_a_project_without_manage_py_is_run_by_django(tmp_path, project):
    lines = []

    def spawn(arguments, *, cwd, **_):
        lines.append((arguments, cwd))
        raise LookupError("asked for")

    pool = ServerPool(tmp_path, cwd=tmp_path, spawn=spawn)
    with pytest.raises(LookupError):
        pool.get()
    [(arguments, cwd)] = lines
    assert arguments[:5] == ["-m", "django", "runasgi", "--host", "127.0.0.1"]
    assert cwd == tmp_path


def test_a_server_is_kept_for_equal_arguments_alone(tmp_path):
    pool = ServerPool(tmp_path)
    try:
        one = pool.get(command=COMMAND, environment={"A": "1", "B": "2"})
        assert pool.get(command=COMMAND, environment={"B": "2", "A": "1"}) is one
        apart = pool.get(command=COMMAND, environment={"A": "1", "B": "2"}, group="other")
        assert apart is not one
        others = [
            apart,
            pool.get(command=COMMAND),
            pool.get(command=COMMAND, arguments=["more"], environment={"A": "1", "B": "2"}),
            pool.get(command=COMMAND, environment={"A": "1", "B": "3"}),
        ]
        assert len({each.port for each in (one, *others)}) == 5
        others[2].wait_for_log("started with ['more']")
    finally:
        pool.stop()
    assert all(each.process.poll() is not None for each in (one, *others))


def test_a_server_that_has_died_is_started_again(tmp_path):
    pool = ServerPool(tmp_path)
    try:
        first = pool.get(command=COMMAND)
        first.process.kill()
        first.process.wait()
        second = pool.get(command=COMMAND)
        assert second is not first
        assert second.process.poll() is None
        assert first.log_file != second.log_file
    finally:
        pool.stop()


def test_the_server_that_was_asked_for_least_recently_makes_room(tmp_path):
    pool = ServerPool(tmp_path, most=2)
    try:
        one, two = (pool.get(command=COMMAND, arguments=[each]) for each in "ab")
        assert pool.get(command=COMMAND, arguments=["a"]) is one
        pool.get(command=COMMAND, arguments=["c"])
        assert (one.process.poll(), two.process.poll() is None) == (None, False)
    finally:
        pool.stop()


def test_a_command_that_is_not_known_is_an_error(pool):
    with pytest.raises(ValueError, match=r"command='uvicorn': use 'runasgi', 'runserver', or"):
        pool.get(command="uvicorn")


def test_settings_need_a_module_in_whose_place_they_are(pool, monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    with pytest.raises(ValueError, match="settings: DJANGO_SETTINGS_MODULE is not set"):
        pool.get(settings={"DEBUG": True})


def test_settings_that_json_cannot_hold_are_an_error(pool, project):
    with pytest.raises(TypeError, match="settings: they go to another process as JSON: Object of"):
        pool.get(settings={"DEBUG": object()})


def test_a_server_that_ends_instead_of_listening_is_an_error_with_its_log(tmp_path):
    pool = ServerPool(tmp_path)
    with pytest.raises(AssertionError, match=r"ended before it listened:\nsorry"):
        pool.get(command=["-c", "print('sorry')"])


def test_a_traceback_in_the_log_is_found_from_a_mark_on(tmp_path):
    (tmp_path / "log").write_text("fine\n")
    logged = Server(None, "127.0.0.1", 1, tmp_path / "log")
    mark = logged.mark()
    with logged.log_file.open("a") as log:
        log.write("Traceback (most recent call last):\n")
    with pytest.raises(AssertionError, match="There is a traceback in the log of the server:\nTra"):
        logged.check_log(mark)
    logged.check_log(logged.mark())


def test_a_server_is_stopped_at_the_end_of_a_block(tmp_path):
    port = free_port()
    arguments = ["-c", QUICK, "127.0.0.1", str(port)]
    with Server.start(arguments, tmp_path / "log", port=port) as started:
        started.wait_until_listening()
    assert started.process.poll() == -signal.SIGTERM
    assert started.stop() == -signal.SIGTERM


def test_a_server_may_listen_at_a_unix_socket(tmp_path):
    path = tmp_path / "socket"
    code = (
        "import socket, sys\n"
        "with socket.socket(socket.AF_UNIX) as listener:\n"
        "    listener.bind(sys.argv[1]); listener.listen(); listener.accept()[0].recv(1)\n"
    )
    with Server.start(["-c", code, str(path)], tmp_path / "log", port=0) as started:
        started.wait_until_listening(path)


class Stuck:
    pid = 0
    signals: list

    def __init__(self):
        self.signals = []

    def poll(self):
        return None

    def wait(self, timeout=None):
        raise subprocess.TimeoutExpired("stuck", timeout)

    def send_signal(self, number):
        self.signals.append(number)

    def kill(self):
        self.signals.append("kill")


def test_a_server_that_does_not_stop_is_killed(tmp_path):
    process = Stuck()
    with pytest.raises(subprocess.TimeoutExpired):
        Server(process, "127.0.0.1", 1, tmp_path / "log").stop()
    assert process.signals == [signal.SIGTERM, "kill"]


def test_a_client_needs_websockets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "websockets.sync.client", None)
    with pytest.raises(ImportError, match='pip install "websockets>=15"'):
        Server(None, "127.0.0.1", 1, tmp_path / "log").connect()


def test_ports_are_free_and_not_given_twice():
    given = [free_port() for _ in range(100)]
    assert len(set(given)) == 100
    assert len(ports._LEASES) <= 64
    for port in given[-10:]:
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_port_at_which_somebody_listens_is_not_free(monkeypatch):
    taken = free_port()
    socket.close(ports._LEASES.pop())
    others = [next(ports._PORTS) for _ in range(100)]
    monkeypatch.setattr(ports, "_PORTS", iter([taken, *others]))
    with socket.create_server(("127.0.0.1", taken)):
        assert free_port() in others


def test_a_host_without_a_free_port_is_an_error():
    with pytest.raises(OSError, match=r"No port of 192\.0\.2\.1 from \d+ to \d+ is free"):
        free_port("192.0.2.1")


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_a_port_of_ipv6_is_free(monkeypatch):
    families = []
    monkeypatch.setattr(ports.socket, "socket", lambda family, *_: families.append(family) or No())
    with pytest.raises(OSError):
        free_port("::1")
    assert set(families) == {socket.AF_INET6}


class No:
    """A socket that is never bound."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def bind(self, address):
        raise OSError


def test_what_does_not_happen_is_an_error_with_details(monkeypatch):
    monkeypatch.setattr(waiting, "_PAUSE", 0)
    with pytest.raises(AssertionError, match=r"no luck within 0\.01 s\nsorry"):
        wait_until(list, "luck", lambda: "sorry", bound=0.01)
    with pytest.raises(AssertionError, match=r"no luck within 0\.01 s\n$"):
        wait_until(lambda: 0, "luck", bound=0.01)


def test_what_has_happened_is_returned():
    results = iter([[], [1]])
    assert wait_until(lambda: next(results), "result") == [1]
