"""`manage.py runasgi`: what it prints, which server it takes, and what it refuses."""

from __future__ import annotations

import re
import socket
from importlib import metadata
from io import StringIO
from itertools import takewhile
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests.harness import free_port, runasgi_to_its_end
from ws_support.management.commands.runasgi import Command
from ws_support.servers import get_server

pytestmark = pytest.mark.alone


def version(name: str) -> str:
    return metadata.version(name)


def lines_of(server) -> list[str]:
    """What it printed, with one space behind each name."""
    first, second, *others = server.log().splitlines()
    settings = takewhile(lambda line: line.startswith("  "), others)
    return [first, second, *(re.sub(r"^  (\S+) +", r"\1: ", line) for line in settings)]


@pytest.mark.parametrize(
    ("name", "title", "expected"),
    [
        (
            "uvicorn",
            "Uvicorn",
            {
                "keep-alive": "a ping every 30 s, dropped when the pong takes more than 20 s",
                "frames": "websockets-sansio",
                "stopping": "within 10 s",
                "uvicorn": "ws_ping_interval=30, ws_ping_timeout=20, ws_max_size=1048576,"
                " ws_per_message_deflate=False",
            },
        ),
        (
            "daphne",
            "Daphne",
            {
                "keep-alive": "a ping every 30 s, dropped when the pong takes more than 20 s",
                "daphne": "ping_interval=30, ping_timeout=20, websocket_max_message_size=1048576,"
                " websocket_max_frame_size=1048576, per_message_deflate=False",
            },
        ),
        (
            "hypercorn",
            "Hypercorn",
            {
                "keep-alive": "a ping every 30 s; Hypercorn waits for no pong: HEARTBEAT_INTERVAL"
                " finds who is gone",
                "hypercorn": "websocket_ping_interval=30, websocket_max_message_size=1048576",
            },
        ),
        (
            "granian",
            "Granian",
            {
                "keep-alive": "off: Granian sends no pings; HEARTBEAT_INTERVAL does their work",
                "messages": "up to 1048576 bytes, looked at when they have come: Granian has no"
                " limit to set",
            },
        ),
    ],
)
def test_it_prints_what_it_set(serve, name, title, expected):
    server = serve(asgi_server=name)
    usual = {
        "origins": "the hosts of ALLOWED_HOSTS: localhost, 127.0.0.1, [::1]",
        "keep-alive": "",
        "heartbeat": "off",
        "messages": "up to 1048576 bytes",
        "compression": "off",
        "broadcasts": "within this process: CHANNEL_LAYERS has no layer between processes",
    }
    if "stopping" not in expected:
        usual["stopping"] = "within 10 s"
    assert lines_of(server) == [
        f"{title} {version(name)} at http://127.0.0.1:{server.port}",
        "WebSockets (WS_SUPPORT):",
        *(f"{name}: {line}" for name, line in {**usual, **expected}.items()),
    ]


def test_it_follows_the_settings_and_the_arguments(serve):
    server = serve(
        asgi_server="uvicorn",
        arguments=("--workers", "2", "--proxy-headers"),
        WS_SUPPORT={
            "KEEP_ALIVE_INTERVAL": None,
            "KEEP_ALIVE_TIMEOUT": None,
            "HEARTBEAT_INTERVAL": 10,
            "PER_MESSAGE_DEFLATE": True,
            "SHUTDOWN_TIMEOUT": 2.5,
        },
    )
    assert lines_of(server) == [
        f"Uvicorn {version('uvicorn')} at http://127.0.0.1:{server.port}, 2 processes",
        "WebSockets (WS_SUPPORT):",
        "origins: the hosts of ALLOWED_HOSTS: localhost, 127.0.0.1, [::1]",
        "keep-alive: off",
        "heartbeat: closed after 20 s without a message",
        "messages: up to 1048576 bytes",
        "compression: for clients that offer it",
        "broadcasts: within each of the 2 processes by itself: CHANNEL_LAYERS has no layer between"
        " processes",
        "frames: websockets-sansio",
        "hubs: over WebSockets only: server-sent events and long polling need a layer between the"
        " processes",
        "stopping: within 2.5 s",
        "proxies: X-Forwarded-* is believed from 127.0.0.1, ::1, unix",
        "uvicorn: ws_ping_interval=None, ws_ping_timeout=None, ws_max_size=1048576,"
        " ws_per_message_deflate=True",
    ]


