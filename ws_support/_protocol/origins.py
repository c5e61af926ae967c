"""Origins (RFC 6454), and rules that say which origins may connect."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address
from typing import NamedTuple

_DEFAULT_PORTS = {"http": 80, "https": 443}
_WEB_SCHEMES = frozenset(_DEFAULT_PORTS)
_SCHEMES_WITH_HOST = _WEB_SCHEMES | {"ws", "wss"}

# The syntax of RFC 6454, section 6.2: no userinfo, path, query, fragment, backslash or space.
# A host name should not have underscores, but browsers resolve and send such names.
_SCHEME = r"[a-z][a-z0-9+.-]*"
_HOST = r"\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?"
_PORT = r"[1-9][0-9]{0,4}"
_ORIGIN = re.compile(rf"(?P<scheme>{_SCHEME})://(?:(?P<host>{_HOST})(?::(?P<port>{_PORT}))?|\.?)")
_BARE_HOST = re.compile(rf"(?P<dot>\.?)(?P<host>{_HOST})")
_WILDCARD = re.compile(rf"(?P<scheme>{_SCHEME}://)(?P<wildcard>\*?\.)(?P<rest>.+)")
_MAX_HOST_LENGTH = 254  # RFC 1035, section 2.3.4, and one dot for the root.


class Origin(NamedTuple):
    """A scheme, a host and a port. Letters are in lower case; the scheme's default port is `None`.

    Two origins are the same when these three are equal (RFC 6454, section 5). The host is empty for
    schemes without hosts: pages from the disk send `file://`, pages of some apps send `app://`
    (RFC 3986, section 3.2.2, allows an empty host; RFC 9110, section 4.2.1, forbids it for http).
    """

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def parse_origin(serialized: str) -> Origin | None:
    """Return the origin that `serialized` (`scheme://host[:port]`, or `file://`) stands for.

    Return `None` for all other text, also for `"null"`: that is an origin that equals no other one
    (RFC 6454, section 6.1). Never raises.
    """
    if not serialized.isascii():
        return None
    match = _ORIGIN.fullmatch(serialized.lower())
    if match is None:
        return None
    scheme = match["scheme"]
    if match["host"] is None:
        # "file://" comes from Chromium for pages from the disk (Electron, WebView, Cordova), and
        # "app://." from Electron for its own scheme.
        empty = serialized.partition("://")[2]
        return None if scheme in _SCHEMES_WITH_HOST else Origin(scheme, empty, None)
    host = _canonical_host(match["host"])
    if host is None:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and port > 65535:
        return None
    return Origin(scheme, host, None if port == _DEFAULT_PORTS.get(scheme) else port)


def _canonical_host(host: str) -> str | None:
    if not host.startswith("["):
        return host if len(host) <= _MAX_HOST_LENGTH else None
    try:
        return f"[{IPv6Address(host[1:-1])}]"
    except ValueError:
        return None


class PatternError(ValueError):
    """A pattern does not describe an origin; `hint` says what to write instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class WildcardError(PatternError):
    """A wildcard has no scheme, so its meaning is ambiguous."""


