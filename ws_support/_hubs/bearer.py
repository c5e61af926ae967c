"""Bearer tokens: who sends one, and what stands in URLs in its place.

Browsers cannot send headers with a WebSocket or an event stream, so clients put their token into
the URL, and URLs get into logs. Therefore negotiate answers a client that has a token with a
redirect to itself and with a *ticket*, which every client uses from then on instead of its token. A
ticket opens one connection, soon, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from inspect import iscoroutinefunction
from typing import Any, Final

from asgiref.sync import sync_to_async

from ws_support._hubs.responses import header, query_of
from ws_support._hubs.tokens import Ticket, read_ticket

TICKET: Final = "ws_support.hub_ticket"
"""The key in the scope for the ticket of a client."""

IS_BEARER: Final = "ws_support.hub_is_bearer"
"""The key in the scope of a client that has sent a token of the project."""

Refuse = Callable[[Any, Any, Any, HTTPStatus], Any]


class BearerAuthentication:
    """Finds the user of a bearer token, and goes on without one where there is none.

    `authenticate` returns the user of a token, or None; `get_user` the user with a primary key.
    `hub_of` returns the name of the hub that a scope is for, and `refuse` answers a request.
    """

    def __init__(
        self,
        application: Any,
        authenticate: Callable[[str], Any],
        get_user: Callable[[str], Any],
        hub_of: Callable[[Any], str],
        refuse: Refuse,
    ) -> None:
        self.application = application
        self._authenticate = _asynchronous(authenticate)
        self._get_user = _asynchronous(get_user)
        self._hub_of = hub_of
        self._refuse = refuse

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        text = _token_of(scope)
        if text is None:
            if "user" not in scope:
                scope = {**scope, "user": None}
        else:
            ticket = read_ticket(text, self._hub_of(scope))
            if ticket is None:
                user = await self._authenticate(text)
                if isinstance(user, (str, bytes, int, dict)):  # Such as a name, or True.
                    raise TypeError(
                        "authenticate of HubRouter returns a user, or None: got"
                        f" {type(user).__name__}."
                    )
                scope = {**scope, "user": user, IS_BEARER: True}
            else:
                user = await self._get_user(ticket.user)
                scope = {**scope, "user": user, TICKET: ticket}
            if user is None:
                await self._refuse(scope, receive, send, HTTPStatus.UNAUTHORIZED)
                return
        await self.application(scope, receive, send)


def ticket_of(scope: Any) -> Ticket | None:
    """Return the ticket of a client, which opens one connection only."""
    ticket: Ticket | None = scope.get(TICKET)
    return ticket


def sends_unread_token(scope: Any) -> bool:
    """Return True for a client with a token that nothing reads."""
    return scope.get(TICKET) is None and not has_token(scope) and _token_of(scope) is not None


def has_token(scope: Any) -> bool:
    """Return True for a client that should get a ticket in place of its token."""
    return scope.get(IS_BEARER, False) is True


def _token_of(scope: Any) -> str | None:
    """Return the token of a client: that of the header counts first, as in .NET."""
    scheme, _, text = (header(scope, b"authorization") or b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    return query_of(scope).get("access_token") or None


async def find_user(identifier: str) -> Any:
    """Return the active user of Django with a primary key, or None."""
    from django.contrib.auth import get_user_model

    user = await get_user_model()._default_manager.filter(pk=identifier).afirst()
    return user if user is not None and user.is_active else None


def _asynchronous(function: Callable[[str], Any]) -> Callable[[str], Any]:
    if iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        return function
    return sync_to_async(function)
