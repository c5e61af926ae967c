"""What an origin is, and which origins a list of patterns admits."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ws_support._protocol.origins import (
    OriginRules,
    PatternError,
    WildcardError,
    parse_origin,
)

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
# A last label of digits makes it an IP address.
names = st.lists(labels, min_size=1, max_size=5).filter(lambda each: not each[-1].isdecimal())
domains = names.map(".".join)
ports = st.one_of(st.none(), st.integers(1, 65535))
origins = st.builds(
    lambda scheme, host, port: f"{scheme}://{host}" + ("" if port is None else f":{port}"),
    st.sampled_from(["http", "https"]),
    domains,
    ports,
)


@pytest.mark.parametrize(
    ("serialized", "same_as"),
    [
        ("https://client.com", "https://client.com"),
        ("https://client.com:443", "https://client.com"),
        ("http://client.com:80", "http://client.com"),
        ("http://client.com:443", "http://client.com:443"),
        ("https://client.com:8443", "https://client.com:8443"),
        ("HTTPS://Client.COM", "https://client.com"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
        ("http://[FE80::A]", "http://[fe80::a]"),
        ("https://xn--mnchen-3ya.de", "https://xn--mnchen-3ya.de"),
        ("https://a_b.client.com", "https://a_b.client.com"),
        ("https://client.com.", "https://client.com."),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("file://", "file://"),
        ("FILE://", "file://"),
        ("app://.", "app://."),
    ],
)
def test_an_origin_is_serialized_in_one_way(serialized, same_as):
    assert str(parse_origin(serialized)) == same_as


@pytest.mark.parametrize(
    "serialized",
    [
        "",
        " ",
        "null",
        "client.com",
        "//client.com",
        "https:",
        "https://",
        "https:client.com",
        "https:/client.com",
        "https:///client.com",
        "https://client.com/",
        "https://client.com/path",
        "https://client.com?query",
        "https://client.com#fragment",
        "https://user@client.com",
        "https://user:password@client.com",
        "https://client.com\\@evil.example",
        "https://client.com ",
        " https://client.com",
        "https://client.com\n",
        "https://client.com\t",
        "https://client.com\x00",
        "https://client.com https://client.com",
        "https://client.com,https://client.com",
        "https://client..com",
        "https://.client.com",
        "https://*.client.com",
        "https://client.com:",
        "https://client.com:0",
        "https://client.com:0443",
        "https://client.com:65536",
        "https://client.com:99999",
        "https://client.com:-1",
        "https://client.com:+1",
        "https://client.com:8e1",
        "https://client.com:443:443",
        "https://client.com:４４３",
        "https://[::1",
        "https://::1",
        "https://[]",
        "https://[::1]x",
        "https://[1.2.3]",
        "https://[:::]",
        "https://[::1%25eth0]",
        "https://münchen.de",
        "https://\u212aelvin.com",
        "https://client%2ecom",
        f"https://{'a' * 255}.com",
        "1https://client.com",
        "http://",
        "https://.",
        "ws://",
        "wss://.",
        "file:",
        "file:/",
        "file:///",
        "file:///home/page.html",
        "file://:80",
        "file://.:80",
        "app://..",
        "app:// ",
        "data:text/html,x",
    ],
)
def test_nothing_else_is_an_origin(serialized):
    assert parse_origin(serialized) is None


@given(st.text())
@example("http://[")
def test_no_text_makes_parsing_raise(text):
    origin = parse_origin(text)
    assert origin is None or parse_origin(str(origin)) == origin


@given(origins)
def test_every_serialized_origin_is_admitted_by_itself(origin):
    assert OriginRules([origin]).allows(origin)


@given(origins, origins)
def test_an_exact_pattern_admits_one_origin_only(pattern, origin):
    assert OriginRules([pattern]).allows(origin) == (parse_origin(pattern) == parse_origin(origin))


@given(domains, labels, ports)
def test_a_star_admits_subdomains_and_not_the_domain(domain, label, port):
    suffix = "" if port is None else f":{port}"
    rules = OriginRules([f"https://*.{domain}{suffix}"])
    assert rules.allows(f"https://{label}.{domain}{suffix}")
    assert rules.allows(f"https://deep.{label}.{domain}{suffix}")
    assert not rules.allows(f"https://{domain}{suffix}")
    assert not rules.allows(f"https://{label}{domain}{suffix}")
    assert not rules.allows(f"http://{label}.{domain}{suffix}")


@given(domains, labels)
def test_a_leading_dot_admits_the_domain_and_its_subdomains(domain, label):
    rules = OriginRules([f"https://.{domain}"])
    assert rules.allows(f"https://{domain}")
    assert rules.allows(f"https://{label}.{domain}")
    assert not rules.allows(f"https://{label}{domain}")
    assert not rules.allows(f"https://{domain}:8443")


@given(domains, labels, ports, st.sampled_from(["http", "https"]))
def test_a_bare_host_admits_web_pages_of_that_host_on_every_port(domain, label, port, scheme):
    suffix = "" if port is None else f":{port}"
    rules = OriginRules([domain])
    assert rules.allows(f"{scheme}://{domain}{suffix}")
    assert not rules.allows(f"{scheme}://{label}.{domain}{suffix}")
    assert not rules.allows(f"ftp://{domain}{suffix}")
    assert OriginRules([f".{domain}"]).allows(f"{scheme}://{label}.{domain}{suffix}")


def test_patterns_and_origins_ignore_case():
    assert OriginRules(["HTTPS://Client.com"]).allows("https://CLIENT.com")


def test_null_is_admitted_only_where_it_is_listed():
    assert OriginRules(["null"]).allows("null")
    assert not OriginRules(["https://client.com"]).allows("null")
    assert not OriginRules(["null"]).allows("NULL")


@pytest.mark.parametrize("origin", ["file://", "app://", "app://.", "capacitor://localhost"])
def test_pages_of_apps_are_admitted_by_their_own_origin_only(origin):
    assert OriginRules(["https://client.com", origin]).allows(origin)
    assert OriginRules([], [re.escape(origin)]).allows(origin)
    assert not OriginRules([origin]).allows("null")
    assert not OriginRules([origin]).allows("https://client.com")
    assert not OriginRules(["https://client.com", "null", "localhost", ".com"]).allows(origin)


@given(st.text())
def test_a_star_alone_admits_everybody(origin):
    assert OriginRules(["*"]).allows(origin)


def test_a_regex_has_to_match_the_whole_serialized_origin():
    rules = OriginRules([], [r"https://\w+\.client\.com", re.compile(r"app://\w+")])
    assert rules.allows("https://one.client.com:443")
    assert rules.allows("app://local")
    assert not rules.allows("https://one.client.com.evil.example")
    assert not rules.allows("xhttps://one.client.com")


def test_a_regex_sees_only_what_is_an_origin():
    assert not OriginRules([], [".*"]).allows("https://user@client.com")


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("https://client.com/", 'Write "https://client.com".'),
        ("https://client.com/ws", 'Write "https://client.com".'),
        ("https://user@client.com", 'Write "https://client.com".'),
        ("https://*.client.com/", 'Write "https://*.client.com".'),
        ("client.com/", 'Write "https://client.com".'),
        ("//client.com/", 'Write "https://client.com".'),
        ("//.client.com", 'Write "https://.client.com".'),
        ("client.com:8443", 'Write "https://client.com:8443", or "client.com" for every port.'),
        ("localhost:8000", 'Write "http://localhost:8000", or "localhost" for every port.'),
        ("127.0.0.1/", 'Write "http://127.0.0.1".'),
        ("wss://client.com/ws", 'Write "https://client.com".'),
        ("ws://localhost:8000", 'Write "http://localhost:8000".'),
        ("https://münchen.de", "Write the host in its ASCII form (xn--...), as browsers send it."),
        ("münchen.de", "Write the host in its ASCII form (xn--...), as browsers send it."),
        ("https://*.0.0.1", "List each address."),
        (".0.0.1", "List each address."),
        ("https://*.[::1]", "List each address."),
        (".[::1]", "List each address."),
        ("https://*.\u212aclient.com", "Write the host in its ASCII form (xn--...)"),
        ("https://cl*ent.com", "A wildcard stands for whole labels at the front"),
        ("https://*", "A wildcard stands for whole labels at the front"),
        ("https://*:8000", "A wildcard stands for whole labels at the front"),
        ("file:///", 'Write "file://".'),
        ("file:///home/page.html", 'Write "file://".'),
        ("app://*", "A wildcard stands for whole labels at the front"),
        ("app://*..", 'Write "https://*.client.com" for its subdomains.'),
        ("", "Write it as browsers send it"),
        ("[::1", "Write it as browsers send it"),
        ("https://client.com:99999", "Write it as browsers send it"),
    ],
)
def test_a_pattern_that_is_no_origin_comes_with_advice(pattern, hint):
    with pytest.raises(PatternError) as error:
        OriginRules([pattern])
    assert error.value.hint.startswith(hint)


def test_a_wildcard_without_a_scheme_is_told_apart():
    with pytest.raises(WildcardError) as error:
        OriginRules(["*.client.com"])
    assert error.value.hint.startswith('Write "https://*.client.com"')


@given(st.text())
def test_a_pattern_is_either_taken_or_refused_with_advice(pattern):
    try:
        OriginRules([pattern])
    except PatternError as error:
        assert error.hint
