"""The files of docs/deploy: nginx, HAProxy, Caddy and systemd's unit, each at work."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from configparser import RawConfigParser
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close
from websockets.sync.client import ClientConnection, unix_connect

from tests.browser.conftest import browser, expected_errors, new_page  # noqa: F401
from tests.browser.test_demo import FAILED, NEVER_OPENED, DemoPage
from tests.browser.test_hub import LATE, TRANSPORTS, HubPage
from tests.certificates import Certificates
from tests.conftest import need_program
from tests.deploy.proxies import (
    FILES,
    PROXIES,
    Proxy,
    answer,
    replaced,
    running,
    started,
    wait_until_listening,
)
from tests.deploy.test_commands import group_exists
from tests.harness import BOUND, ROOT, Server, until
from tests.hub_requests import HANDSHAKE, HubRequests, next_event
from ws_support._hub_options import HubOptions
from ws_support.conf import Options

# They need three proxies, which few have.
pytestmark = [pytest.mark.slow, pytest.mark.long]

IDLE_TIMEOUT = 3
SILENCE = 10
"""Seconds, several times the timeout."""
SHORT_TIMEOUTS = {
    "nginx": {
        "proxy_read_timeout 150s": f"proxy_read_timeout {IDLE_TIMEOUT}s",
        "proxy_send_timeout 150s": f"proxy_send_timeout {IDLE_TIMEOUT}s",
    },
    "haproxy": {
        "timeout tunnel 150s": f"timeout tunnel {IDLE_TIMEOUT}s",
        "timeout server 150s": f"timeout server {IDLE_TIMEOUT}s",
        "timeout client 60s": f"timeout client {IDLE_TIMEOUT}s",
    },
    "caddy": {
        "read_header 15s": "\n".join(
            f"{name} {IDLE_TIMEOUT}s" for name in ("read_header", "read_body", "write", "idle")
        )
    },
}
ANOTHER_SCHEME = {
    "nginx": {"X-Forwarded-Proto $scheme": "X-Forwarded-Proto http"},
    "haproxy": {"X-Forwarded-Proto https": "X-Forwarded-Proto http"},
    "caddy": {
        "reverse_proxy unix//run/mysite/asgi.sock": (
            "reverse_proxy unix//run/mysite/asgi.sock {\nheader_up X-Forwarded-Proto http\n}"
        )
    },
}
"""Changes that a new connection can tell."""
SPOOFED = {"X-Forwarded-For": "10.66.66.66", "X-Forwarded-Proto": "http"}

each_proxy = pytest.mark.parametrize("name", list(PROXIES))


@pytest.fixture(scope="module")
def new_proxy(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Proxy]:
    """A proxy of this name, with a folder and ports of its own, and not started yet."""

    @cache
    def static() -> Path:
        return collected(tmp_path_factory.mktemp("static"))

    def new(name: str) -> Proxy:
        need_program(name)
        # Not the folder of the test, whose name is too long for the path of a socket.
        return PROXIES[name](tmp_path_factory.mktemp(name), certificates, static())

    return new


def collected(folder: Path) -> Path:
    """What `manage.py collectstatic` makes of this folder, and a file that is nowhere else."""
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.project.settings",
        "TEST_SETTINGS": json.dumps({"STATIC_ROOT": str(folder)}),
    }
    subprocess.run(
        [sys.executable, "manage.py", "collectstatic", "--noinput"],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        timeout=BOUND,
    )
    (folder / "only-there.txt").write_text("collected")
    return folder


@pytest.fixture(scope="module")
def shared(new_proxy: Callable[[str], Proxy]) -> Iterator[Callable[[str], Proxy]]:
    """The proxy of this name as docs/deploy has it, the same for all tests."""
    with ExitStack() as stack:

        @cache
        def start(name: str) -> Proxy:
            proxy = new_proxy(name)
            stack.enter_context(running(proxy))
            return proxy

        yield start


@pytest.fixture(params=list(PROXIES))
def proxy(request: pytest.FixtureRequest, shared: Callable[[str], Proxy]) -> Proxy:
    return shared(request.param)


@pytest.fixture
def start() -> Iterator[Callable[..., Proxy]]:
    """Start a proxy in a way of the test's own."""
    with ExitStack() as stack:

        def start(proxy: Proxy, **options: Any) -> Proxy:
            stack.enter_context(running(proxy, **options))
            return proxy

        yield start


