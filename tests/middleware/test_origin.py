"""Who may connect, by raw handshakes against the running demo."""

from __future__ import annotations

import asyncio
from urllib.parse import urlparse

import pytest
from channels.security.websocket import OriginValidator as ChannelsOriginValidator
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.harness import SERVERS, RawClient, Server
from ws_support._protocol.origins import parse_origin
from ws_support.asgi import WebSocketSupport
from ws_support.consumers import EchoConsumer
from ws_support.middleware.origin import OriginValidator
from ws_support.testing import HandshakeRefused, Peer, RunningApplication, websocket_scope

HOSTS = {"localhost", "127.0.0.1", "[::1]"}

REFUSED = [
    # Foreign
    b"http://evil.example",
    b"https://evil.example",
    b"http://localhost.evil.example",
    b"http://evil-localhost",
    b"http://evil.example:8000",
    b"http://sub.localhost",
    b"http://127.0.0.1.evil.example",
    b"http://127.0.0.2",
    b"http://127.1",
    b"http://2130706433",
    b"http://0x7f000001",
    b"http://0.0.0.0",
    b"http://[::2]",
    b"http://[::ffff:127.0.0.1]",
    b"http://localhost.",
    b"chrome-extension://localhost",
    b"ftp://localhost",
    b"ws://localhost",
    # Opaque
    b"null",
    b"NULL",
    b"file://",
    b"about:blank",
    b"data:text/html,hello",
    b"blob:http://localhost/1",
    # More than an origin
    b"http://localhost/",
    b"http://localhost/path",
    b"http://localhost:8000/",
    b"http://localhost?query",
    b"http://localhost#fragment",
    b"http://user@localhost",
    b"http://user:password@localhost",
    b"http://localhost@evil.example",
    b"http://evil.example@localhost",
    b"http://evil.example\\@localhost",
    b"http://localhost\\@evil.example",
    b"http://evil.example#@localhost",
    b"http://evil.example?@localhost",
    b"http://evil.example/@localhost",
    # Less than an origin
    b"",
    b"localhost",
    b"localhost:8000",
    b"//localhost",
    b"http:localhost",
    b"http:/localhost",
    b"http:///localhost",
    b"http://",
    b"://localhost",
    b"*",
    b"http://*",
    # Bad ports
    b"http://localhost:",
    b"http://localhost:0",
    b"http://localhost:99999",
    b"http://localhost:65536",
    b"http://localhost:-80",
    b"http://localhost:080",
    b"http://localhost:80a",
    b"http://localhost:80:80",
    # Bad hosts
    b"http://[::1",
    b"http://::1",
    b"http://[::1]]",
    b"http://[localhost]",
    b"http://[::1%25lo]",
    b"http://local host",
    b"http://local\thost",
    b"http://localhost\xe9",
    b"http://localhost\xa0",
    b"\xa0http://localhost",
    b"http://\xe2\x84\xaaocalhost",
    b"http://loc%61lhost",
    b"http://.localhost",
    b"http://localhost..",
    b"http://" + b"a" * 2000,
    # Lists
    b"http://localhost http://localhost",
    b"http://localhost,http://localhost",
    b"http://localhost, http://evil.example",
    b"null http://localhost",
]


@pytest.mark.parametrize("origin", REFUSED)
def test_an_origin_that_is_malformed_or_foreign_is_refused(demo, origin):
    with demo.raw() as client:
        status, response = client.handshake(headers=[(b"Origin", origin)])
    assert status == 403
    assert response.endswith(
        (b"This origin may not connect.\n", b"The Origin header is not a valid origin.\n")
    )


@pytest.mark.parametrize(
    "origins",
    [
        [b"http://localhost", b"http://localhost"],
        [b"http://localhost", b"http://evil.example"],
        [b"http://evil.example", b"http://localhost"],
        [b"null", b"http://localhost"],
        [b"", b"http://localhost"],
        [b"http://localhost", b""],
    ],
)
def test_two_origins_are_refused(demo, origins):
    with demo.raw() as client:
        status, _ = client.handshake(headers=[(b"Origin", origin) for origin in origins])
    assert status == 403


def test_a_missing_origin_is_refused_with_the_setting_that_admits_it(demo):
    with demo.raw() as client:
        status, response = client.handshake(headers=[])
    assert status == 403
    assert response.endswith(b"\r\n\r\nThe handshake has no Origin header.\n")
    demo.wait_for_log('set WS_SUPPORT["ALLOW_MISSING_ORIGIN"].')


@pytest.mark.parametrize(
    "header",
    [b"Sec-WebSocket-Origin", b"X-Origin", b"Origin-", b"Referer", b"Host", b"X-Forwarded-Host"],
)
def test_no_other_header_stands_in_for_the_origin(demo, header):
    with demo.raw() as client:
        status, _ = client.handshake(headers=[(header, b"http://localhost")], without=(header,))
    assert status == 400 if header == b"Host" else 403


