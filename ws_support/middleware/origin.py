"""The origin check: which pages may connect."""

from __future__ import annotations

import logging
from collections.abc import Collection
from http import HTTPStatus
from re import Pattern
from typing import Any, Final
from urllib.parse import ParseResult

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope, WebSocketScope
from channels.security.websocket import OriginValidator as ChannelsOriginValidator

from ws_support import _logging
from ws_support._connection.denial import refuse
from ws_support._protocol.origins import OriginRules, parse_origin
from ws_support.conf import FROM_SETTINGS, FromSettings, MiddlewareOptions, Options

__all__ = ["OriginValidator"]

logger = logging.getLogger("ws_support.origin")

_OPTIONS: Final = {
    "ALLOWED_ORIGINS": "allowed_origins",
    "ALLOWED_ORIGIN_REGEXES": "allowed_origin_regexes",
    "ALLOW_MISSING_ORIGIN": "allow_missing_origin",
}
REASONS: Final = {
    "missing": "The handshake has no Origin header.",
    "duplicate": "The handshake has more than one Origin header.",
    "malformed": "The Origin header is not a valid origin.",
    "not allowed": "This origin may not connect.",
}
ADVICE: Final = {
    "missing": 'To admit clients other than browsers, set WS_SUPPORT["ALLOW_MISSING_ORIGIN"].',
    "duplicate": 'Only "*" in WS_SUPPORT["ALLOWED_ORIGINS"] admits it.',
    "malformed": 'Only "*" in WS_SUPPORT["ALLOWED_ORIGINS"] admits it.',
    "not allowed": 'To admit it, add it to WS_SUPPORT["ALLOWED_ORIGINS"].',
}


class OriginValidator(ChannelsOriginValidator):
    """Refuses handshakes whose `Origin` is not allowed, with 403.

    Browsers do no CORS preflight for WebSockets: every page can open a socket to every server, with
    the user's cookies. But browsers send the origin of the page (RFC 6455, section 4.1), and this
    middleware checks it. A client that is not a browser can send any `Origin`, so the check
    protects your users from foreign pages, and is no authentication.

    The arguments replace the keys of `WS_SUPPORT` with the same names. Raises
    `ImproperlyConfigured` for an argument that cannot be used.
    """

    application: Any
    checks_origins = True  # For `manage.py check`, which looks for routes without it.

    def __init__(
        self,
        application: Any,
        allowed_origins: Collection[str] | FromSettings | None = FROM_SETTINGS,
        *,
        allowed_origin_regexes: Collection[str | Pattern[str]] | FromSettings = FROM_SETTINGS,
        allow_missing_origin: bool | FromSettings = FROM_SETTINGS,
    ) -> None:
        # The __init__ of Channels is not called: it would keep a second, fixed list of origins.
        self.application = application
        self._options = MiddlewareOptions(
            type(self).__name__,
            _OPTIONS,
            allowed_origins=allowed_origins,
            allowed_origin_regexes=allowed_origin_regexes,
            allow_missing_origin=allow_missing_origin,
        )
        self._compiled: tuple[Options, OriginRules] | None = None

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Any:  # The types of path() forbid None as the result.
        if scope["type"] != "websocket" or await self.admits(scope, receive, send):
            await self.application(scope, receive, send)

    async def admits(
        self, scope: WebSocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> bool:
        """Return True if the client may connect. Otherwise, answer the handshake with 403."""
        if rule := await self.failed_rule(scope):
            await refuse(
                scope,
                receive,
                send,
                status=HTTPStatus.FORBIDDEN,
                rule=rule,
                reason=REASONS[rule],
                logger=logger,
                advice=ADVICE[rule],
            )
        return rule is None

    async def is_allowed(self, origin: str, scope: WebSocketScope) -> bool:
        """Return True if a page of `origin` may connect, by default according to the settings.

        Override this to decide for each connection, for example by the domains of a tenant in a
        database. `origin` is what the client sent: `scheme://host[:port]`, `file://` or `"null"`.
        The method is not called for malformed, missing and duplicate headers, nor when every origin
        is allowed.
        """
        return self._rules().allows(origin)

    def valid_origin(self, parsed_origin: ParseResult | None) -> bool:
        """Return True if the origin may connect. This is the hook of Channels, with our rules."""
        if parsed_origin is None:
            return self._rules().everybody or self._options().allow_missing_origin
        return self._rules().allows(parsed_origin.geturl())

    async def failed_rule(self, scope: Any) -> str | None:
        """Return the rule that the `Origin` of a handshake or request breaks, or None."""
        if self._rules().everybody:
            return None
        origins = _logging.origins(scope)
        if not origins:
            return None if self._options().allow_missing_origin else "missing"
        if len(origins) > 1:
            return "duplicate"
        [origin] = origins
        if origin != "null" and parse_origin(origin) is None:
            return "malformed"
        return None if await self.is_allowed(origin, scope) else "not allowed"

    def _rules(self) -> OriginRules:
        options = self._options()
        if self._compiled is None or self._compiled[0] is not options:
            self._compiled = options, options.origin_rules()
        return self._compiled[1]
