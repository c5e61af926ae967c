from __future__ import annotations

from urllib.parse import urlsplit

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.templatetags.static import static
from django.views.decorators.http import require_safe


@require_safe
def demo(request: HttpRequest) -> HttpResponse:
    """A page to talk to `/ws` from."""
    response = render(request, "ws_support/demo.html")
    response["Content-Security-Policy"] = _content_security_policy()
    return response


def upgrade_required(request: HttpRequest) -> HttpResponse:
    """426 (RFC 9110, section 15.5.22): this path speaks WebSocket only."""
    response = HttpResponse(
        "This is a WebSocket: open it with ws:// or wss://.\n",
        status=426,
        content_type="text/plain; charset=utf-8",
    )
    if isinstance(request, ASGIRequest):
        # A WSGI application must not send hop-by-hop headers (PEP 3333): wsgiref fails on them.
        response["Upgrade"] = "websocket"
        response["Connection"] = "Upgrade"
    return response


def _content_security_policy() -> str:
    """Our own files only. Sockets may go anywhere: the page has a field for the address."""
    files = urlsplit(static("ws_support/demo.js"))
    source = f"{files.scheme}://{files.netloc}" if files.netloc else "'self'"
    return (
        f"default-src 'none'; script-src {source}; style-src {source}; img-src {source} data:;"
        " connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