def seen(client: ClientConnection, *keys: str) -> dict[str, Any]:
    """What the scope of this connection says, whose path is /commands."""
    client.send(json.dumps({"do": "scope", "keys": keys}))
    return json.loads(client.recv(BOUND))


def closed(client: ClientConnection, timeout: float = BOUND) -> ConnectionClosed:
    """How the other side ends this connection, having said nothing else."""
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout)
    return closed.value


# What passes


@pytest.mark.parametrize(
    "message",
    ["Grüße", b"\x00\xff", "", b"", "x" * 2**20, b"\xff" * 2**20],
    ids=["text", "binary", "empty text", "empty binary", "1 MiB of text", "1 MiB of binary"],
)
def test_a_message_comes_back(proxy, message):
    with proxy.connect() as client:
        client.send(message)
        assert client.recv(BOUND) == message


def test_a_refused_origin_is_told_why(proxy):
    with pytest.raises(InvalidStatus) as refused, proxy.connect(origin="https://client.com"):
        pass
    assert refused.value.response.status_code == 403
    assert refused.value.response.body == b"This origin may not connect.\n"


@each_proxy
def test_a_message_that_is_too_large_is_told_to_be(start, new_proxy, name):
    proxy = start(new_proxy(name))
    for _ in range(5):
        with proxy.connect() as client:
            with suppress(ConnectionClosed):  # It may hear of it before all of it is sent.
                client.send("x" * (2**20 + 1))
            end = closed(client).rcvd
        assert end == Close(1009, "A message may have at most 1048576 bytes")


def test_a_close_code_of_ones_own_arrives_with_its_reason(proxy):
    with proxy.connect("/commands") as client:
        client.send(json.dumps({"do": "close", "code": 4001, "reason": "Grüße"}))
        end = closed(client).rcvd
    assert (end.code, end.reason) == (4001, "Grüße")


@each_proxy
def test_a_server_that_stops_says_so(start, new_proxy, name):
    proxy = start(new_proxy(name))
    with proxy.connect("/logged") as client:
        proxy.server.process.terminate()
        end = closed(client).rcvd
    assert (end.code, end.reason) == (1012, "The server is stopping")
    assert proxy.server.wait_for_event("disconnect()", "/logged")["code"] == 1012


def test_http_leads_to_https(proxy):
    redirect = proxy.get_by_http("/path?query", {"Host": "localhost"}).response
    assert redirect.status in {301, 308}
    assert redirect.headers["Location"] == "https://localhost/path?query"


def test_the_host_arrives_as_the_client_wrote_it(proxy):
    with proxy.connect("/commands") as client:
        headers = seen(client, "headers")["headers"]
    assert [value for name, value in headers if name == "host"] == [f"localhost:{proxy.port}"]


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_static_files_are_those_of_static_root(shared, name):
    found = shared(name).get("/static/only-there.txt")
    assert (found.response.status, found.body) == (200, b"collected")


def test_a_request_of_more_than_ten_mebibytes_is_refused(proxy):
    size = 10 * 2**20 + 1
    # HAProxy looks at the header alone, and hangs up on a client that goes on sending.
    body = () if proxy.name == "haproxy" else bytes(size)
    headers = {"Content-Length": str(size)}
    refused = answer(proxy.client(), "POST", "/", body=body, headers=headers)
    assert refused.response.status == 413


@each_proxy
def test_a_streamed_response_arrives_while_it_goes_on(start, new_proxy, name):
    proxy = start(new_proxy(name), ASGI_APPLICATION="tests.deploy.proxies.streaming")
    client = proxy.client()
    try:
        client.request("GET", "/")
        assert client.getresponse().read(5) == b"first"
    finally:
        client.close()


# Hubs: a request that ends long after it has begun, and one that waits


def hub_requests(proxy: Proxy) -> HubRequests:
    return HubRequests(proxy.client, proxy.origin, "/hub")


def test_an_event_stream_of_a_hub_brings_each_message_at_once(proxy):
    requests = hub_requests(proxy)
    with requests.events() as events:
        requests.request("POST", HANDSHAKE)
        assert next_event(events) == b"{}\x1e"
        for number in range(3):
            requests.invoke("Echo", number)
            assert json.loads(next_event(events).rstrip(b"\x1e"))["result"] == number


