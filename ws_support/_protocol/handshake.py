"""The opening handshake (RFC 6455, section 4): a request parsed from bytes, responses as bytes."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha1
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_to_bytes

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION: Final = b"13"

_NO_NAME: Final = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]|\A\Z")
"""Matches text that is not a token, as header names and sub-protocols are (RFC 9110, 5.6.2)."""

_NO_VALUE: Final = re.compile(rb"[\0\r\n]")
"""Matches a character that would end the value of a header (RFC 9110, section 5.5)."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

_EXTENSION: Final = re.compile(
    rb"%(t)b+(?:[ \t]*;[ \t]*%(t)b+(?:[ \t]*=[ \t]*(?:%(t)b+|\"(?:\\?%(t)b)+\"))?)*"
    % {b"t": _TOKEN}
)
"""Matches one extension of Sec-WebSocket-Extensions, with its parameters (section 9.1)."""

_URL: Final = re.compile(rb"(?:http|ws)s?://([^/?#@]+)((?:[/?][^#]*)?)", re.IGNORECASE)
"""Matches a request target in absolute form (RFC 9112, section 3.2.2)."""

Headers = Iterable[tuple[bytes, bytes]]


class Refused(Exception):
    """The request is not an opening handshake that can be accepted.

    `status`, `reason` and `headers` are those of the HTTP response.
    """

    def __init__(self, status: HTTPStatus, reason: str, headers: Headers = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


def elements(headers: Headers, wanted: bytes) -> list[bytes]:
    """Return the elements of a list in one or more headers (RFC 9110, section 5.6.1)."""
    found = (
        element.strip(b" \t")
        for name, value in headers
        if name == wanted
        for element in value.split(b",")
    )
    return [element for element in found if element]


def origin_form(target: bytes, headers: Headers) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return a target that is a URL as path and query, and the headers with the host of the URL.

    That host counts, whatever the Host header says (RFC 9112, section 3.2.2). Other targets and
    their headers are returned as they are.
    """
    url = _URL.fullmatch(target)
    if url is None:
        return target, list(headers)
    path = url[2] if url[2].startswith(b"/") else b"/" + url[2]
    return path, [(name, url[1] if name == b"host" else value) for name, value in headers]


@dataclass(frozen=True)
class Request:
    """The head of an HTTP request."""

    method: bytes
    target: bytes
    """The path and the query, as they were sent. When the client sent a whole URL, the host of that
    URL is in `headers` as the Host header."""

    headers: list[tuple[bytes, bytes]]
    """The headers, names in lower case, in the order in which they were sent."""

    @classmethod
    def parse(cls, head: bytes) -> Request:
        """Parse `head`, which comes without the empty line at its end.

        The caller has checked the syntax before.
        """
        first, *lines = head.split(b"\r\n")
        method, target, _ = first.split(b" ", 2)
        headers = [
            (name.lower(), value.strip(b" \t"))
            for name, _, value in (line.partition(b":") for line in lines)
        ]
        return cls(method, *origin_form(target, headers))

    def scope(self, root_path: str) -> dict[str, Any]:
        """Return the keys of the ASGI scope that follow from the head."""
        return {
            "type": "websocket",
            "http_version": "1.1",
            "root_path": root_path,
            "path": root_path + self.path,
            "raw_path": root_path.encode() + self.raw_path,
            "query_string": self.query_string,
            "headers": self.headers,
            "subprotocols": self.subprotocols,
            "extensions": {"websocket.http.response": {}},
        }

    @property
    def path(self) -> str:
        """The path, percent-decoded as UTF-8. As in Django, invalid bytes become U+FFFD."""
        return unquote_to_bytes(self.raw_path).decode("utf-8", "replace")

    @property
    def raw_path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def query_string(self) -> bytes:
        return self.target.partition(b"?")[2]

    @property
    def subprotocols(self) -> list[str]:
        """The sub-protocols that the client offers; several headers are joined (section 11.3.4)."""
        return [
            offer.decode("latin-1") for offer in elements(self.headers, b"sec-websocket-protocol")
        ]

    @property
    def extensions(self) -> list[bytes]:
        """The extensions that the client offers, each with its parameters."""
        return elements(self.headers, b"sec-websocket-extensions")

    def values(self, name: bytes) -> list[bytes]:
        return [value for each, value in self.headers if each == name]

    def key(self) -> bytes:
        """Return the `Sec-WebSocket-Key` of a handshake that follows section 4.2.1.

        The caller has checked before that the request asks for an upgrade to a WebSocket. Raises
        `Refused` if the handshake breaks one of the other rules.
        """
        if self.method != b"GET":
            raise Refused(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "A WebSocket is opened with GET.",
                [(b"allow", b"GET")],
            )
        if self.values(b"transfer-encoding") or any(
            value.strip(b"0") for value in self.values(b"content-length")
        ):
            raise Refused(
                HTTPStatus.BAD_REQUEST, "A request that opens a WebSocket has no content."
            )
        if not self.target.startswith(b"/"):
            raise Refused(
                HTTPStatus.BAD_REQUEST, "The target has to be a path, or a URL with http or ws."
            )
        if len(self.values(b"host")) != 1:
            raise Refused(HTTPStatus.BAD_REQUEST, "There has to be one Host header.")
        if self.values(b"sec-websocket-version") != [_VERSION]:
            raise Refused(
                HTTPStatus.UPGRADE_REQUIRED,
                "Version 13 of the WebSocket protocol is spoken here (RFC 6455).",
                [(b"sec-websocket-version", _VERSION), (b"upgrade", b"websocket")],
            )
        keys = self.values(b"sec-websocket-key")
        if len(keys) != 1 or not _is_key(keys[0]):
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                "There has to be one Sec-WebSocket-Key header, of 16 bytes in Base64.",
            )
        if any(_NO_NAME.search(offer.encode("latin-1")) for offer in self.subprotocols):
            raise Refused(
                HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Protocol has to be a list of tokens."
            )
        self.check_extensions()
        return keys[0]

    def check_extensions(self) -> None:
        """Raise `Refused` unless each offered extension has the syntax of section 9.1."""
        if not all(map(_EXTENSION.fullmatch, self.extensions)):
            raise Refused(
                HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Extensions has to be a list of extensions."
            )


def _is_key(value: bytes) -> bool:
    try:
        return len(value) == 24 and len(b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def accept(key: bytes, subprotocol: str | None, headers: Headers) -> bytes:
    """Return the response that accepts the handshake.

    Raises `ValueError` for a sub-protocol or a header that cannot be sent.
    """
    proof = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"upgrade: websocket",
        b"connection: Upgrade",
        b"sec-websocket-accept: " + proof,
    ]
    if subprotocol is not None:
        name = subprotocol.encode("latin-1", "replace")
        if _NO_NAME.search(name):
            raise ValueError(f"websocket.accept: the subprotocol {subprotocol!r} is no token.")
        lines.append(b"sec-websocket-protocol: " + name)
    return _head(lines, headers)


def response(status: int, headers: Headers) -> bytes:
    """Return the head of a response that ends with the close of the connection.

    Raises `ValueError` for a header that cannot be sent.
    """
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {status} {phrase}".encode("ascii"), b"connection: close"]
    return _head(lines, (each for each in headers if each[0].lower() != b"connection"))


def refusal(status: int, reason: str, headers: Headers) -> bytes:
    """Return a response with `reason` as a line of text, after which the connection is closed."""
    content = f"{reason}\n".encode()
    all_headers = [
        *headers,
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(content)),
    ]
    return response(status, all_headers) + content


def _head(lines: list[bytes], headers: Headers) -> bytes:
    for name, value in headers:
        if _NO_NAME.search(name) or _NO_VALUE.search(value):
            raise ValueError(f"The header {name!r}: {value!r} cannot be sent.")
        lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