@pytest.mark.parametrize(
    "origin",
    [
        b"http://localhost",
        b"http://localhost:8000",
        b"https://localhost",
        b"HTTP://LOCALHOST",
        b"http://127.0.0.1:1",
        b"http://127.0.0.1:65535",
        b"http://[::1]:8000",
        b"http://[0:0:0:0:0:0:0:1]",
    ],
)
def test_the_hosts_of_allowed_hosts_are_admitted_on_every_port(demo, origin):
    with demo.raw() as client:
        assert client.handshake(headers=[(b"Origin", origin)])[0] == 101


def test_the_name_of_the_header_ignores_case(demo):
    with demo.raw() as client:
        assert client.handshake(headers=[(b"ORIGIN", b"http://localhost")])[0] == 101


# What a header may hold on the wire; the server refuses the rest before it is a header.
header_bytes = st.binary(max_size=60).map(lambda value: value.translate(None, b"\r\n\0"))
nearly_origins = st.builds(
    bytes.__add__,
    st.sampled_from([b"http://localhost", b"https://127.0.0.1:80", b"http://[::1]", b"null"]),
    header_bytes,
)


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.one_of(header_bytes, nearly_origins))
@example(b"http://localhost:99999")
@example(b"http://evil.example\\@localhost")
@example(b"http://[::1")
@example(b"http://localhost\xa0")
@example(b" http://localhost\t")
@example(b"\xa0")
def test_no_header_whatever_raises_or_is_admitted_unless_it_is_an_allowed_origin(demo, value):
    with demo.raw() as client:
        status, _ = client.handshake(headers=[(b"Origin", value)])
    # A header's value has no white space around it (RFC 9110, section 5.5).
    origin = parse_origin(value.strip(b" \t").decode("latin-1"))
    if origin is not None and origin.host in HOSTS and origin.scheme in {"http", "https"}:
        assert status == 101
    else:
        assert status in {400, 403}


def test_a_refusal_is_one_warning_and_one_signal(serve):
    server: Server = serve(WS_SUPPORT={"ALLOWED_ORIGINS": ["https://client.com"]})
    with server.raw() as client:
        assert client.handshake(headers=[(b"Origin", b"https://evil.example")])[0] == 403
    event = server.wait_for_event("rejected", "/ws")
    assert event == {
        "event": "rejected",
        "path": "/ws",
        "origin": "https://evil.example",
        "status": 403,
        "rule": "not allowed",
    }
    warnings = [line for line in server.log().splitlines() if line.startswith("Refused")]
    assert warnings == [
        "Refused with 403: This origin may not connect. Origin 'https://evil.example', path '/ws'."
        ' To admit it, add it to WS_SUPPORT["ALLOWED_ORIGINS"].'
    ]


@pytest.mark.parametrize("command", [name for name in SERVERS if name != "runserver"])
def test_other_servers_refuse_by_the_same_rules(serve, command):
    server = serve(command=command)
    refused = [b"http://evil.example", b"http://[::1", b"http://evil.example\\@localhost", b"null"]
    for headers in ([], *([(b"Origin", origin)] for origin in refused)):
        with server.raw() as client:
            assert client.handshake(headers=headers)[0] in {400, 403}
    with server.raw() as client:
        headers = [(b"Origin", b"http://localhost"), (b"Origin", b"http://localhost")]
        assert client.handshake(headers=headers)[0] in {400, 403}
    with server.raw() as client:
        assert client.handshake()[0] == 101
    assert "ERROR" not in server.log()


def test_a_line_break_in_the_path_does_not_start_a_line_of_the_log(demo):
    with demo.raw() as client:
        client.handshake("/ws%0aFORGED", headers=[(b"Origin", b"http://evil.example")])
    demo.wait_for_log(r"path '/ws\nFORGED'")
    assert "\nFORGED" not in demo.log()


def test_the_first_page_of_a_list_is_as_welcome_as_the_last(serve):
    origins = [f"https://client{number}.com" for number in range(1000)]
    server = serve(WS_SUPPORT={"ALLOWED_ORIGINS": origins, "ALLOW_MISSING_ORIGIN": True})
    for origin in (origins[0], origins[-1]):
        with server.connect(origin=origin) as socket:
            socket.send("hello")
            assert socket.recv() == "hello"
    with server.raw() as client:
        assert client.handshake(headers=[])[0] == 101
    with server.raw() as client:
        assert client.handshake()[0] == 403  # Not on the list, though in ALLOWED_HOSTS.


@pytest.mark.parametrize("headers", [[], [(b"Origin", b"http://[::1")], [(b"Origin", b"null")]])
def test_a_star_admits_everybody(serve, headers):
    server = serve(WS_SUPPORT={"ALLOWED_ORIGINS": ["*"]})
    with server.raw() as client:
        assert client.handshake(headers=headers)[0] == 101


def test_a_server_without_denial_responses_refuses_with_its_own_403(serve):
    server = serve(command="uvicorn", arguments=("--ws", "wsproto"))
    with server.raw() as client:
        assert client.handshake(headers=[(b"Origin", b"https://evil.example")])[0] == 403
    assert server.wait_for_event("rejected", "/ws")["rule"] == "not allowed"


