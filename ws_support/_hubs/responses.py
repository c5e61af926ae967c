"""HTTP for hubs: queries, plain answers, and what a page of another origin may do (CORS)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from ws_support import _logging
from ws_support.signals import rejected

logger = logging.getLogger("ws_support.hubs")

Headers = list[tuple[bytes, bytes]]
Send = Callable[[Any], Awaitable[None]]

TEXT: Final = b"text/plain"
JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"

_MAX_FIELDS: Final = 100

NEGOTIATE: Final = "/negotiate"
"""What the path of negotiate ends with."""

_OF_NEGOTIATE: Final = ("negotiateversion", "usestatefulreconnect", "access_token")
"""Fields of a query that clients add by themselves."""

NOT_TO_BE_KEPT: Final = (
    (b"cache-control", b"no-cache, no-store"),
    (b"pragma", b"no-cache"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 GMT"),
)
"""For answers to polls."""

_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, x-requested-with, x-signalr-user-agent",
    ),
    (b"access-control-max-age", b"7200"),
)


def query_of(scope: Any) -> dict[str, str]:
    """Return the fields of the query, with their names in lower case: .NET ignores case."""
    return {name.lower(): value for name, value in reversed(_fields(scope))}


def _fields(scope: Any) -> list[tuple[str, str]]:
    """Return the fields of the query; none of one that cannot be read, or has too many."""
    try:
        text = scope.get("query_string", b"").decode()
        return parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        return []


def header(scope: Any, name: bytes) -> bytes | None:
    """Return the first value of a header."""
    for each, value in scope["headers"]:
        if each == name:
            return bytes(value)
    return None


def own_url(scope: Any) -> str:
    """Return the absolute URL of a hub, with its own query, for a client that negotiates with it.

    Behind a proxy, scheme and host are those of the proxy, if it is trusted.
    """
    host = (header(scope, b"host") or b"").decode("latin-1")
    path = quote(scope["path"].removesuffix(NEGOTIATE))
    own = [each for each in _fields(scope) if each[0].lower() not in _OF_NEGOTIATE]
    query = f"?{urlencode(own)}" if own else ""
    return f"{scope.get('scheme', 'http')}://{host}{path}{query}"


def cors_headers(scope: Any) -> Headers:
    """Return what lets a page of another origin, which was checked before, read the answer.

    Clients send cookies, so the origin has to be named (Fetch standard, "CORS protocol and
    credentials").
    """
    origin = header(scope, b"origin")
    if origin is None:
        return []
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"Origin"),
    ]


async def answer(
    send: Send,
    status: int,
    body: bytes | str = b"",
    *,
    content_type: bytes = TEXT,
    headers: Headers | None = None,
) -> None:
    """Send a whole response."""
    data = body.encode() if isinstance(body, str) else body
    lines = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(data)),
        *(headers or []),
    ]
    if status == HTTPStatus.NO_CONTENT:
        lines = [line for line in lines if line[0] != b"content-length"]
    await send({"type": "http.response.start", "status": int(status), "headers": lines})
    await send({"type": "http.response.body", "body": data, "more_body": False})


async def refuse(
    scope: Any,
    send: Send,
    status: HTTPStatus,
    *,
    rule: str = "hub",
    reason: str = "",
    advice: str,
    headers: Headers | None = None,
) -> None:
    """Refuse a request: one line in the log and one signal, as for a handshake, and one answer.

    The client gets `reason`; by default, that is the phrase of `status`. Clients read the text:
    Hypercorn sends no reason phrase.
    """
    origins = _logging.origins(scope)
    origin = ", ".join(origins) if origins else None
    logger.warning(
        "Refused with %d: %s. Origin %.200a, path %.200a. %s",
        status,
        (reason or status.phrase).strip().rstrip("."),
        origin,
        scope["path"],
        advice,
        extra=_logging.fields(scope),
    )
    await rejected.asend_robust(None, scope=scope, origin=origin, status=int(status), rule=rule)
    await answer(send, status, reason or status.phrase, headers=headers)


async def answer_preflight(scope: Any, send: Send) -> None:
    """Answer an OPTIONS request that a browser sends before the one of a page (CORS)."""
    headers = [*cors_headers(scope), *_PREFLIGHT]
    await answer(send, HTTPStatus.NO_CONTENT, headers=headers)