def test_a_poll_of_a_hub_waits_and_is_answered_at_once(proxy):
    requests = hub_requests(proxy)
    assert requests.poll() == b""
    requests.request("POST", HANDSHAKE)
    assert requests.poll() == b"{}\x1e"
    requests.invoke("Wait", 1)
    assert json.loads(requests.poll().rstrip(b"\x1e"))["result"] == "waited"
    assert requests.request("DELETE")[0] == 202


def test_pings_and_answers_to_polls_keep_a_silent_hub_through_nginx_and_haproxy(start, new_proxy):
    hubs = {"KEEP_ALIVE_INTERVAL": 1, "POLL_TIMEOUT": 1}
    options = {"ALLOWED_ORIGINS": ["*"], "HUBS": hubs}
    # Caddy has no such timeout: the one in SHORT_TIMEOUTS is for a whole answer.
    for name in ("nginx", "haproxy"):
        changes = SHORT_TIMEOUTS[name]
        proxy = start(new_proxy(name), changes=changes, WS_SUPPORT=options)
        streaming, polling = hub_requests(proxy), hub_requests(proxy)
        polling.poll()
        polling.request("POST", HANDSHAKE)
        assert polling.poll() == b"{}\x1e"
        with streaming.events() as events:
            streaming.request("POST", HANDSHAKE)
            end = time.monotonic() + 2 * IDLE_TIMEOUT
            while time.monotonic() < end:
                assert polling.poll() == b""
                assert next_event(events)
            streaming.invoke("Echo", "still here")
            while b"still here" not in next_event(events):
                """A ping that was on its way."""


def test_the_idle_timeouts_are_longer_than_a_poll_waits():
    longest = HubOptions().poll_timeout
    for file, name in [("nginx.conf", "proxy_read_timeout"), ("haproxy.cfg", "timeout server")]:
        (seconds,) = re.findall(rf"^ *{name} (\d+)s;?$", (FILES / file).read_text(), re.MULTILINE)
        assert int(seconds) > longest


@pytest.mark.browser
def test_the_page_with_the_hub_works_over_each_transport(
    start,
    new_proxy,
    new_page,  # noqa: F811
    expected_errors,  # noqa: F811
):
    expected_errors += LATE
    for name in PROXIES:
        proxy = start(new_proxy(name), ASGI_APPLICATION="example_project.asgi.application")
        page = HubPage(new_page(ignore_https_errors=True), proxy)
        for transport in TRANSPORTS:
            page.transport.select_option(transport)
            expect(page.in_use).to_have_text(transport)
            page.join("Ada")
            page.expect_line("Ada has come")
            page.say(transport)
            page.expect_line("Ada", transport)
            page.leave_button.click()
            page.expect_line("Ada has gone")


# Who it is


@pytest.mark.parametrize("headers", [{}, SPOOFED], ids=["honest", "spoofed"])
# The second is one that runasgi trusts: it would go on to whatever the client wrote before it.
@pytest.mark.parametrize("address", ["127.0.0.5", "127.0.0.1"])
def test_a_websocket_has_the_address_and_the_scheme_of_the_client(proxy, address, headers):
    with proxy.connect(
        "/commands", source_address=(address, 0), additional_headers=headers
    ) as client:
        assert seen(client, "client", "scheme") == {"client": [address, 0], "scheme": "wss"}


@pytest.mark.parametrize("headers", [{}, SPOOFED], ids=["honest", "spoofed"])
@pytest.mark.parametrize("address", ["127.0.0.5", "127.0.0.1"])
def test_a_request_has_the_address_and_the_scheme_of_the_client(proxy, address, headers):
    scope = json.loads(proxy.get("/scope", headers, source=address).body)
    assert (scope["client"], scope["scheme"]) == ([address, 0], "https")


@each_proxy
@pytest.mark.parametrize(
    "arguments", [(), ("--proxy-headers", "10.9.8.7")], ids=["trusts nobody", "trusts another"]
)
def test_a_server_that_does_not_trust_the_proxy_believes_nothing(start, new_proxy, name, arguments):
    proxy = start(new_proxy(name), arguments=arguments)
    with proxy.connect("/commands", source_address=("127.0.0.5", 0)) as client:
        scope = seen(client, "client", "scheme")
    assert scope["scheme"] == "ws"
    if proxy.by_socket:
        assert scope["client"] is None
    else:
        assert scope["client"][0] == "127.0.0.1"


