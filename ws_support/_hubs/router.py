"""The router: which requests are for a hub, and the checks in front of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import get_script_prefix
from django.http.request import split_domain_port, validate_host
from django.urls import path as django_path

from ws_support import _logging
from ws_support._connection.denial import refuse
from ws_support._hubs import responses
from ws_support._hubs.bearer import BearerAuthentication, find_user
from ws_support._hubs.endpoint import Endpoint
from ws_support._hubs.responses import NEGOTIATE, cors_headers, header
from ws_support.conf import get_options
from ws_support.middleware.origin import ADVICE, REASONS, OriginValidator

logger = logging.getLogger("ws_support.hubs")

_KEY: Final = "ws_support.hub"
"""The key in the scope for the match of a request."""

_NOT_VALID: Final = "Its token is not valid (any more)."


class _Match(NamedTuple):
    endpoint: Endpoint
    is_negotiate: bool


class Router:
    """Serves what is for a hub.

    `middleware` puts around an application what finds the user, and `guard` the check of the origin
    of WebSockets.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        middleware: Callable[[Any], Any] | None,
        guard: Callable[[Any], Any],
        authenticate: Callable[[str], Any] | None,
        get_user: Callable[[str], Any] | None,
    ) -> None:
        self._routes = [
            (django_path(_checked(route), _no_view), endpoint)
            for route, endpoint in endpoints.items()
        ]
        around = middleware or _authentication()
        websocket, request = _websocket, _request
        if authenticate is not None:
            find = get_user or find_user
            # Inside, so that a token counts more than a session.
            websocket = BearerAuthentication(websocket, authenticate, find, _hub_of, _refuse)
            request = BearerAuthentication(request, authenticate, find, _hub_of, _refuse)
        self._unguarded = around(websocket)
        self._websockets = guard(self._unguarded)
        self._requests = around(request)
        self._origins = OriginValidator(None)

    async def serve(self, scope: Any, receive: Any, send: Any) -> bool:
        """Serve a request or a WebSocket. Return False if it is not for a hub."""
        if scope["type"] not in ("http", "websocket"):
            return False
        found = self._find(scope)
        if found is None:
            return False
        match, kwargs = found
        scope = {**scope, _KEY: match, "url_route": {"args": (), "kwargs": kwargs}}
        if scope["type"] == "websocket":
            if not match.is_negotiate:
                await self._websockets(scope, receive, send)
                return True
            return False
        if await self._admits(scope, match, send):
            await self._serve_request(match, scope, receive, send)
        return True

    def is_lost(self, scope: Any) -> bool:
        """Return True for a client of hubs that has come to a path without one."""
        return (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and scope["path"].endswith(NEGOTIATE)
            and "negotiateversion" in responses.query_of(scope)
        )

    def explaining(self, scope: Any, send: Any) -> Any:
        """Return a `send()` that logs which hubs there are when the answer is 404."""

        async def explain(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == 404:
                logger.warning(
                    "There is no hub at the path %.200a. HubRouter has: %.500s.",
                    scope["path"].removesuffix(NEGOTIATE),
                    ", ".join(f"/{route.pattern}" for route, _ in self._routes) or "none",
                    extra=_logging.fields(scope),
                )
            await send(message)

        return explain

    async def serve_forwarded(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve what another process has got, and has admitted."""
        if (found := self._find(scope)) is None:
            return
        match, kwargs = found
        scope = {**scope, _KEY: match, "url_route": {"args": (), "kwargs": kwargs}}
        if scope["type"] == "websocket":
            await self._unguarded(scope, receive, send)
        else:
            await self._serve_request(match, scope, receive, send)

    async def _serve_request(self, match: _Match, scope: Any, receive: Any, send: Any) -> None:
        if not match.is_negotiate and match.endpoint.is_known(scope):
            # Its token is enough: nobody else knows it.
            await _request(scope, receive, send)
        else:
            await self._requests(scope, receive, send)

    def _find(self, scope: Any) -> tuple[_Match, dict[str, Any]] | None:
        path = scope["path"]
        prefix = get_script_prefix(scope).rstrip("/")
        if prefix and path.startswith(f"{prefix}/"):
            path = path[len(prefix) :]
        is_negotiate = path.endswith(NEGOTIATE)
        if is_negotiate:
            path = path[: -len(NEGOTIATE)]
        for route, endpoint in self._routes:
            if matched := route.pattern.match(path[1:]):
                return _Match(endpoint, is_negotiate), matched[2]
        return None

    async def _admits(self, scope: Any, match: _Match, send: Any) -> bool:
        """Check the host and the origin of a request. Answer it if one of them is wrong."""
        given = (header(scope, b"host") or b"").decode("latin-1")
        host, _ = split_domain_port(given)
        if not host or not validate_host(host, get_options().allowed_hosts):
            advice = f"The Host header, {given[:200]!a}, has to match ALLOWED_HOSTS."
            reason = "The host is not allowed.\n"
            await responses.refuse(
                scope, send, HTTPStatus.BAD_REQUEST, rule="host", reason=reason, advice=advice
            )
            return False
        rule = await self._origins.failed_rule(scope)
        # A browser sends no Origin with a GET of the same origin.
        if rule == "missing" and not (match.is_negotiate and scope["method"] == "POST"):
            rule = None
        if rule is not None:
            reason = f"{REASONS[rule]}\n"
            await responses.refuse(
                scope, send, HTTPStatus.FORBIDDEN, rule=rule, reason=reason, advice=ADVICE[rule]
            )
        return rule is None


def _hub_of(scope: Any) -> str:
    return scope[_KEY].endpoint.name  # type: ignore[no-any-return]


async def _refuse(scope: Any, receive: Any, send: Any, status: HTTPStatus) -> None:
    """Refuse a client without valid credentials."""
    if scope["type"] == "http":
        await responses.refuse(scope, send, status, advice=_NOT_VALID, headers=cors_headers(scope))
        return
    await refuse(
        scope,
        receive,
        send,
        status=status,
        rule="hub",
        reason=status.phrase,
        logger=logger,
        advice=_NOT_VALID,
    )


async def _websocket(scope: Any, receive: Any, send: Any) -> None:
    await scope[_KEY].endpoint.websocket(scope, receive, send)


async def _request(scope: Any, receive: Any, send: Any) -> None:
    match = scope[_KEY]
    serve = match.endpoint.negotiate if match.is_negotiate else match.endpoint.request
    await serve(scope, receive, send)


def has_sessions() -> bool:
    """Return True if users of Django have sessions here."""
    return all(map(apps.is_installed, ("django.contrib.auth", "django.contrib.sessions")))


def _authentication() -> Callable[[Any], Any]:
    """Return what finds the user of a session, where Django has that."""
    if has_sessions():
        from channels.auth import AuthMiddlewareStack

        return AuthMiddlewareStack
    return lambda application: application


def _checked(route: object) -> str:
    if not isinstance(route, str) or route.startswith("/") or route.endswith("/"):
        raise ImproperlyConfigured(
            f"The path of a hub has no slash at its ends: got {route!r}, write"
            f" {str(route).strip('/')!r}."
        )
    return route


def _no_view(*_: Any) -> Any:
    """Stand in for the view that a path has to have."""