def frames_of(server) -> str:
    [line] = [line for line in lines_of(server) if line.startswith("frames: ")]
    return line.removeprefix("frames: ")


def test_uvicorn_takes_picows_when_it_is_installed_and_says_so(serve):
    line = f"picows {version('picows')}; for Uvicorn's own: --ws websockets-sansio"
    assert frames_of(serve(asgi_server="uvicorn-default")) == line


def test_uvicorn_goes_back_for_compression_and_says_so(serve):
    server = serve(asgi_server="uvicorn-default", WS_SUPPORT={"PER_MESSAGE_DEFLATE": True})
    assert frames_of(server) == "websockets-sansio, since picows does not compress"
    with server.connect() as socket:
        assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]


def test_without_picows_it_says_what_would_be_faster(taken, lacking):
    lacking("picows")
    line = (
        'websockets-sansio. To be faster: Run: python -m pip install --upgrade "django-ws-support'
    )
    assert line in chosen(taken, server="uvicorn")


def test_what_takes_frames_apart_has_to_be_installed(lacking):
    lacking("picows")
    assert error_of_call(server="uvicorn", ws="picows") == (
        "--ws picows needs no-such-thing, which is not installed. Run: python -m pip install"
        ' --upgrade "django-ws-support[fast]"'
    )
    lacking("websockets-sansio")
    error = (
        "--ws websockets-sansio needs no-such-thing, which is not installed. Run: python -m pip"
        ' install --upgrade "django-ws-support[uvicorn]"'
    )
    assert error_of_call(server="uvicorn", ws="websockets-sansio") == error
    assert error_of_call(ws="websockets-sansio") == error
    assert error_of_call(server="uvicorn") == error


def test_a_picows_that_is_too_new_is_not_taken(taken, monkeypatch):
    from ws_support.servers import uvicorn

    monkeypatch.setattr(uvicorn, "_KNOWN_PICOWS", "2.2.")
    assert error_of_call(server="uvicorn", ws="picows") == (
        f"--ws picows knows picows 2.2.x, and {version('picows')} is installed. Run: python -m pip"
        ' install --upgrade "django-ws-support[fast]"'
    )
    assert "frames      websockets-sansio. To be faster: " in chosen(taken, server="uvicorn")


def test_picows_and_compression_are_an_error(settings):
    settings.WS_SUPPORT = {"PER_MESSAGE_DEFLATE": True}
    assert error_of_call(server="uvicorn", ws="picows") == (
        'picows does not compress WebSocket messages. Set WS_SUPPORT["PER_MESSAGE_DEFLATE"] to'
        " False, or use --ws websockets-sansio."
    )


@pytest.mark.parametrize(
    ("name", "title"), [("daphne", "Daphne"), ("granian", "Granian"), ("hypercorn", "Hypercorn")]
)
def test_other_servers_have_no_choice_of_what_takes_frames_apart(name, title):
    error = f"--ws picows is for Uvicorn, and {title} has no such choice."
    assert error_of_call(server=name, ws="picows") == error


@pytest.fixture
def lacking(monkeypatch):
    """Pretend that what this needs is not installed."""
    from ws_support.servers import uvicorn

    def lack(protocol: str) -> None:
        monkeypatch.setitem(uvicorn._REQUIREMENTS, protocol, {"no-such-thing": "1"})

    return lack