# How long


def impatient(start, new_proxy, interval: float | None) -> dict[str, Proxy]:
    """All of them, with short timeouts, and servers with this interval between pings."""
    options = {"ALLOWED_ORIGINS": ["*"], "KEEP_ALIVE_INTERVAL": interval}
    return {
        name: start(new_proxy(name), changes=changes, WS_SUPPORT=options)
        for name, changes in SHORT_TIMEOUTS.items()
    }


def stays_silent_until(end: float, client: ClientConnection) -> None:
    with pytest.raises(TimeoutError):
        client.recv(max(end - time.monotonic(), 0))


def test_pings_keep_a_silent_connection_through_every_proxy(start, new_proxy):
    proxies = impatient(start, new_proxy, 1)
    with ExitStack() as stack:
        clients = [stack.enter_context(each.connect()) for each in proxies.values()]
        end = time.monotonic() + SILENCE
        for client in clients:
            stays_silent_until(end, client)
        for client in clients:
            client.send("still here")
            assert client.recv(BOUND) == "still here"


def test_without_pings_nginx_and_haproxy_cut_a_silent_connection_and_caddy_does_not(
    start, new_proxy
):
    proxies = impatient(start, new_proxy, None)
    with ExitStack() as stack:
        begin = time.monotonic()
        clients = {
            name: stack.enter_context(each.connect("/logged")) for name, each in proxies.items()
        }
        for name in ("nginx", "haproxy"):
            assert closed(clients[name], SILENCE).rcvd is None
            assert time.monotonic() - begin > IDLE_TIMEOUT / 2
            # Uvicorn's code for a connection that was lost.
            assert proxies[name].server.wait_for_event("disconnect()", "/logged")["code"] == 1006
        stays_silent_until(begin + 2 * IDLE_TIMEOUT, clients["caddy"])
        clients["caddy"].send("still here")
        assert clients["caddy"].recv(BOUND) == "still here"


def test_the_idle_timeouts_are_longer_than_the_default_interval_of_pings():
    interval = Options().keep_alive_interval
    for file, name in [
        ("nginx.conf", "proxy_read_timeout"),
        ("nginx.conf", "proxy_send_timeout"),
        ("haproxy.cfg", "timeout tunnel"),
    ]:
        (seconds,) = re.findall(rf"^ *{name} (\d+)s;?$", (FILES / file).read_text(), re.MULTILINE)
        assert int(seconds) > interval


# Reloading


def reload(proxy: Proxy) -> None:
    """With a change, and until it is there for who connects."""
    proxy.write(ANOTHER_SCHEME[proxy.name])
    proxy.reload()
    for _ in until("reload", proxy.log):
        with proxy.connect("/commands") as client:
            if seen(client, "scheme") == {"scheme": "ws"}:
                return


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_a_reload_of_nginx_or_haproxy_keeps_who_is_connected(start, new_proxy, name):
    proxy = start(new_proxy(name))
    with proxy.connect("/commands") as client:
        reload(proxy)
        assert seen(client, "scheme") == {"scheme": "wss"}


def test_a_reload_of_caddy_closes_all(start, new_proxy):
    proxy = start(new_proxy("caddy"))
    with proxy.connect("/logged") as client:
        reload(proxy)
        end = closed(client).rcvd
    # It says 1001 to both sides, but to the server without a mask (2.6.2). A server that reads this
    # before the client's answer calls it an error of protocol, and may get that through.
    codes = {1001, 1002}
    assert end.code in codes
    assert proxy.server.wait_for_event("disconnect()", "/logged")["code"] in codes


# The demo page, from https


@pytest.mark.browser
def test_the_demo_page_gets_its_echo(new_page, proxy):  # noqa: F811
    page = DemoPage(new_page(ignore_https_errors=True), proxy.origin)
    expect(page.url).to_have_value(f"wss://localhost:{proxy.port}/ws")
    page.connect()
    page.send("hello")
    expect(page.lines).to_have_count(3)
    expect(page.cells(2)).to_contain_text(["", "Server", "Client", "hello"])


