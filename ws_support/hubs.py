"""Hubs: remote procedure calls in both directions, as the clients of ASP.NET Core SignalR do them.

    class Chat(Hub):
        async def send_message(self, user: str, message: str) -> None:
            await self.clients.all.send("ReceiveMessage", user, message)

    application = HubRouter(application, {"chat": Chat})  # asgi.py

Pages use `hub.js` of this package, or Microsoft's client `@microsoft/signalr`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, Generic, Protocol

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler

try:
    import msgspec  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImproperlyConfigured(
        'Hubs need msgspec: pip install "django-ws-support[signalr]".'
    ) from error

from ws_support._connection.denial import refuse_path
from ws_support._hubs.authorization import authorize
from ws_support._hubs.clients import (
    Client,
    ClientProxy,
    HubCallerClients,
    HubCallerGroups,
    HubClients,
    HubGroups,
    SingleClientProxy,
)
from ws_support._hubs.connection import HubConnection
from ws_support._hubs.description import HubDescription
from ws_support._hubs.endpoint import Endpoint
from ws_support._hubs.ends import End
from ws_support._hubs.errors import HubException, PublishError
from ws_support._hubs.filters import HubFilter, HubInvocation
from ws_support._hubs.methods import hub_method_name
from ws_support._hubs.router import Router, has_sessions
from ws_support._hubs.topics import calls
from ws_support._hubs.topics.caller import HubCallerTopics
from ws_support._hubs.topics.calls import PublishOptions, SubscribeOptions
from ws_support._hubs.topics.watching import Difference
from ws_support.asgi import WebSocketSupport

__all__ = [
    "ClientProxy",
    "Hub",
    "HubCallerClients",
    "HubCallerGroups",
    "HubCallerTopics",
    "HubClients",
    "HubContext",
    "HubException",
    "HubFilter",
    "HubGroups",
    "HubInvocation",
    "HubOutside",
    "HubRouter",
    "PublishError",
    "SingleClientProxy",
    "TopicsHub",
    "authorize",
    "hub_context",
    "hub_method_name",
]


class HubContext:
    """What a hub knows of the connection that has called it."""

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection

    @property
    def connection_id(self) -> str:
        """The id of the connection, which other clients may know."""
        return self._connection.id

    @property
    def user(self) -> Any:
        """The user of Django's authentication. Raises `RuntimeError` without that."""
        try:
            return self.scope["user"]
        except KeyError:
            raise RuntimeError(
                "There is no user: django.contrib.auth and django.contrib.sessions have to be in"
                " INSTALLED_APPS."
            ) from None

    @property
    def user_identifier(self) -> str | None:
        """How `clients.user()` addresses the user: the primary key, or None for nobody."""
        return self._connection.user_identifier

    @property
    def items(self) -> dict[Any, Any]:
        """A dictionary for what should be remembered as long as the connection lives."""
        return self._connection.items

    @property
    def scope(self) -> Mapping[str, Any]:
        """The ASGI scope of the request that has begun the connection."""
        return self._connection.scope

    @property
    def transport(self) -> str:
        """The transport: "WebSockets", "ServerSentEvents" or "LongPolling"."""
        return self._connection.transport_name

    @property
    def is_aborted(self) -> bool:
        """True once the end of the connection is decided: what is sent to it is dropped."""
        return self._connection.is_ending

    def abort(self) -> None:
        """End the connection. Its client does not reconnect."""
        self._connection.end(End())


