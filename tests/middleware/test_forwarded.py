"""What proxies say of a client, and whom of them to believe."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from ws_support.middleware.proxy_headers import ProxyHeaders

PEER = ("127.0.0.1", 4711)


def applied(
    *forwarded: str, trusted=("127.0.0.1",), peer=PEER, proto: str | None = None, kind="websocket"
):
    """Client and scheme of a scope with these `X-Forwarded-For` headers."""
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    if proto is not None:
        headers.append((b"x-forwarded-proto", proto.encode("latin-1")))
    scope = {
        "type": kind,
        "client": peer,
        "scheme": "ws" if kind == "websocket" else "http",
        "headers": headers,
    }
    ProxyHeaders(None, trusted).apply(scope)
    return scope["client"], scope["scheme"]


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["1.2.3.4"], ("1.2.3.4", 0)),
        (["1.2.3.4:5678"], ("1.2.3.4", 5678)),
        (["2001:db8::1"], ("2001:db8::1", 0)),
        (["[2001:db8::1]"], ("2001:db8::1", 0)),
        (["[2001:db8::1]:5678"], ("2001:db8::1", 5678)),
        (["2001:0DB8:0::1"], ("2001:db8::1", 0)),
        (["::ffff:1.2.3.4"], ("1.2.3.4", 0)),
        # Whatever stands before the address that the proxy saw, the client may have written.
        (["6.6.6.6, 1.2.3.4"], ("1.2.3.4", 0)),
        (["6.6.6.6", "1.2.3.4"], ("1.2.3.4", 0)),
        (["1.2.3.4, 127.0.0.1"], ("1.2.3.4", 0)),
        (["127.0.0.1"], ("127.0.0.1", 0)),
        ([" 1.2.3.4 "], ("1.2.3.4", 0)),
        (["1.2.3.4:65535"], ("1.2.3.4", 65535)),
        (["1.2.3.4:65536"], ("1.2.3.4", 0)),
        (["1.2.3.4:99999"], ("1.2.3.4", 0)),
        (["[2001:db8::1]:99999"], ("2001:db8::1", 0)),
        (["1.2.3.4:port"], ("1.2.3.4", 0)),
        # What is no address changes nothing.
        (["unknown"], PEER),
        ([""], PEER),
        (["1.2.3.4,"], PEER),
        (["localhost"], PEER),
        (["[::1"], PEER),
        (["[::1]junk"], PEER),
        (["[::1]junk:80"], PEER),
        (["[1.2.3.4]"], PEER),
        # A zone names an interface of the machine that wrote it, and may be any text.
        (["fe80::1%eth0"], PEER),
        (["fe80::1%<script>"], PEER),
        (["[fe80::1%25eth0]:80"], PEER),
        # The last one that can be read stands.
        (["junk, 127.0.0.1"], ("127.0.0.1", 0)),
        ([], PEER),
    ],
)
def test_the_client_is_the_last_one_that_is_no_trusted_proxy(forwarded, client):
    assert applied(*forwarded) == (client, "ws")


@pytest.mark.parametrize(
    ("trusted", "is_believed"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.0/8"], True),
        (["::1", " 127.0.0.1 "], True),
        (["*"], True),
        (["10.0.0.0/8"], False),
        (["::1"], False),
        (["unix"], False),
        ([], False),
    ],
)
def test_only_trusted_proxies_are_believed(trusted, is_believed):
    expected = (("1.2.3.4", 0), "wss") if is_believed else (PEER, "ws")
    assert applied("1.2.3.4", trusted=trusted, proto="https") == expected


def test_a_chain_of_trusted_proxies_is_followed():
    hops = "6.6.6.6, 1.2.3.4, 10.0.0.7, 10.0.0.8"
    trusted = ["127.0.0.1", "10.0.0.0/8"]
    assert applied(hops, trusted=trusted) == (("1.2.3.4", 0), "ws")


def test_when_everybody_is_trusted_the_first_one_is_the_client():
    assert applied("6.6.6.6, 1.2.3.4", trusted=["*"]) == (("6.6.6.6", 0), "ws")


@pytest.mark.parametrize("headers", [1, 2, 1000])
def test_of_very_many_hops_the_last_ones_are_read(headers):
    many = ["6.6.6.6," * (100_000 // headers)] * headers
    last = ", ".join(["1.2.3.4", *["127.0.0.1"] * 63])
    assert applied(*many, last)[0] == ("1.2.3.4", 0)
    assert applied(*many, f"{last}, 127.0.0.1")[0] == ("127.0.0.1", 0)


@pytest.mark.parametrize("peer", [None, ("", 0), ("unix:/run/asgi.sock", 0)])
def test_unix_sockets_are_trusted_by_name(peer):
    assert applied("1.2.3.4", trusted=["unix"], peer=peer) == (("1.2.3.4", 0), "ws")
    assert applied("1.2.3.4", trusted=["127.0.0.1"], peer=peer) == (peer, "ws")


@pytest.mark.parametrize("peer", [("::ffff:127.0.0.1", 4711), ["127.0.0.1", 4711]])
def test_an_address_is_the_same_however_it_is_written(peer):
    assert applied("1.2.3.4", peer=peer)[0] == ("1.2.3.4", 0)


@pytest.mark.parametrize(
    ("proto", "websocket", "http"),
    [
        ("https", "wss", "https"),
        ("http", "ws", "http"),
        ("wss", "wss", "https"),
        ("ws", "ws", "http"),
        ("HTTPS", "wss", "https"),
        ("http, https", "wss", "https"),
        ("gopher", "ws", "http"),
        ("", "ws", "http"),
        ("https\xe9", "ws", "http"),
    ],
)
def test_the_scheme_is_what_the_proxy_saw(proto, websocket, http):
    assert applied(proto=proto)[1] == websocket
    assert applied(proto=proto, kind="http")[1] == http


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=40), max_size=4))
def test_nothing_in_the_headers_raises_or_becomes_an_address_that_is_none(forwarded):
    (host, port), _ = applied(*forwarded, proto="".join(forwarded))
    assert isinstance(port, int)
    assert 0 <= port <= 65535
    assert str(ip_address(host)) == host
    assert "%" not in host


@pytest.mark.parametrize("entry", ["localhost", "10.0.0.1/8", "10.0.0.0/33", "", "unix:/run/x"])
def test_a_trusted_proxy_that_is_no_address_is_named(entry):
    with pytest.raises(ImproperlyConfigured, match="A trusted proxy is '") as error:
        ProxyHeaders(None, [entry])
    assert "Write addresses or networks" in str(error.value)


@pytest.mark.parametrize("kind", ["websocket", "http", "lifespan"])
async def test_it_is_a_middleware_of_its_own(kind):
    seen = []

    async def application(scope, receive, send):
        seen.append(scope)

    scope = {"type": kind, "client": PEER, "headers": [(b"x-forwarded-for", b"1.2.3.4")]}
    if kind == "lifespan":
        scope = {"type": kind}
    await ProxyHeaders(application, ["127.0.0.1"])(scope, None, None)
    assert seen == [scope]
    assert kind == "lifespan" or scope["client"] == ("1.2.3.4", 0)
