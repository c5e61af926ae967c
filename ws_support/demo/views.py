"""The views of the demo page."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from hashlib import sha256
from typing import Final
from urllib.parse import urljoin, urlsplit

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.templatetags.static import static
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.http import require_safe

logger = logging.getLogger("ws_support.views")

_IMPORTED: Final = ("client.js", "demo_log.js", "demo_page.js", "demo_plot.js")
"""The modules that other modules of the page import by relative names."""


@require_safe
def demo(request: HttpRequest) -> HttpResponse:
    """Return the demo page, from which a user can send messages to `/ws`."""
    import_map = _import_map()
    response = render(request, "ws_support/demo.html", {"import_map": import_map})
    response["Content-Security-Policy"] = _content_security_policy(import_map)
    return response


def upgrade_required(request: HttpRequest) -> HttpResponse:
    """Return 426 (RFC 9110, section 15.5.22) for an HTTP request to the path of the WebSocket."""
    reason = _what_is_wrong(request) or "This is a WebSocket: open it with ws:// or wss://."
    response = HttpResponse(f"{reason}\n", status=426, content_type="text/plain; charset=utf-8")
    if isinstance(request, ASGIRequest):
        # A WSGI application must not send hop-by-hop headers (PEP 3333): wsgiref fails on them.
        response["Upgrade"] = "websocket"
        response["Connection"] = "Upgrade"
    return response


def _what_is_wrong(request: HttpRequest) -> str | None:
    """Return what is wrong with a handshake that came as plain HTTP, and log what to change.

    Return None for a request that is no handshake.
    """
    if "websocket" in request.headers.get("Upgrade", "").lower():
        reason = "This is a WebSocket, and the server took its handshake for plain HTTP."
        advice = (
            "This server speaks no WebSocket: on Uvicorn, install `websockets`, or start"
            " `manage.py runasgi`."
            if isinstance(request, ASGIRequest)
            else 'This server speaks WSGI: start `manage.py runasgi`, or put "ws_support" first in'
            " INSTALLED_APPS for `manage.py runserver`."
        )
    elif "Sec-WebSocket-Key" in request.headers:
        reason = "This is a WebSocket, and its handshake came without `Upgrade: websocket`."
        advice = (
            "A proxy has dropped the header: in nginx, set proxy_http_version to 1.1, and Upgrade"
            " and Connection with proxy_set_header."
        )
    else:
        return None
    # %a escapes line breaks: text of the client cannot forge a log line.
    logger.warning("%s Path %.200a. %s", reason, request.path, advice)
    return reason


def _import_map() -> SafeString:
    """Return an import map for modules that the storage serves under other names, or no text.

    `ManifestStaticFilesStorage` and similar storages put a hash into each file name, but do not
    change the imports in modules, unless `support_js_module_import_aggregation` is set.
    """
    importer = static("ws_support/demo.js")
    imports = {urljoin(importer, name): static(f"ws_support/{name}") for name in _IMPORTED}
    imports = {seen: real for seen, real in imports.items() if seen != real}
    if not imports:
        return SafeString()
    return mark_safe(json.dumps({"imports": imports}).replace("<", r"\u003c"))  # noqa: S308


def _content_security_policy(import_map: str) -> str:
    """Return a policy that allows our own files only, and WebSockets to any address.

    The page has a field for the address of the WebSocket.
    """
    files = urlsplit(static("ws_support/demo.js"))
    source = f"{files.scheme}://{files.netloc}" if files.netloc else "'self'"
    scripts = source
    if import_map:
        # Browsers accept an import map only inline, so the policy needs its hash.
        scripts += f" 'sha256-{b64encode(sha256(import_map.encode()).digest()).decode()}'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src {source}; img-src {source} data:;"
        " connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
