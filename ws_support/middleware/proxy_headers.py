"""Proxy headers: the client's address and scheme, as trusted proxies report them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from django.core.exceptions import ImproperlyConfigured

__all__ = ["ProxyHeaders"]

UNIX: Final = "unix"
"""The entry in a list of trusted proxies that stands for all peers on a Unix socket."""

_SECURE: Final = {"http": False, "ws": False, "https": True, "wss": True}

_MAX_HOPS: Final = 64
"""The most addresses that are read, from the last one on. A client can write any number of them."""


class ProxyHeaders:
    """Sets the client and the scheme in `scope` from the headers of trusted proxies.

    The headers are `X-Forwarded-For` and `X-Forwarded-Proto`. `trusted` holds the addresses and
    networks of proxies (`"127.0.0.1"`, `"10.0.0.0/8"`, `"::1"`), `"unix"` for all peers on a Unix
    socket, or `"*"` for every peer. Raises `ImproperlyConfigured` for any other entry.

    Any client can send these headers, so they count only as far as trusted proxies wrote them:
    `scope["client"]` becomes the last address that is not a trusted proxy's, and `scope["scheme"]`
    the scheme that the directly connected proxy reports. Headers from other peers, and malformed
    ones, change nothing. The port is the one that the proxy reports, else 0. Of more than 64
    addresses, the last 64 are read.

    The headers themselves stay unchanged.
    """

    def __init__(self, application: Any, trusted: Iterable[str]) -> None:
        self.application = application
        entries = [entry.strip() for entry in trusted]
        self._everybody = "*" in entries
        self._unix = UNIX in entries
        self._networks = [_network(entry) for entry in entries if entry not in {"*", UNIX}]

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        if scope["type"] != "lifespan":
            self.apply(scope)
        await self.application(scope, receive, send)

    def apply(self, scope: Any) -> None:
        """Set the client and the scheme in the scope of a request or a WebSocket."""
        peer = scope.get("client")
        # For a Unix socket, some servers have None here, others a pair without an address.
        address = _address(peer[0]) if peer else None
        if not self._trusts(address):
            return
        hops: list[bytes] = []
        scheme = ""
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                # rsplit() leaves everything before the last 64 in one string, which is not read.
                hops = [*hops, *value.rsplit(b",", _MAX_HOPS)][-_MAX_HOPS:]
            elif name == b"x-forwarded-proto":
                scheme = value.decode("latin-1").rpartition(",")[2].strip().lower()
        client = self._client(reversed(hops))
        if client is not None:
            scope["client"] = client
        if scheme in _SECURE:
            plain = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = f"{plain}s" if _SECURE[scheme] else plain

    def _client(self, hops: Iterator[bytes]) -> tuple[str, int] | None:
        """Return the first address that is not trusted, or the last one that can be read."""
        client = None
        for hop in hops:
            found = _address_and_port(hop.decode("latin-1").strip())
            if found is None:
                break
            address, port = found
            client = str(address), port
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: IPv4Address | IPv6Address | None) -> bool:
        if self._everybody:
            return True
        if address is None:
            return self._unix
        return any(address in network for network in self._networks)


def _network(entry: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(entry)
    except ValueError as error:
        raise ImproperlyConfigured(
            f"A trusted proxy is {entry!r}, which is not an address: {error}. Write addresses or"
            f' networks such as 127.0.0.1 or 10.0.0.0/8, "{UNIX}" for Unix sockets, or "*".'
        ) from None


def _address(host: object) -> IPv4Address | IPv6Address | None:
    """Return `host` as an address, or None if it is none.

    An address with a zone (RFC 4007, "fe80::1%eth0") is refused: a zone means something only on the
    machine that wrote it, and `ipaddress` accepts any text as a zone.
    """
    if isinstance(host, str) and "%" in host:
        return None
    try:
        address = ip_address(host)  # type: ignore[arg-type]  # Raises ValueError for other types.
    except ValueError:
        return None
    # A socket for both IPv4 and IPv6 reports 127.0.0.1 as ::ffff:127.0.0.1.
    return getattr(address, "ipv4_mapped", None) or address


def _address_and_port(hop: str) -> tuple[IPv4Address | IPv6Address, int] | None:
    """Read `1.2.3.4`, `1.2.3.4:5678`, `2001:db8::1` or `[2001:db8::1]:5678`.

    An invalid or missing port becomes 0. Return None for any other text.
    """
    if hop.startswith("["):
        host, bracket, rest = hop[1:].partition("]")
        if not bracket or rest[:1] not in {"", ":"} or ":" not in host:
            return None
        port = rest[1:]
    elif hop.count(":") == 1:
        host, _, port = hop.partition(":")
    else:
        host, port = hop, ""
    address = _address(host)
    return None if address is None else (address, _port(port))


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= 65535:
        return int(text)
    return 0