class Hub(Generic[Client]):
    """A class whose public methods clients may call. There is an instance for each call.

    `Hub[ChatClient]` says which methods the clients have, for type checkers: `ChatClient` is a
    `Protocol` class, and `self.clients.all` is one of those.

    Methods are coroutine functions, or asynchronous generators for streams. A plain function runs
    in the event loop, and must not wait for anything.
    """

    options: ClassVar[Mapping[str, Any]] = {}
    """Options of this hub, in place of those in `WS_SUPPORT["HUBS"]`, with the same keys."""

    filters: ClassVar[Sequence[HubFilter]] = ()
    """Filters around its methods, the outermost first."""

    _connection: HubConnection
    _clients: Any = None
    _groups: Any = None
    _topics: Any = None
    _context: Any = None

    # What a test sets in place of the real ones is used.

    @property
    def clients(self) -> HubCallerClients[Client]:
        """The clients, by selectors: `self.clients.all`, `.caller`, `.group("room")` and so on."""
        if self._clients is None:
            hub = description_of(type(self))
            self._clients = HubCallerClients(hub.manager, self._connection, hub.client_methods)
        return self._clients  # type: ignore[no-any-return]

    @clients.setter
    def clients(self, value: Any) -> None:
        self._clients = value

    @property
    def groups(self) -> HubCallerGroups:
        """The groups, to add connections and to remove them."""
        if self._groups is None:
            self._groups = HubCallerGroups(description_of(type(self)).manager, self._connection)
        return self._groups  # type: ignore[no-any-return]

    @groups.setter
    def groups(self, value: Any) -> None:
        self._groups = value

    @property
    def topics(self) -> HubCallerTopics:
        """The topics that the caller follows: what is broadcast under them goes to the client."""
        if self._topics is None:
            self._topics = HubCallerTopics(self._connection)
        return self._topics  # type: ignore[no-any-return]

    @topics.setter
    def topics(self, value: Any) -> None:
        self._topics = value

    @property
    def context(self) -> HubContext:
        """The connection of the caller."""
        if self._context is None:
            self._context = HubContext(self._connection)
        return self._context  # type: ignore[no-any-return]

    @context.setter
    def context(self, value: Any) -> None:
        self._context = value

    async def on_connected(self) -> None:
        """Called when a client has connected, before the first of its calls."""

    async def on_disconnected(self, error: Exception | None) -> None:
        """Called once when a connection is over, if `on_connected()` has returned.

        `error` is None for an end that somebody wanted, and for a connection that was lost.
        """

    @classmethod
    def get_user_identifier(cls, user: Any) -> str | None:
        """Return how `clients.user()` addresses a user: the primary key, as a text.

        Return None for a user who is not authenticated, or where there is no authentication.
        """
        if user is None or not user.is_authenticated:
            return None
        return str(user.pk)


class TopicsClient(Protocol):
    """What `TopicsHub` calls in its clients."""

    async def message(self, name: str, position: str | None, data: Any) -> None: ...
    async def snapshot(self, name: str, position: str | None, state: Any) -> None: ...
    async def gap(self, name: str, position: str) -> None: ...
    async def presence(self, name: str, difference: Difference) -> None: ...


class TopicsHub(Hub[TopicsClient]):
    """The hub through which pages subscribe to topics with rules::

        application = HubRouter(application, {"topics": TopicsHub})

    Pages use `topics.js`. The rules are those of `ws_support.topics`. What clients may call, and
    what they are sent, is in docs/reference/topics-hub.md. A subclass may add `options`, `filters`
    and methods.
    """

    options: ClassVar[Mapping[str, Any]] = {"MAXIMUM_PARALLEL_INVOCATIONS_PER_CLIENT": 1}

    async def subscribe(self, name: str, options: SubscribeOptions | None) -> calls.Subscribed:
        """Subscribe the client to a topic, if its rules or a token allow that."""
        return await calls.subscribe(self._connection, name, options or SubscribeOptions())

    async def unsubscribe(self, name: str) -> None:
        """End a subscription."""
        await calls.unsubscribe(self._connection, name)

    async def publish(self, name: str, data: Any, options: PublishOptions | None) -> str | None:
        """Broadcast what the client says, if the rules of the topic allow that."""
        return await calls.publish(self._connection, name, data, options or PublishOptions())

    async def history(self, name: str, since: str | None, limit: int | None) -> calls.KeptMessages:
        """Return what the history of a topic has."""
        return await calls.history(self._connection, name, since, limit)

    async def members(self, name: str) -> calls.MembersPresent:
        """Return who is present under a topic."""
        return await calls.members(self._connection, name)


class HubOutside(Generic[Client]):
    """A hub as the rest of the project sees it: views, tasks, management commands."""

    def __init__(self, description: HubDescription) -> None:
        self.clients: HubClients[Client] = HubClients(
            description.manager, description.client_methods
        )
        """The clients, by selectors."""
        self.groups = HubGroups(description.manager)
        """The groups, to add connections and to remove them."""