@pytest.mark.browser
@pytest.mark.parametrize(("name", "version"), [("nginx", "1.1"), ("haproxy", "2.0")])
def test_a_page_comes_by_http_2_and_its_websocket_by(
    shared,
    name,
    version,
    new_page,  # noqa: F811
):
    proxy = shared(name)
    page = DemoPage(new_page(ignore_https_errors=True), f"{proxy.origin}/?{version}")
    page.connect(f"wss://localhost:{proxy.port}/ws?{version}")
    page.close()
    for _ in until("lines in the log", proxy.log):
        versions = re.findall(rf"/(\w*)\?{version} HTTP/([\d.]+)", proxy.log())
        if len(versions) == 2:
            break
    assert dict(versions) == {"": "2.0", "ws": version}


@pytest.mark.browser
@each_proxy
def test_a_page_from_https_is_refused_when_only_its_http_is_allowed(
    start,
    new_proxy,
    name,
    new_page,  # noqa: F811
    expected_errors,  # noqa: F811
):
    expected_errors.append(FAILED)
    proxy = new_proxy(name)
    start(proxy, WS_SUPPORT={"ALLOWED_ORIGINS": [f"http://localhost:{proxy.port}"]})
    page = DemoPage(new_page(ignore_https_errors=True), proxy.origin)
    page.connect_button.click()
    expect(page.page.get_by_text(NEVER_OPENED)).to_be_visible()
    assert proxy.server.wait_for_event("rejected", "/ws")["origin"] == proxy.origin


# systemd


@pytest.fixture(scope="module")
def unit() -> dict[str, str]:
    """What the unit says of the service."""
    parser = RawConfigParser()
    parser.optionxform = str
    parser.read(FILES / "mysite.service")
    return dict(parser["Service"])


def test_systemd_takes_every_line_of_the_unit(tmp_path):
    text = (FILES / "mysite.service").read_text()
    file = tmp_path / "mysite.service"
    file.write_text(replaced(text, {"/srv/mysite/venv/bin/python": sys.executable}))
    done = subprocess.run(
        [need_program("systemd-analyze"), "verify", file],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BOUND,
    )
    # It also looks at what the unit needs.
    assert [line for line in done.stdout.splitlines() if file.name in line] == []
    assert done.returncode == 0


def test_systemd_waits_for_longer_than_the_server_takes_to_stop(unit):
    # A second more is what the main process gives its workers.
    assert int(unit["TimeoutStopSec"].removesuffix("s")) > Options().shutdown_timeout + 1


def test_the_socket_is_where_the_unit_has_a_folder_and_the_proxies_look(unit):
    path = f"/run/{unit['RuntimeDirectory']}/asgi.sock"
    assert f" --uds {path} " in unit["ExecStart"]
    assert f"server unix:{path};" in (FILES / "nginx.conf").read_text()
    assert f"reverse_proxy unix/{path}\n" in (FILES / "Caddyfile").read_text()


@pytest.mark.parametrize("kill", [os.killpg, os.kill], ids=["control-group", "mixed"])
def test_sigterm_ends_the_service_in_good_order(unit, tmp_path_factory, kill):
    folder = tmp_path_factory.mktemp("service")
    path = str(folder / "asgi.sock")
    log_file = folder / "server.log"
    command = replaced(
        unit["ExecStart"],
        {"/srv/mysite/venv/bin/python": sys.executable, "/run/mysite/asgi.sock": path},
    )
    variables = replaced(unit["Environment"], {"mysite.settings": "tests.project.settings"})
    environment = dict(each.split("=", 1) for each in shlex.split(variables))
    with (
        started(shlex.split(command), log_file, environment) as process,
        ExitStack() as stack,
    ):
        server = Server(process, "", 0, log_file, "uvicorn")
        wait_until_listening(path, process, server.log)
        where = {"uri": "ws://localhost/logged", "origin": "http://localhost"}
        clients = [
            # Until the first worker has started.
            stack.enter_context(unix_connect(path, **where, open_timeout=BOUND))
            for _ in range(10)
        ]
        kill(process.pid, signal.SIGTERM)
        ends = [closed(client).rcvd for client in clients]
        assert process.wait(BOUND) == 0
        for _ in until("end of the workers", server.log):
            if not group_exists(process.pid):
                break
    assert {(end.code, end.reason) for end in ends} == {(1012, "The server is stopping")}
    codes = [event["code"] for event in server.events("disconnect()", "/logged")]
    assert codes == [1012] * len(clients)