class OriginRules:
    """The origins that may connect: patterns, compiled once into sets.

    `patterns`: `"https://client.com"`, `"https://client.com:8443"`, `"file://"` (pages from the
    disk), `"https://*.client.com"` (subdomains only), `"https://.client.com"` (the domain and its
    subdomains), `"client.com"` and `".client.com"` (under http or https, on any port), `"null"`,
    and `"*"` (every origin).
    `regexes` have to match the whole serialized origin, in lower case and without a default port.

    The cost of `allows()` grows with the number of labels in the origin's host and with the number
    of regexes, never with the number of patterns.

    Raises `PatternError` for any other pattern, and `re.error` for an invalid regex.
    """

    def __init__(
        self, patterns: Iterable[str], regexes: Iterable[str | re.Pattern[str]] = ()
    ) -> None:
        self.everybody = False
        self._null = False
        self._origins: set[Origin] = set()
        self._subdomains: set[Origin] = set()
        self._hosts: set[str] = set()
        self._host_subdomains: set[str] = set()
        self._regexes = [re.compile(regex) for regex in regexes]
        for pattern in patterns:
            self._add(pattern)

    def allows(self, serialized: str) -> bool:
        """Return True if a page of this origin may connect.

        `serialized` is the origin as RFC 6454 writes it, or `"null"`.
        """
        if self.everybody:
            return True
        origin = parse_origin(serialized)
        if origin is None:
            return serialized == "null" and self._null
        return (
            origin in self._origins
            or self._allows_host(origin)
            or self._allows_subdomain(origin)
            or any(regex.fullmatch(str(origin)) for regex in self._regexes)
        )

    def _allows_host(self, origin: Origin) -> bool:
        return origin.scheme in _WEB_SCHEMES and origin.host in self._hosts

    def _allows_subdomain(self, origin: Origin) -> bool:
        if not (self._subdomains or self._host_subdomains):
            return False
        return any(
            origin._replace(host=parent) in self._subdomains
            or (origin.scheme in _WEB_SCHEMES and parent in self._host_subdomains)
            for parent in _parents(origin.host)
        )

    def _add(self, pattern: str) -> None:
        if pattern == "*":
            self.everybody = True
        elif pattern == "null":
            self._null = True
        elif "://" not in pattern:
            self._add_host(pattern)
        elif pattern.isascii() and (wildcard := _WILDCARD.fullmatch(pattern.lower())):
            domain = _required_origin(pattern, wildcard["scheme"] + wildcard["rest"])
            _require_name(domain.host)
            self._subdomains.add(domain)
            if wildcard["wildcard"] == ".":
                self._origins.add(domain)
        else:
            self._origins.add(_required_origin(pattern, pattern))

    def _add_host(self, pattern: str) -> None:
        match = _BARE_HOST.fullmatch(pattern.lower()) if pattern.isascii() else None
        host = _canonical_host(match["host"]) if match else None
        if match is None or host is None:
            raise _bare_host_error(pattern)
        if match["dot"]:
            _require_name(host)
            self._host_subdomains.add(host)
        self._hosts.add(host)


def _parents(host: str) -> Iterator[str]:
    """Yield the domains that `host` is a subdomain of: `b.c` and `c` for `a.b.c`."""
    _, dot, parent = host.partition(".")
    while dot:
        yield parent
        _, dot, parent = parent.partition(".")


def _required_origin(pattern: str, serialized: str) -> Origin:
    origin = parse_origin(serialized)
    if origin is None:
        raise PatternError(
            "is not an origin: scheme://host[:port] and nothing else", _hint(pattern)
        )
    if origin.scheme in {"ws", "wss"}:
        raise PatternError("is the address of a socket, not the origin of a page", _hint(pattern))
    return origin


def _require_name(host: str) -> None:
    if not host.strip("."):
        raise PatternError(
            "is a wildcard without a domain", 'Write "https://*.client.com" for its subdomains.'
        )
    if host.startswith("[") or host.rpartition(".")[2].isdecimal():
        raise PatternError(
            "is a wildcard before an IP address, which has no subdomains", "List each address."
        )


def _bare_host_error(pattern: str) -> PatternError:
    if pattern.startswith("*."):
        return WildcardError(
            "is a wildcard without a scheme",
            f'Write "https://{pattern}" for the subdomains under https, or "{pattern[1:]}" for the'
            " domain and its subdomains under any scheme.",
        )
    host, colon, port = pattern.rpartition(":")
    if colon and port.isdecimal() and parse_origin(f"https://{pattern}"):
        return PatternError(
            "is a host with a port, but without a scheme",
            f'Write "{_usual_scheme(host)}://{pattern}", or "{host}" for every port.',
        )
    return PatternError("is neither an origin nor a host", _hint(pattern))


def _hint(pattern: str) -> str:
    if not pattern.isascii():
        return "Write the host in its ASCII form (xn--...), as browsers send it."
    scheme, _, rest = pattern.strip().lower().removeprefix("//").rpartition("://")
    # The part before the first character that an origin cannot have.
    authority = re.split(r"[/\\?#\s]", rest.rpartition("@")[2], maxsplit=1)[0]
    scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    suggestion = f"{scheme or _usual_scheme(authority)}://{authority}"
    if parse_origin(re.sub(r"://\*?\.", "://", suggestion)):
        return f'Write "{suggestion}".'
    if "*" in pattern:
        return (
            'A wildcard stands for whole labels at the front ("https://*.client.com");'
            ' for more, use WS_SUPPORT["ALLOWED_ORIGIN_REGEXES"].'
        )
    return 'Write it as browsers send it, for example "https://client.com" or "http://[::1]:8000".'


def _usual_scheme(host: str) -> str:
    """Return the scheme that `host` most likely serves.

    That is http for `localhost` and for IP addresses, which rarely have a certificate.
    """
    return "http" if re.match(r"localhost\b|[0-9\[]", host) else "https"
