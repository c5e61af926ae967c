"""The description of a hub: what its class says about methods, options and users."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ws_support._asyncio import PerLoop
from ws_support._hub_options import HubOptions, checked_options, with_options
from ws_support._hubs import filters
from ws_support._hubs.authorization import refusal, requirements_of
from ws_support._hubs.connection import HubConnection
from ws_support._hubs.filters import HubFilter
from ws_support._hubs.manager import HubManager
from ws_support._hubs.methods import HubMethod, client_methods, client_of, methods_of
from ws_support.conf import get_options


class HubDescription:
    """Everything that the server knows of a subclass of `Hub`.

    Raises `ImproperlyConfigured` for methods and options that cannot be used.
    """

    def __init__(self, hub: type[Any], base: type[Any], context: Callable[[Any], Any]) -> None:
        self.hub = hub
        self.name = f"{hub.__module__}.{hub.__qualname__}"
        self.methods: Mapping[str, HubMethod] = methods_of(hub, base)
        self.client_methods = client_methods(client_of(hub, base))
        _check_init(hub)
        self._own_options = checked_options(f"{self.name}.options", hub.options)
        self._filters: tuple[HubFilter, ...] = _checked(hub.filters, self.name)
        self.filtered: Callable[[HubMethod, Any, Sequence[Any]], Any] | None = None
        """What calls a method through the filters; None if there are none."""
        if self._filters:
            self.filtered = self._invoke
        self._options: tuple[HubOptions, HubOptions] | None = None
        self._context = context
        self._requirements = requirements_of(hub)
        self._is_guarded = any(requirements_of(each.function) for each in self.methods.values())
        self.needs_users = bool(self._requirements) or self._is_guarded
        """True if only users may use it, or one of its methods."""
        self._managers = PerLoop(self._new_manager)
        self.serve_here: Callable[[Any, Any, Any], Awaitable[None]] | None = None
        """What answers requests that other processes forward: the router sets it."""

    def _new_manager(self) -> HubManager:
        return HubManager(self)

    def manager(self) -> HubManager:
        """Return the manager of the running event loop."""
        return self._managers.get()

    async def serve_forwarded(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request that another process has got."""
        if self.serve_here is not None:
            await self.serve_here(scope, receive, send)

    @property
    def options(self) -> HubOptions:
        """The options of the settings, and those of the hub in their place."""
        base = get_options().hubs
        if self._options is None or self._options[0] is not base:
            self._options = base, with_options(base, self._own_options)
        return self._options[1]

    def user_identifier(self, scope: Mapping[str, Any]) -> str | None:
        """Return how the user of a connection is addressed; None for nobody."""
        identifier: str | None = self.hub.get_user_identifier(scope.get("user"))
        return identifier

    async def refuses(self, scope: Mapping[str, Any]) -> HTTPStatus | None:
        """Return the status for a client that may not use the hub, or None."""
        if not self._requirements:
            return None
        return await refusal(self._requirements, _user(scope), _Request(scope))

    def maker(self, connection: HubConnection) -> Callable[[], Any]:
        """Return a function that makes an instance of the hub for one invocation."""
        return partial(_new, self.hub, connection)

    def checker(self, connection: HubConnection) -> Callable[[HubMethod], Awaitable[bool]] | None:
        """Return a function that says if the user may call a method, or None if all may."""
        if not self._is_guarded:
            return None
        context = self._context(connection)

        async def may_invoke(method: HubMethod) -> bool:
            requirements = requirements_of(method.function)
            return not requirements or not await refusal(
                requirements, _user(connection.scope), context
            )

        return may_invoke

    def _invoke(self, method: HubMethod, hub: Any, arguments: Sequence[Any]) -> Any:
        return filters.invoke(self._filters, method.function, hub, arguments)

    async def on_connected(self, connection: HubConnection) -> None:
        await filters.connect(self._filters, self.maker(connection)())

    async def on_disconnected(self, connection: HubConnection, error: Exception | None) -> None:
        await filters.disconnect(self._filters, self.maker(connection)(), error)


def _check_init(hub: type[Any]) -> None:
    try:
        inspect.signature(hub).bind()
    except TypeError:
        raise ImproperlyConfigured(
            f"{hub.__qualname__}() has to take no arguments: there is an instance for each call."
        ) from None


def _new(hub: type[Any], connection: HubConnection) -> Any:
    instance = hub()
    instance._connection = connection
    return instance


def _checked(given: Any, name: str) -> tuple[HubFilter, ...]:
    if not isinstance(given, Sequence):
        raise ImproperlyConfigured(f"{name}.filters has to be a list, not {given!r}.")
    for each in given:
        if not isinstance(each, HubFilter):
            raise ImproperlyConfigured(
                f"{name}.filters holds {each!r}, which is no HubFilter. Write instances:"
                " filters = [Timing()]."
            )
    return tuple(given)


class _Request:
    """The context of a request, before there is a connection."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.scope = scope

    @property
    def user(self) -> Any:
        return _user(self.scope)


def _user(scope: Mapping[str, Any]) -> Any:
    try:
        return scope["user"]
    except KeyError:
        raise RuntimeError(
            "There is no user: a hub with authorize() needs django.contrib.auth and"
            " django.contrib.sessions in INSTALLED_APPS, or a middleware of your own that sets"
            ' scope["user"].'
        ) from None
