"""Client results over processes: one asks, and the owner of the connection answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from ws_support._asyncio import to_the_end
from ws_support._hubs.connection import HubConnection
from ws_support._hubs.errors import HubException, PublishError
from ws_support._hubs.letters import Kind, Letter
from ws_support._hubs.messages import Completion, Undecoded
from ws_support._hubs.protocols import PROTOCOLS
from ws_support._hubs.protocols.base import HubProtocol, InvalidValue
from ws_support._topics.brokers import is_between_processes

_TAKEN_TIMEOUT: Final = 5.0
"""Seconds in which the owner of a connection has to answer."""

_TAKEN_HERE: Final = 0.1
"""The same for an owner in this process, in another event loop."""

_ALIVE_INTERVAL: Final = 10.0
"""Seconds between two signs of life of an owner that waits for a client."""

_SILENCE: Final = 25.0
"""Seconds after which an owner is taken for gone."""


class Calls:
    """Asks clients of other processes, and answers for those of this one.

    `open_mailbox` has letters for this process come in, `post` sends one to the owner of a
    connection, and `post_to_worker` to a worker.
    """

    def __init__(
        self,
        worker: str,
        open_mailbox: Callable[[], Awaitable[None]],
        post: Callable[[str, Letter], Awaitable[None]],
        post_to_worker: Callable[[str, Letter], Awaitable[None]],
    ) -> None:
        self._worker = worker
        self._open_mailbox = open_mailbox
        self._post = post
        self._post_to_worker = post_to_worker
        self._calls: dict[str, _Call] = {}
        self._answering: dict[str, asyncio.Task[None]] = {}
        """What waits here for clients, by the ids of the invocations."""
        self._count = 0

    @property
    def is_idle(self) -> bool:
        """True if no other process is being asked."""
        return not self._calls

    def next_id(self) -> str:
        """Return an id for an invocation of a client, which no other process uses."""
        self._count += 1
        return f"{self._worker}{self._count}"

    async def ask(self, connection_id: str, invocation_id: str, data: dict[str, bytes]) -> Answer:
        """Send an invocation, written in each protocol, and return the answer of the client.

        Raises `HubException` if there is no such client, or if it goes meanwhile.
        """
        letter = Letter(Kind.INVOKE, connection_id, self._worker, text=invocation_id, data=data)
        has_posted = False
        call = self._calls[invocation_id] = _Call()
        try:
            await self._open_mailbox()
            has_posted = True
            await self._post(connection_id, letter)
            timeout = _TAKEN_TIMEOUT if is_between_processes() else _TAKEN_HERE
            await asyncio.wait([call.taken], timeout=timeout)
            if not call.taken.done():
                raise HubException(f"Connection '{connection_id}' does not exist.")
            while not call.result.done():
                # The owner says now and then that it still waits for the client.
                call.is_alive = False
                await asyncio.wait([call.result], timeout=_SILENCE)
                if not call.result.done() and not call.is_alive:
                    raise HubException(f"Connection '{connection_id}' disconnected.")
            return _read_answer(invocation_id, call.result.result())
        finally:
            del self._calls[invocation_id]
            if has_posted and not call.result.done():
                # Cancelled, or given up: the owner would wait for its client, and say so, for ever.
                # Waited for, since the event loop of a command may end right after.
                await to_the_end(self._post_forget(connection_id, invocation_id))

    async def _post_forget(self, connection_id: str, invocation_id: str) -> None:
        with suppress(PublishError, TypeError):
            await self._post(connection_id, Letter(Kind.FORGET, connection_id, text=invocation_id))

    def note_answering(self, letter: Letter, task: asyncio.Task[None]) -> None:
        """Note what waits for a client, for a letter that says that nobody waits for that."""
        self._answering[letter.text] = task
        task.add_done_callback(lambda _: self._answering.pop(letter.text, None))

    def forget(self, letter: Letter) -> None:
        """Wait no longer for the answer of a client."""
        if (task := self._answering.get(letter.text)) is not None:
            task.cancel()

    def take(self, letter: Letter) -> bool:
        """Take a letter of an owner. Return False if nobody has been asked for that."""
        call = self._calls.get(letter.id)
        if call is None:
            return False
        call.take(letter)
        return True

    async def answer(self, connection: HubConnection, letter: Letter) -> None:
        """Invoke a method of a client for another process."""

        def answer(kind: Kind, **fields: Any) -> Any:
            return self._post_to_worker(letter.sender, Letter(kind, letter.text, **fields))

        async def stay_alive() -> None:
            while True:
                await asyncio.sleep(_ALIVE_INTERVAL)
                with suppress(PublishError):  # The next one may be taken.
                    await answer(Kind.TAKEN)

        await answer(Kind.TAKEN)
        alive = asyncio.create_task(stay_alive())
        try:
            invocation_id = letter.text
            protocol = connection.protocol
            completion = await connection.ask(invocation_id, letter.data[protocol.name])
        except HubException as error:
            await answer(Kind.RESULT, text=str(error))
        else:
            value = bytes(completion.result) if completion.has_result else b""
            if completion.error is not None:
                await answer(Kind.RESULT, text=completion.error)
            else:
                data = {protocol.name: value}
                await answer(Kind.RESULT, number=int(completion.has_result), data=data)
        finally:
            alive.cancel()


Answer = tuple[Completion, HubProtocol]
"""What a client has answered, and in which protocol."""


def result_of(answer: Answer, type_: Any) -> Any:
    """Return the answer of a client as a `type_`. Raises `HubException`."""
    completion, protocol = answer
    if completion.error is not None:
        raise HubException(completion.error)
    if not completion.has_result:
        return None
    try:
        return protocol.value(completion.result, type_)
    except InvalidValue as error:
        raise HubException(
            f"Error trying to deserialize result to {type_!r:.100}. {error}"
        ) from error


def _read_answer(invocation_id: str, letter: Letter) -> Answer:
    """Return what is in the answer of an owner. Raises `HubException` if that is an error."""
    if not letter.data:
        raise HubException(letter.text)
    [(name, value)] = letter.data.items()
    has_result = bool(letter.number)
    return Completion(invocation_id, Undecoded(value), has_result=has_result), PROTOCOLS[name]


class _Call:
    """A client result that another process has been asked for."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.taken: asyncio.Future[None] = loop.create_future()
        self.result: asyncio.Future[Letter] = loop.create_future()
        self.is_alive = False

    def take(self, letter: Letter) -> None:
        self.is_alive = True
        if not self.taken.done():
            self.taken.set_result(None)
        if letter.kind is Kind.RESULT and not self.result.done():
            self.result.set_result(letter)