def error_of_call(**arguments) -> str:
    with pytest.raises(CommandError) as error:
        call_command("runasgi", **arguments)
    return str(error.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"HEARTBEAT_INTERVAL": 10}, "off: Granian sends no pings; the heartbeat does their work"),
        ({"KEEP_ALIVE_INTERVAL": None}, "off"),
    ],
)
def test_on_granian_the_heartbeat_does_the_work_of_pings(serve, settings, expected):
    server = serve(asgi_server="granian", WS_SUPPORT=settings)
    assert f"keep-alive: {expected}" in lines_of(server)


def test_no_log_of_the_servers_stands_between(serve):
    server = serve(asgi_server="uvicorn")
    with server.connect("/ws?token=SECRET"):
        pass
    assert server.stop() == 0
    assert "SECRET" not in server.log()
    assert "Started server process" not in server.log()


# Which server


@pytest.fixture
def taken():
    """A port at which nothing can start any more, so that the command ends before it serves."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def chosen(port: int, **arguments) -> str:
    output = StringIO()
    with pytest.raises(CommandError, match=rf"Cannot listen at http://127\.0\.0\.1:{port}"):
        call_command("runasgi", port=port, stdout=output, **arguments)
    return output.getvalue()


@pytest.mark.parametrize("argument", ["{}", "127.0.0.1:{}"])
def test_the_argument_of_runserver_says_where_to_listen(taken, argument):
    with pytest.raises(CommandError, match=rf"Cannot listen at http://127\.0\.0\.1:{taken}: "):
        call_command("runasgi", argument.format(taken), stdout=StringIO())


def test_it_may_be_an_address_of_ipv6():
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("needs IPv6, which this machine has not")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(CommandError, match=rf"Cannot listen at http://\[::1\]:{port}: "):
            call_command("runasgi", f"[::1]:{port}", stdout=StringIO())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nothing"], "'nothing' is no port and no address:port"),
        (["127.0.0.1"], "'127.0.0.1' is no port and no address:port"),
        (["0.0.0.0:70000"], "'70000' is no whole number from 1 to 65535"),
        (["8000", "--host=::1"], "8000 and --host are given: both say where to listen."),
        (["8000", "--port=8000"], "8000 and --port are given: both say where to listen."),
        (["8000", "--uds=/x"], "8000 and --uds are given: both say where to listen."),
        (["--host=a", "--host=b"], "Error: argument --host: given twice"),
        (["--port=1", "--port=2"], "Error: argument --port: given twice"),
        (["--workers=1", "--workers=2"], "Error: argument --workers: given twice"),
    ],
)
def test_an_address_that_is_none_or_is_one_too_many_is_an_error(arguments, error):
    with pytest.raises(CommandError) as raised:
        call_command("runasgi", *arguments, stdout=StringIO())
    assert str(raised.value) == error


def test_without_a_name_it_takes_the_best_one_and_says_why(taken):
    assert chosen(taken).startswith(
        "Of the servers that are installed (uvicorn, granian, hypercorn, daphne), uvicorn is the"
        " best for this: the fastest, and it keeps every setting. For another: --server.\nUvicorn "
    )


def test_one_that_is_not_installed_is_passed_over(taken, monkeypatch):
    monkeypatch.setattr("ws_support.servers.uvicorn.Uvicorn.requirements", {"no-such-thing": "1"})
    assert chosen(taken).startswith(
        "Of the servers that are installed (granian, hypercorn, daphne), granian is the best for"
        " this: fast, but without pings."
    )


def test_one_that_cannot_do_what_the_settings_ask_for_is_passed_over(taken, settings, monkeypatch):
    monkeypatch.setattr("ws_support.servers.uvicorn.Uvicorn.requirements", {"no-such-thing": "1"})
    settings.WS_SUPPORT = {"PER_MESSAGE_DEFLATE": True}
    assert "hypercorn is the best for this" in chosen(taken)


def test_when_none_can_it_says_why_and_what_to_install(monkeypatch):
    for name in ("uvicorn.Uvicorn", "granian.Granian", "hypercorn.Hypercorn"):
        monkeypatch.setattr(f"ws_support.servers.{name}.requirements", {"no-such-thing": "1"})
    with pytest.raises(CommandError) as error:
        call_command("runasgi", workers=2)
    assert str(error.value) == (
        "Daphne has no workers. Start it several times, each with a --port or --uds of its own, or"
        ' use another server.\nRun: python -m pip install --upgrade "django-ws-support[fast]"'
    )


def test_a_server_that_is_not_installed_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("ws_support.servers.granian.Granian.requirements", {"no-such-thing": "1"})
    with pytest.raises(CommandError) as error:
        call_command("runasgi", server="granian")
    assert str(error.value) == (
        "Granian needs no-such-thing, which is not installed. Run: python -m pip install --upgrade"
        ' "django-ws-support[granian]"'
    )


def test_a_server_that_is_too_old_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr("ws_support.servers.uvicorn.Uvicorn.requirements", {"uvicorn": "999.1"})
    with pytest.raises(CommandError) as error:
        call_command("runasgi", server="uvicorn")
    assert str(error.value) == (
        f"Uvicorn needs uvicorn 999.1 or newer, and {version('uvicorn')} is installed. Run: python"
        ' -m pip install --upgrade "django-ws-support[fast]"'
    )


@pytest.mark.parametrize("name", ["uvicorn", "granian", "hypercorn", "daphne"])
def test_what_each_server_needs_is_what_its_extra_brings(name):
    server = get_server(name)
    brought = [
        re.sub(r"\[\w+\]", "", requirement.partition(";")[0])
        for requirement in metadata.requires("django-ws-support") or ()
        if "extra" not in requirement or f"extra == '{server.extra}'" in requirement
    ]
    for distribution, least in server.requirements.items():
        assert f"{distribution}>={least}" in brought


# What is refused


def error_of(*arguments: object, **settings: object) -> str:
    """What a run says that ends by itself."""
    result = runasgi_to_its_end(*arguments, settings=settings)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--server", "gunicorn"], "invalid choice: 'gunicorn'"),
        (["--port", "0"], "argument --port: '0' is no whole number from 1 to 65535"),
        (["--port", "http"], "argument --port: 'http' is no whole number from 1 to 65535"),
        (["--port", "٣"], "is no whole number from 1 to 65535"),
        (["--workers", "0"], "argument --workers: '0' is no whole number from 1 to 1024"),
        (["--ssl-keyfile", "x"], "--ssl-keyfile is given, and --ssl-certfile is not."),
        (["--ssl-certfile", "nope.pem"], "--ssl-certfile nope.pem and --ssl-keyfile nope.pem"),
        (
            ["--ssl-certfile", "README.md"],
            "--ssl-certfile README.md and --ssl-keyfile README.md cannot be used",
        ),
        (
            ["--uds", "x.sock", "--ssl-certfile", "x"],
            "--uds and --ssl-certfile: a Unix socket is served without TLS.",
        ),
        (
            ["--proxy-headers", "10.0.0.1,proxy.local"],
            "--proxy-headers: A trusted proxy is 'proxy.local', which is not an address",
        ),
        (["--server", "daphne", "--workers", "2"], "Daphne has no workers."),
        (["--host", "256.0.0.1"], "Cannot listen at http://256.0.0.1:8000"),
        (["--uds", "README.md"], "Cannot listen at unix:README.md: there is a file, which is no"),
        (
            ["--uds", "no/such/folder/x.sock"],
            "Cannot listen at unix:no/such/folder/x.sock: No such",
        ),
    ],
)
def test_what_cannot_be_is_an_error_in_one_line_that_names_it(arguments, message):
    try:
        call_command("runasgi", *arguments, stdout=StringIO())
    except CommandError as error:
        assert message in str(error)
    else:
        pytest.fail("no error")


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "granian", "daphne"])
def test_a_port_that_is_taken_is_an_error_in_one_line(taken, name):
    error = error_of("--server", name, "--port", taken)
    assert f"CommandError: Cannot listen at http://127.0.0.1:{taken}: " in error


def test_a_port_that_another_runasgi_shares_among_workers_is_taken_as_well(serve):
    server = serve(asgi_server="uvicorn", arguments=("--workers", "2"))
    error = error_of("--server", "uvicorn", "--port", server.port, "--workers", "2")
    assert "Address already in use" in error


def test_a_unix_socket_that_is_in_use_is_an_error(tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "x.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        error = error_of("--uds", path)
    assert f"Cannot listen at unix:{path}: another server listens there." in error
    assert path.exists()


def test_a_path_that_is_too_long_for_a_unix_socket_is_an_error():
    assert "AF_UNIX path too long" in error_of("--uds", f"/tmp/{'x' * 200}")


def test_granian_says_how_to_convert_a_key_that_it_cannot_read(certificates):
    error = error_of(
        *("--server", "granian", "--ssl-certfile", certificates.chain),
        *("--ssl-keyfile", certificates.old_key),
    )
    assert "Convert it: openssl pkcs8 -topk8 -nocrypt -in" in error


def test_granian_does_not_pretend_to_compress():
    error = error_of("--server", "granian", WS_SUPPORT={"PER_MESSAGE_DEFLATE": True})
    assert 'Set WS_SUPPORT["PER_MESSAGE_DEFLATE"] to False, or use another server.' in error


def test_a_project_without_an_asgi_application_is_told_to_set_one():
    error = error_of(ASGI_APPLICATION=None)
    assert "ASGI_APPLICATION is not set." in error
    assert 'ASGI_APPLICATION = "mysite.asgi.application"' in error


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "granian", "daphne"])
def test_an_asgi_application_that_is_not_there_is_named(name):
    error = error_of(
        *("--server", name, "--port", free_port()),
        ASGI_APPLICATION="tests.nowhere.application",
        SILENCED_SYSTEM_CHECKS=["ws_support.E008"],
    )
    assert "Cannot import ASGI_APPLICATION module 'tests.nowhere'" in error


def test_an_asgi_application_that_is_not_there_is_named_before_a_server_starts():
    error = error_of(ASGI_APPLICATION="tests.nowhere.application")
    assert "(ws_support.E008) ASGI_APPLICATION is 'tests.nowhere.application', which" in error


def test_routes_whose_origins_nobody_checks_are_named(serve):
    server = serve(asgi_server="uvicorn", ASGI_APPLICATION="tests.project.unguarded.application")
    assert "  origins     NOT checked on every route: tests.project.unguarded.app" in server.log()
    assert "(ws_support.W009) The WebSocket route 'ws' of tests.project.unguard" in server.log()


def test_a_setting_that_is_wrong_is_named():
    error = error_of(WS_SUPPORT={"SHUTDOWN_TIMEOUT": 0})
    assert '(ws_support.E004) WS_SUPPORT["SHUTDOWN_TIMEOUT"] is 0' in error


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"])
def test_when_a_worker_cannot_load_the_application_everything_ends(name):
    result = runasgi_to_its_end(
        *("--server", name, "--workers", 2, "--port", free_port()),
        settings={
            "ASGI_APPLICATION": "tests.nowhere.application",
            "SILENCED_SYSTEM_CHECKS": ["ws_support.E008"],
        },
    )
    assert result.returncode == 1
    assert "Cannot import ASGI_APPLICATION module 'tests.nowhere'" in result.stderr


def test_daphne_does_not_compress_with_an_autobahn_that_does_not_limit_it(settings, monkeypatch):
    monkeypatch.setattr("ws_support.servers.daphne.websocket.CAN_DEFLATE", False)
    settings.WS_SUPPORT = {"PER_MESSAGE_DEFLATE": True}
    with pytest.raises(CommandError, match="needs autobahn 26 on Daphne"):
        call_command("runasgi", server="daphne")


def test_output_that_cannot_be_written_keeps_no_server_from_serving():
    class FullDisk(StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    Command(stdout=FullDisk())._say("Uvicorn at http://127.0.0.1:8000")
