"""Who gets a message: the selectors of a hub, and the proxies that they return."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from ws_support._hubs.connection import HubConnection
from ws_support._hubs.errors import NoAnswer
from ws_support._hubs.manager import HubManager
from ws_support._hubs.methods import ClientMethod, pascal_case

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    # With the default, `class Chat(Hub)` is complete also for type checkers that are strict.
    Client = TypeVarWithDefault("Client", default=Any)
else:
    Client = TypeVar("Client")
"""A Protocol class whose methods the clients of a hub have."""

Answer = TypeVar("Answer")


class ClientProxy:
    """Invokes methods of clients, which are chosen by a selector.

    Methods that a client class has may be called by name: `receive_message()` invokes
    `ReceiveMessage`. Other names raise `AttributeError`, and arguments that do not fit `TypeError`.
    Those with the type of an answer, `-> str`, ask one client: they raise what
    `SingleClientProxy.invoke()` does, and `TypeError` for several clients.
    """

    def __init__(
        self, send: Callable[[str, list[Any]], Any], methods: Mapping[str, ClientMethod]
    ) -> None:
        self._send = send
        self._methods = methods

    async def send(self, method: str, /, *arguments: Any) -> None:
        """Invoke `method` on the clients, and do not wait for them.

        Raises `ValueError` for arguments that cannot be sent, and `PublishError` when the broker
        between the processes does not take the message.
        """
        await self._send(_checked(method), list(arguments))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        if name == "invoke":
            raise AttributeError(
                "Only one client can be asked: write clients.caller or clients.client(id) before"
                " invoke()."
            )

        method = self._methods.get(name)
        if method is None:
            if self._methods:
                raise AttributeError(
                    f"The class of the clients has no method {name}: it has"
                    f" {', '.join(self._methods)}."
                )
            method = ClientMethod(pascal_case(name))

        async def call(*arguments: Any, **named: Any) -> Any:
            return await self._call(method, method.arrange(arguments, named))

        return call

    async def _call(self, method: ClientMethod, arguments: list[Any]) -> Any:
        if method.result is not None:
            raise TypeError(
                f"{method.name} has an answer, and only one client can be asked: write"
                " clients.caller or clients.client(id)."
            )
        await self._send(method.name, arguments)


class SingleClientProxy(ClientProxy):
    """Invokes methods of one client, which may answer."""

    def __init__(
        self,
        send: Callable[[str, list[Any]], Any],
        methods: Mapping[str, ClientMethod],
        invoke: Callable[[str, list[Any], Any], Any],
        before_invoke: Callable[[], None],
    ) -> None:
        super().__init__(send, methods)
        self._invoke = invoke
        self._before_invoke = before_invoke

    @overload
    async def invoke(
        self, type_: type[Answer], method: str, /, *arguments: Any, timeout: float | None = None
    ) -> Answer: ...

    @overload
    async def invoke(
        self, type_: Any, method: str, /, *arguments: Any, timeout: float | None = None
    ) -> Any: ...

    async def invoke(
        self, type_: Any, method: str, /, *arguments: Any, timeout: float | None = None
    ) -> Any:
        """Invoke `method` on the client, and return its answer as a `type_`.

        Raises `HubException` with the error of the client, or if the client is not there or goes
        meanwhile or answers with another type, and `asyncio.TimeoutError` after `timeout` seconds.
        """
        if isinstance(type_, str):
            raise TypeError(
                f"The first argument of invoke() is the type of the answer, not {type_!r}: write"
                ' invoke(str, "Method").'
            )
        self._before_invoke()  # Here, since wait_for() makes a task.
        asking = self._invoke(_checked(method), list(arguments), type_)
        try:
            return await asyncio.wait_for(asking, timeout)
        except asyncio.TimeoutError:
            if timeout is None:
                raise
            raise NoAnswer(f"The client has not answered within {timeout} s.") from None

    async def _call(self, method: ClientMethod, arguments: list[Any]) -> Any:
        if method.result is None:
            await self._send(method.name, arguments)
            return None
        return await self.invoke(method.result, method.name, *arguments)


class HubClients(Generic[Client]):
    """The clients of a hub, in all processes."""

    def __init__(
        self, manager: Callable[[], HubManager], methods: Mapping[str, ClientMethod] | None = None
    ) -> None:
        self._manager = manager
        self._methods = methods or {}

    @property
    def all(self) -> Client:
        """All clients."""
        return self.all_except([])

    def all_except(self, ids: Collection[str]) -> Client:
        """All clients but those with these connection ids."""
        return self._of(lambda manager: [manager.topic_of_all], ids)

    def client(self, connection_id: str) -> Client:
        """The client with a connection id. If there is none (any more), nothing is sent."""

        async def send(target: str, arguments: list[Any]) -> None:
            await self._manager().send_to([connection_id], target, arguments)

        async def invoke(target: str, arguments: list[Any], type_: Any) -> Any:
            return await self._manager().invoke(connection_id, target, arguments, type_)

        return cast(Client, SingleClientProxy(send, self._methods, invoke, self._before_invoke))

    def clients(self, ids: Iterable[str]) -> Client:
        """The clients with these connection ids."""
        chosen = _several(ids, "ids")

        async def send(target: str, arguments: list[Any]) -> None:
            await self._manager().send_to(chosen, target, arguments)

        return cast(Client, ClientProxy(send, self._methods))

    def group(self, name: str) -> Client:
        """The clients of a group."""
        return self.group_except(name, [])

    def groups(self, names: Iterable[str]) -> Client:
        """The clients of several groups. A client that is in two of them gets a message twice."""
        chosen = _several(names, "names")
        return self._of(lambda manager: [manager.topic_of_group(each) for each in chosen])

    def group_except(self, name: str, ids: Collection[str]) -> Client:
        """The clients of a group but those with these connection ids."""
        return self._of(lambda manager: [manager.topic_of_group(name)], ids)

    def user(self, identifier: Any) -> Client:
        """All connections of a user.

        The identifier is what `get_user_identifier()` of the hub returns: by default the primary
        key, also if it is no text. Raises `TypeError` for a user.
        """
        return self.users((identifier,))

    def users(self, identifiers: Iterable[Any]) -> Client:
        """All connections of several users."""
        chosen = [_identifier(each) for each in _several(identifiers, "identifiers")]
        return self._of(lambda manager: [manager.topic_of_user(each) for each in chosen])

    def _of(
        self, topics: Callable[[HubManager], list[str]], excluded: Collection[str] = ()
    ) -> Client:
        left_out = _several(excluded, "ids")

        async def send(target: str, arguments: list[Any]) -> None:
            manager = self._manager()
            await manager.publish(topics(manager), target, arguments, left_out)

        return cast(Client, ClientProxy(send, self._methods))

    def _before_invoke(self) -> None:
        pass


class HubCallerClients(HubClients[Client]):
    """The clients of a hub, as one of them sees them."""

    def __init__(
        self,
        manager: Callable[[], HubManager],
        connection: HubConnection,
        methods: Mapping[str, ClientMethod] | None = None,
    ) -> None:
        super().__init__(manager, methods)
        self._connection = connection

    @property
    def caller(self) -> Client:
        """The client that has called the method."""
        connection = self._connection

        async def send(target: str, arguments: list[Any]) -> None:
            await connection.send_invocation(target, arguments)

        async def invoke(target: str, arguments: list[Any], type_: Any) -> Any:
            return await self._manager().invoke(connection.id, target, arguments, type_)

        return cast(Client, SingleClientProxy(send, self._methods, invoke, self._before_invoke))

    @property
    def others(self) -> Client:
        """All clients but the caller."""
        return self.all_except([self._connection.id])

    def others_in_group(self, name: str) -> Client:
        """The clients of a group but the caller."""
        return self.group_except(name, [self._connection.id])

    def _before_invoke(self) -> None:
        # The answer may be behind the next invocation of this client.
        self._connection.release_slot()


class HubGroups:
    """The groups of a hub. A connection leaves all of them at its end."""

    def __init__(self, manager: Callable[[], HubManager]) -> None:
        self._manager = manager

    async def add(self, name: str, connection_id: str) -> None:
        """Add a connection to a group, here or in another process.

        For a connection in this process, what is sent to the group after the return gets to it. One
        that does not exist (any more) is ignored.
        """
        await self._manager().add_to_group(connection_id, name)

    async def remove(self, name: str, connection_id: str) -> None:
        """Remove a connection from a group, here or in another process."""
        await self._manager().remove_from_group(connection_id, name)


class HubCallerGroups(HubGroups):
    """The groups of a hub, by default for the caller."""

    def __init__(self, manager: Callable[[], HubManager], connection: HubConnection) -> None:
        super().__init__(manager)
        self._connection = connection

    async def add(self, name: str, connection_id: str | None = None) -> None:
        """Add the caller, or the connection with that id, to a group."""
        await super().add(name, connection_id or self._connection.id)

    async def remove(self, name: str, connection_id: str | None = None) -> None:
        """Remove the caller, or the connection with that id, from a group."""
        await super().remove(name, connection_id or self._connection.id)


def _identifier(given: Any) -> str:
    if hasattr(given, "is_authenticated"):
        raise TypeError(
            "clients.user() takes the identifier of a user, not a user: write"
            " clients.user(user.pk), or what get_user_identifier() of the hub returns."
        )
    return str(given)


def _checked(method: object) -> str:
    if not isinstance(method, str) or not method:
        raise TypeError(f"The name of a client's method is a text: got {method!r:.100}.")
    return method


def _several(given: Iterable[str], name: str) -> list[str]:
    """Return a list of texts. A single text is a mistake: each letter would be one."""
    if isinstance(given, str):
        raise TypeError(f"{name} has to be a list of strings: got {given!r:.100}.")
    return list(given)