async def handshake(application, *origins: bytes, extensions: object = None) -> bool:
    """Whether `application` admits a client with these `Origin` headers."""
    headers = [(b"origin", origin) for origin in origins]
    scope = {"client": None, "extensions": extensions}
    try:
        async with Peer(application, "/ws", headers=headers, scope=scope):
            return True
    except HandshakeRefused:
        return False


async def test_overridden_settings_take_effect_on_an_application_that_exists(settings):
    application = WebSocketSupport(EchoConsumer.as_asgi())
    settings.WS_SUPPORT = {"ALLOWED_ORIGINS": ["https://one.com"]}
    assert await handshake(application, b"https://one.com")
    settings.WS_SUPPORT = {"ALLOWED_ORIGINS": ["https://two.com"]}
    assert not await handshake(application, b"https://one.com")
    assert await handshake(application, b"https://two.com")


async def test_arguments_replace_the_settings_for_one_application(settings):
    settings.WS_SUPPORT = {"ALLOWED_ORIGINS": ["https://one.com"], "ALLOW_MISSING_ORIGIN": True}
    application = WebSocketSupport(
        EchoConsumer.as_asgi(),
        allowed_origins=["https://two.com"],
        allowed_origin_regexes=[r"https://\d+\.com"],
    )
    assert not await handshake(application, b"https://one.com")
    assert await handshake(application, b"https://two.com")
    assert await handshake(application, b"https://333.com")
    assert await handshake(application)
    strict = WebSocketSupport(EchoConsumer.as_asgi(), allow_missing_origin=False)
    assert not await handshake(strict)


@pytest.mark.parametrize("origin", [b"http://[::1", b"http://localhost/", b"", b"file:///"])
async def test_what_is_no_origin_never_gets_to_a_subclass(origin):
    class Everybody(OriginValidator):
        async def is_allowed(self, origin, scope):
            return True

    assert not await handshake(Everybody(EchoConsumer.as_asgi()), origin)
    assert await handshake(Everybody(EchoConsumer.as_asgi()), b"https://client.com")


@given(st.one_of(st.binary(), nearly_origins))
def test_no_bytes_whatever_in_the_header_make_the_middleware_raise_or_admit(value):
    application = WebSocketSupport(None, allowed_origins=["https://client.com"])
    assert asyncio.run(handshake(application, value)) is False


async def test_two_headers_are_refused_where_the_server_tells_them_apart():
    application = OriginValidator(EchoConsumer.as_asgi(), ["https://one.com"])
    assert not await handshake(application, b"https://one.com", b"https://one.com")


async def test_a_subclass_decides_by_connection():
    class Tenants(OriginValidator):
        async def is_allowed(self, origin, scope):
            return origin == "https://tenant.com" and scope["path"] == "/ws"

    application = WebSocketSupport(EchoConsumer.as_asgi(), origin_validator=Tenants)
    assert await handshake(application, b"https://tenant.com")
    assert not await handshake(application, b"http://localhost")
    assert not await handshake(application)


async def test_a_client_that_leaves_before_it_is_refused_gets_no_answer():
    application = WebSocketSupport(EchoConsumer.as_asgi())
    async with RunningApplication(application, websocket_scope("/ws")) as running:
        await running.send_input({"type": "websocket.disconnect", "code": 1006})
        await running.wait()
        assert await running.receive_nothing()


async def test_what_is_no_websocket_passes():
    async def application(scope, receive, send):
        seen.append(scope["type"])

    seen: list[str] = []
    await WebSocketSupport(application)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]


def test_it_is_a_validator_of_channels_and_answers_its_hook(settings):
    settings.WS_SUPPORT = {"ALLOWED_ORIGINS": ["https://one.com"]}
    validator = OriginValidator(None)
    assert isinstance(validator, ChannelsOriginValidator)
    assert validator.valid_origin(urlparse("https://one.com"))
    assert not validator.valid_origin(urlparse("https://two.com"))
    assert not validator.valid_origin(None)
    settings.WS_SUPPORT = {"ALLOW_MISSING_ORIGIN": True}
    assert validator.valid_origin(None)


def test_a_refusal_carries_the_connection_as_fields_of_its_record(caplog):
    async def refuse():
        await handshake(WebSocketSupport(None), b"https://evil.example")

    asyncio.run(refuse())
    [record] = [each for each in caplog.records if each.name == "ws_support.origin"]
    assert record.levelname == "WARNING"
    assert (record.path, record.origin) == ("/ws", "https://evil.example")
    assert (record.client, record.code, record.duration) == (None, None, None)


def test_the_client_address_stands_where_the_server_knows_it(demo: Server):
    with RawClient(demo.host, demo.port) as client:
        client.handshake()
        host, port = client.socket.getsockname()
        demo.wait_for_log(f"[{host}:{port}]")