def hub_context(hub: type[Hub[Client]]) -> HubOutside[Client]:
    """Return the clients and groups of a hub, for code that is not called by a client::

        await hub_context(Chat).clients.group("room").send("ReceiveMessage", "system", "hello")

    Any asynchronous code of any process may do that. Synchronous code uses `async_to_sync()`.
    """
    return HubOutside(description_of(hub))


_DESCRIPTION: Final = "_description"


def description_of(hub: type[Any]) -> HubDescription:
    """Return the description of a hub, the same at each call."""
    if not (isinstance(hub, type) and issubclass(hub, Hub)) or hub is Hub:
        raise ImproperlyConfigured(f"{hub!r} is no subclass of Hub.")
    description: HubDescription | None = hub.__dict__.get(_DESCRIPTION)
    if description is None:
        description = HubDescription(hub, Hub, HubContext)
        setattr(hub, _DESCRIPTION, description)
    return description


class HubRouter:
    """Puts hubs in front of the rest of your ASGI application, in one line of asgi.py::

        application = HubRouter(application, {"chat": Chat, "rooms/<str:room>": Room})

    The keys are paths as `path()` takes them. What they have found is in
    `self.context.scope["url_route"]["kwargs"]`. WebSockets and requests at such a path, and at
    `/negotiate` below, go to the hub, after a check of host and origin; everything else goes to
    `application`.

    `middleware` is called with an ASGI application and puts around it what finds the user. By
    default, that is `AuthMiddlewareStack` of Channels where django.contrib.auth is installed.

    `authenticate`, a function or a coroutine function, returns the user of a bearer token, or None
    for a token that is not valid. A client sends its token with negotiate, and gets a ticket for
    it, so that the token stands in no URL and no log. `get_user` returns the user with a primary
    key; by default, the active user of AUTH_USER_MODEL.

    Raises `ImproperlyConfigured` for a hub or a path that cannot be used, so that no server starts
    with it.
    """

    def __init__(
        self,
        application: Any,
        hubs: Mapping[str, type[Hub[Any]]],
        *,
        middleware: Callable[[Any], Any] | None = None,
        authenticate: Callable[[str], Any] | None = None,
        get_user: Callable[[str], Any] | None = None,
    ) -> None:
        self.application = application
        if not isinstance(hubs, Mapping):
            raise ImproperlyConfigured(
                f"HubRouter takes an application, and a dictionary of paths and hubs: got {hubs!r},"
                ' write HubRouter(application, {"chat": Chat}).'
            )
        for name, given in (("authenticate", authenticate), ("get_user", get_user)):
            if given is not None and not callable(given):
                raise ImproperlyConfigured(f"{name} of HubRouter is a function, not {given!r}.")
        endpoints = {}
        self.without_users: list[str] = []
        """The hubs with authorize() for which nothing here finds users."""
        finds_users = middleware is not None or authenticate is not None or has_sessions()
        for route, hub in hubs.items():
            description = description_of(hub)
            if description.needs_users and not finds_users:
                self.without_users.append(hub.__qualname__)
            endpoints[route] = Endpoint(description, description.manager)
        # Their own signs of life do for clients of hubs.
        guard = partial(WebSocketSupport, heartbeat_interval=None)
        self._router = Router(endpoints, middleware, guard, authenticate, get_user)
        for hub in hubs.values():
            description_of(hub).serve_here = self._router.serve_forwarded

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        if await self._router.serve(scope, receive, send):
            return
        if self._router.is_lost(scope):
            send = self._router.explaining(scope, send)
        if scope["type"] == "websocket" and _is_of_django(self.application):
            # It would raise, and any client could fill the log with tracebacks.
            await refuse_path(scope, receive, send)
        else:
            await self.application(scope, receive, send)


def _is_of_django(application: Any) -> bool:
    """Return True for the application of Django itself, which knows no WebSockets."""
    if isinstance(application, ASGIStaticFilesHandler):
        return _is_of_django(application.application)
    return isinstance(application, ASGIHandler)
