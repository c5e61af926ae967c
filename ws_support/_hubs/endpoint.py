"""The endpoint of a hub: what each request and each WebSocket at its path does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

from ws_support._connection import denial
from ws_support._connection.registry import REASON, open_connections
from ws_support._hubs import responses, tokens
from ws_support._hubs.bearer import has_token, sends_unread_token, ticket_of
from ws_support._hubs.connection import HubConnection
from ws_support._hubs.errors import PublishError
from ws_support._hubs.forwarding import RETURN
from ws_support._hubs.manager import HubManager
from ws_support._hubs.responses import Headers, answer, cors_headers, header, query_of
from ws_support._hubs.transports.long_polling import LongPollingTransport
from ws_support._hubs.transports.sse import EventStreamTransport
from ws_support._hubs.transports.websockets import WebSocketTransport
from ws_support._topics.brokers import is_between_processes

logger = logging.getLogger("ws_support.hubs")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_FORMATS: Final = {
    "WebSockets": ["Text", "Binary"],
    "ServerSentEvents": ["Text"],
    "LongPolling": ["Text", "Binary"],
}

_UNKNOWN: Final = "No Connection with that ID"
_NO_ID: Final = "Connection ID required"
_ADVICE: Final = {
    HTTPStatus.UNAUTHORIZED: "The hub has authorize(), and the client has no session or token of a"
    " user, or a ticket that is used or too old.",
    HTTPStatus.FORBIDDEN: "The user does not pass authorize() of the hub.",
}
"""What the log says of a client that is refused."""

_CHANGED: Final = "Cannot change transports mid-connection"

_MOST_POSTS: Final = 32
"""Requests with bytes of one client that take their turns. Microsoft's clients send one at a time;
those that were broken off while they wait are not noticed before their turn."""


class Endpoint:
    """Answers the requests of one hub. `manager` returns its manager in the running event loop.

    The source is HttpConnectionDispatcher.cs of ASP.NET Core. Origins, hosts and users have been
    checked before.
    """

    def __init__(self, hub: Any, manager: Callable[[], HubManager]) -> None:
        self._hub = hub
        self._manager = manager
        self.name: str = hub.name

    # WebSockets

    async def websocket(self, scope: Any, receive: Receive, send: Send) -> None:
        """Carry a connection over the WebSocket of this handshake, or refuse it."""
        manager = self._manager()
        text = query_of(scope).get("id")
        status, reason = HTTPStatus.OK, ""
        id_ = tokens.new_id(manager.worker)
        token = None if text is None else tokens.read_token(text, self._hub.name)
        resumed = first = None
        if "WebSockets" not in manager.options.transports:
            status, reason = HTTPStatus.NOT_FOUND, _not_supported("WebSockets")
        elif refused := await self._refusal(scope, token):
            status, reason = refused, ""
        elif text is not None:
            found = None if token is None else manager.connections.get(_id_of(token, text))
            if (
                token is not None
                and token.is_stateful
                and token.worker != manager.worker
                and found is None
            ):
                if (first := await receive())["type"] != "websocket.connect":
                    return  # pragma: no cover  # The client has gone.
                if await self._forward(token, scope, first, receive, send):
                    return
                found = manager.connections.get(_id_of(token, text))
            if found is not None and found.is_resumable:
                resumed = found
            elif found is not None and not found.is_ending:
                status, reason = _taken(found, "WebSockets")
            elif token is None or found or not self._is_fresh(manager, token, text):
                status, reason = HTTPStatus.NOT_FOUND, _UNKNOWN
            else:
                id_ = _id_of(token, text)
        if status is not HTTPStatus.OK:
            await denial.refuse(
                scope,
                receive if first is None else _again(first, receive),
                send,
                status=status,
                rule="hub",
                reason=reason or status.phrase,
                logger=logger,
                advice=_advice(status, scope),
            )
            return
        if resumed is not None:
            if first is None and (await receive())["type"] != "websocket.connect":
                return  # pragma: no cover  # The client has gone.
            if resumed.is_resumable:
                await WebSocketTransport(resumed, scope, receive, send).run()
            else:  # It has ended meanwhile: a forwarded request comes in pieces.
                await denial.answer(scope, send, HTTPStatus.NOT_FOUND, _UNKNOWN)
            return
        # Before the next wait: a second handshake may have come with the same token.
        connection = manager.create(
            id_, scope, "WebSockets", may_resume=token is not None and token.is_stateful
        )
        if first is None and (await receive())["type"] != "websocket.connect":
            connection.lost()
            await connection.wait_closed()
            return
        if connection.is_ending:  # The server stops, or this has taken too long.
            await denial.answer(scope, send, HTTPStatus.NOT_FOUND, _UNKNOWN)
            return
        await WebSocketTransport(connection, scope, receive, send).run()

    def _is_fresh(self, manager: HubManager, token: tokens.Token, text: str) -> bool:
        """Return True if a connection may begin with `token`, or has."""
        if manager.is_used(_id_of(token, text)):
            return False
        # The clock of the machine that has signed it may be ahead.
        return abs(token.age) <= manager.options.disconnect_timeout

    # HTTP

    async def negotiate(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer `POST /negotiate`: how to connect, and a token for it."""
        cors = cors_headers(scope)
        if scope["method"] == "OPTIONS":
            await responses.answer_preflight(scope, send)
            return
        if scope["method"] != "POST":
            await answer(send, HTTPStatus.METHOD_NOT_ALLOWED, headers=cors)
            return
        if open_connections.is_draining:
            await answer(send, HTTPStatus.SERVICE_UNAVAILABLE, REASON, headers=cors)
            return
        if status := await self._hub.refuses(scope):
            await _refuse(scope, send, status, cors)
            return
        if has_token(scope):
            await self._open_mailbox(2 * self._manager().options.disconnect_timeout)
            await answer(
                send,
                HTTPStatus.OK,
                json.dumps(self._redirect(scope)),
                content_type=responses.JSON,
                headers=cors,
            )
            return
        ticket = ticket_of(scope)
        manager = self._manager()
        if ticket is not None and not self._is_fresh_ticket(ticket):
            await _refuse(scope, send, HTTPStatus.UNAUTHORIZED, cors)
            return
        await self._open_mailbox(manager.options.disconnect_timeout)
        id_ = tokens.new_id(manager.worker) if ticket is None else ticket.id
        body = json.dumps(self._offer(query_of(scope), id_))
        await answer(send, HTTPStatus.OK, body, content_type=responses.JSON, headers=cors)

    async def _open_mailbox(self, seconds: float) -> None:
        """Let a connection begin that is offered now: its first request may come elsewhere."""
        if is_between_processes():
            await self._manager().open_mailbox(seconds + 1)

    def _redirect(self, scope: Any) -> dict[str, Any]:
        """Return the body that sends a client here once more, with a ticket for its token."""
        user = scope["user"]
        ticket = tokens.new_ticket(tokens.new_id(self._manager().worker), str(user.pk))
        return {"url": responses.own_url(scope), "accessToken": ticket.sign(self._hub.name)}

    def _is_fresh_ticket(self, ticket: tokens.Ticket) -> bool:
        """Return True if a connection may begin with `ticket`."""
        manager = self._manager()
        is_used = manager.is_used(ticket.id)
        return abs(ticket.age) <= 2 * manager.options.disconnect_timeout and not is_used

    def _opens(self, ticket: tokens.Ticket, token: tokens.Token | None) -> bool:
        """Return True if a ticket opens the connection of a token.

        For the connection that it has opened it is good as long as that lives.
        """
        if token is None or ticket.id != token.id:
            return False
        manager = self._manager()
        is_owned_elsewhere = token.is_stateful and token.worker != manager.worker
        return (
            is_owned_elsewhere or ticket.id in manager.connections or self._is_fresh_ticket(ticket)
        )

    async def _refusal(self, scope: Any, token: tokens.Token | None) -> HTTPStatus | None:
        """Return the status for a client that may not begin a connection, or None."""
        ticket = ticket_of(scope)
        if ticket is not None and not self._opens(ticket, token):
            return HTTPStatus.UNAUTHORIZED
        refused: HTTPStatus | None = await self._hub.refuses(scope)
        return refused

    def _offer(self, query: dict[str, str], connection_id: str) -> dict[str, Any]:
        """Return the body of the answer to negotiate."""
        options = self._manager().options
        try:
            version = int(query.get("negotiateversion") or 0)
        except ValueError:
            return {"error": "The client requested a non-integer protocol version."}
        if version < options.minimum_protocol_version:
            return {
                "error": f"The client requested version '{version}', but the server does not"
                " support this version."
            }
        version = min(version, 1)
        is_stateful = (
            options.allow_stateful_reconnects
            and version == 1
            and query.get("usestatefulreconnect", "").lower() == "true"
        )
        token = tokens.new_token(connection_id, is_old=version == 0, is_stateful=is_stateful)
        text = token.sign(self._hub.name)
        offer = {"negotiateVersion": version, "connectionId": _id_of(token, text)}
        if version:
            offer["connectionToken"] = text
        offer["availableTransports"] = [
            {"transport": name, "transferFormats": formats}
            for name, formats in _FORMATS.items()
            if name in options.transports
        ]
        if is_stateful:
            offer["useStatefulReconnect"] = True
        return offer

    async def request(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request at the path of the hub itself."""
        method = scope["method"]
        cors = cors_headers(scope)
        if method == "OPTIONS":
            await responses.answer_preflight(scope, send)
        elif method not in ("GET", "POST", "DELETE"):
            await answer(send, HTTPStatus.METHOD_NOT_ALLOWED, headers=cors)
        elif not (text := query_of(scope).get("id")):
            await answer(send, HTTPStatus.BAD_REQUEST, _NO_ID, headers=cors)
        elif (token := self._is_elsewhere(text)) is not None:
            first = await _first(receive)
            if first is not None and not await self._forward(token, scope, first, receive, send):
                await answer(send, HTTPStatus.NOT_FOUND, _UNKNOWN, headers=cors)
        elif method == "GET" and header(scope, b"accept") == b"text/event-stream":
            await self._stream(text, scope, receive, send, cors)
        elif method == "GET":
            await self._poll(text, scope, receive, send, cors)
        elif method == "POST":
            await self._post(text, scope, receive, send, cors)
        else:
            await self._delete(text, send, cors)

    def _is_elsewhere(self, text: str) -> tokens.Token | None:
        """Return the token if another process owns its connection, else None."""
        token = tokens.read_token(text, self._hub.name)
        if token is None or token.worker == self._manager().worker:
            return None
        return None if _id_of(token, text) in self._manager().connections else token

    def is_known(self, scope: Any) -> bool:
        """Return True if a request is for a connection that has begun: its token is enough."""
        text = query_of(scope).get("id")
        if text is None:
            return False
        token = tokens.read_token(text, self._hub.name)
        return token is not None and (
            token.worker != self._manager().worker
            or _id_of(token, text) in self._manager().connections
        )

    async def _forward(
        self, token: tokens.Token, scope: Any, first: Any, receive: Any, send: Any
    ) -> bool:
        """Let the owner of a connection answer. Return False if there is none."""
        try:
            return await self._manager().forward(token, scope, first, receive, send)
        except PublishError as error:
            logger.error("A request could not be forwarded: %s", error)
            return False

    def _find(self, text: str) -> tuple[HubConnection | None, str | None]:
        """Return the connection of a token, and the id for one that may begin with that token."""
        manager = self._manager()
        token = tokens.read_token(text, self._hub.name)
        if token is None:
            return None, None
        id_ = _id_of(token, text)
        connection = manager.connections.get(id_)
        if connection is not None or not self._is_fresh(manager, token, text):
            return connection, None
        return None, id_

    async def _begin(
        self, text: str, id_: str, name: str, scope: Any, send: Send
    ) -> HubConnection | None:
        """Return a new connection, or None if the request has been answered with a refusal."""
        manager = self._manager()
        cors = cors_headers(scope)
        if open_connections.is_draining:
            # Microsoft's client breaks when an event stream ends right after its beginning.
            await answer(send, HTTPStatus.SERVICE_UNAVAILABLE, REASON, headers=cors)
            return None
        if name not in manager.options.transports:
            await answer(send, HTTPStatus.NOT_FOUND, _not_supported(name), headers=cors)
            return None
        if status := await self._refusal(scope, tokens.read_token(text, self._hub.name)):
            await _refuse(scope, send, status, cors)
            return None
        if id_ in manager.connections or manager.is_used(id_):  # Meanwhile.
            await answer(send, HTTPStatus.CONFLICT, headers=cors)
            return None
        return manager.create(id_, scope, name)

    async def _stream(
        self, text: str, scope: Any, receive: Receive, send: Send, cors: Headers
    ) -> None:
        connection, id_ = self._find(text)
        if connection is not None:
            await _answer_taken(connection, "ServerSentEvents", send, cors)
            return
        if connection is None and id_ is not None:
            connection = await self._begin(text, id_, "ServerSentEvents", scope, send)
            if connection is not None:
                await EventStreamTransport(connection, receive, send).run(cors)
            return
        await answer(send, HTTPStatus.NOT_FOUND, _UNKNOWN, headers=cors)

    async def _poll(
        self, text: str, scope: Any, receive: Receive, send: Send, cors: Headers
    ) -> None:
        headers = [*responses.NOT_TO_BE_KEPT, *cors]
        connection, id_ = self._find(text)
        if connection is None:
            if id_ is None:
                token = tokens.read_token(text, self._hub.name)
                if token is not None and self._manager().is_used(_id_of(token, text)):
                    await answer(send, HTTPStatus.NO_CONTENT, headers=headers)
                else:
                    await answer(send, HTTPStatus.NOT_FOUND, _UNKNOWN, headers=headers)
                return
            connection = await self._begin(text, id_, "LongPolling", scope, send)
            if connection is not None:
                LongPollingTransport(connection)
                # The first poll tells the client that it may send its handshake.
                await answer(send, HTTPStatus.OK, content_type=responses.BINARY, headers=headers)
            return
        transport = connection.transport
        if not isinstance(transport, LongPollingTransport):
            await _answer_taken(connection, "LongPolling", send, cors)
            return
        ended = asyncio.ensure_future(_wait_until_ended(receive))
        try:
            data = await transport.poll(ended)
        finally:
            ended.cancel()
            await asyncio.wait([ended], timeout=1)
        if data is None:
            await answer(send, HTTPStatus.NO_CONTENT, headers=headers)
        else:
            kind = responses.BINARY if data else responses.TEXT
            await answer(send, HTTPStatus.OK, data, content_type=kind, headers=headers)

    async def _post(
        self, text: str, scope: Any, receive: Receive, send: Send, cors: Headers
    ) -> None:
        connection, id_ = self._find(text)
        if connection is None and id_ is not None:
            # Some clients send their handshake before the first poll, which has an answer then.
            connection = await self._begin(text, id_, "LongPolling", scope, send)
            if connection is None:
                return
            LongPollingTransport(connection)
        if connection is None:
            await answer(send, HTTPStatus.NOT_FOUND, _UNKNOWN, headers=cors)
            return
        if connection.transport_name == "WebSockets":
            reason = "POST requests are not allowed for WebSocket connections."
            await answer(send, HTTPStatus.METHOD_NOT_ALLOWED, reason, headers=cors)
            return
        if connection.posts >= _MOST_POSTS:
            await answer(send, HTTPStatus.TOO_MANY_REQUESTS, headers=cors)
            return
        connection.posts += 1
        try:
            async with connection.posting:
                status = await _read_body(connection, receive)
        finally:
            connection.posts -= 1
        await answer(send, status, headers=cors)

    async def _delete(self, text: str, send: Send, cors: Headers) -> None:
        connection, _ = self._find(text)
        if connection is None:
            token = tokens.read_token(text, self._hub.name)
            if token is not None and self._manager().is_used(_id_of(token, text)):
                # Microsoft's client sends this right after its Close message.
                await answer(send, HTTPStatus.ACCEPTED, headers=cors)
            else:
                await answer(send, HTTPStatus.NOT_FOUND, _UNKNOWN, headers=cors)
        elif isinstance(connection.transport, LongPollingTransport):
            connection.transport.drop()
            await answer(send, HTTPStatus.ACCEPTED, headers=cors)
        else:
            reason = "Cannot terminate this connection using the DELETE endpoint."
            await answer(send, HTTPStatus.BAD_REQUEST, reason, headers=cors)


def _id_of(token: tokens.Token, text: str) -> str:
    """Return the id of the connection: clients of version 0 know nothing but the token."""
    return text if token.is_old else token.id


async def _refuse(scope: Any, send: Send, status: HTTPStatus, cors: Headers) -> None:
    """Refuse a client that may not use the hub."""
    await responses.refuse(scope, send, status, advice=_advice(status, scope), headers=cors)


def _advice(status: HTTPStatus, scope: Any) -> str:
    """Return what the log says of a client that is refused."""
    if status is HTTPStatus.UNAUTHORIZED and sends_unread_token(scope):
        return "It has sent a bearer token, and HubRouter has no authenticate= to read it with."
    return _ADVICE.get(status, "")


def _not_supported(name: str) -> str:
    return f"{name} transport not supported by this end point type"


async def _answer_taken(connection: HubConnection, name: str, send: Send, cors: Headers) -> None:
    """Answer a request that would carry a connection which something else carries."""
    status, reason = _taken(connection, name)
    await answer(send, status, reason, headers=cors)


def _taken(connection: HubConnection, name: str) -> tuple[HTTPStatus, str]:
    """Return the refusal for a transport `name` of a connection that has one."""
    if connection.transport_name != name:
        return HTTPStatus.BAD_REQUEST, _CHANGED
    return HTTPStatus.CONFLICT, ""


async def _read_body(connection: HubConnection, receive: Receive) -> HTTPStatus:
    """Feed the body of a request to its connection. Return the status of the answer."""
    has_fed = False
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return HTTPStatus.BAD_REQUEST  # Nobody reads it.
        if connection.is_ending:
            # What ends the connection, as a wrong handshake, is taken. On Hypercorn and Granian, an
            # empty message comes behind it.
            return HTTPStatus.OK if has_fed else HTTPStatus.NOT_FOUND
        if body := message.get("body"):
            connection.feed(body)
            has_fed = True
            if connection.is_full and not await connection.room():
                return HTTPStatus.NOT_FOUND
        if not message.get("more_body", False):
            return HTTPStatus.OK


async def _first(receive: Receive) -> Any:
    """Return the first message of a request, or None if its client has gone."""
    message = await receive()
    return None if message["type"] == "http.disconnect" else message


def _again(first: Any, receive: Receive) -> Receive:
    """Return a `receive()` that returns a message again, which was received before."""
    waiting = [first]

    async def receive_again() -> Any:
        return waiting.pop() if waiting else await receive()

    return receive_again


async def _wait_until_ended(receive: Receive) -> bool:
    """Wait until a poll should end. Return True if its client is still there."""
    with suppress(Exception):
        while (type_ := (await receive())["type"]) != "http.disconnect":
            if type_ == RETURN:
                return True
    return False
