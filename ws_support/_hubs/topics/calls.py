"""What the clients of `TopicsHub` ask for: who may, what is wrong with it, and the answers."""

from __future__ import annotations

from typing import Any, Final, Literal, TypedDict

import msgspec

from ws_support import presence
from ws_support._hubs.connection import HubConnection
from ws_support._hubs.errors import HubException
from ws_support._hubs.messages import Invocation
from ws_support._hubs.topics.follower import Follower
from ws_support._hubs.topics.watching import sendable
from ws_support._hubs.topics.written import json_for, value_of
from ws_support._topics.brokers.base import BrokerError
from ws_support._topics.messages import check_subscriptions, json_of
from ws_support._topics.positions import Position, checked_position
from ws_support._topics.registry import Recovery, TopicRegistry
from ws_support._topics.rules import Rules, rules_of
from ws_support._topics.subscriber import Published
from ws_support._topics.tokens import is_good_token
from ws_support.broadcast import broadcast, broadcast_json
from ws_support.conf import get_options
from ws_support.exceptions import BroadcastError

LONGEST_NAME: Final = 255
"""The most characters of a topic that a client names."""

_SNAPSHOTS: Final = 3
"""How often a snapshot is made when meanwhile more is published than the history keeps."""


class SubscribeOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How a client subscribes."""

    since: str | None = None
    token: str | None = None
    snapshot: bool = False
    presence: bool | Literal["watch"] | dict[str, Any] = False

    @property
    def meta(self) -> dict[str, Any] | None:
        """The metadata of who is present; None for who is not."""
        if isinstance(self.presence, dict):
            return self.presence
        return {} if self.presence is True else None


class PublishOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How a client publishes."""

    echo: bool = True
    """False: not to the connection that publishes."""


class Subscribed(TypedDict):
    """How a subscription has begun."""

    recovered: bool
    position: str | None


class KeptMessage(TypedDict):
    """A message of a history."""

    position: str
    data: Any


class KeptMessages(TypedDict):
    """A part of a history."""

    messages: list[KeptMessage]
    position: str
    recovered: bool
    more: bool


class MembersPresent(TypedDict):
    """Who is present under a topic."""

    count: int
    members: list[presence.Member]


async def subscribe(connection: HubConnection, name: str, options: SubscribeOptions) -> Subscribed:
    """Answer `Subscribe`."""
    follower = Follower.of(connection)
    rules = await _admitted(connection, name, options.token)
    since = _checked(options.since)
    if options.snapshot and (rules is None or not rules.has_snapshot):
        raise _refusal("invalid", "This topic has no snapshot.")
    if options.presence is not False:
        _check_presence(rules, name, options.meta)
    try:
        limit = get_options().max_subscriptions
        check_subscriptions(follower.topics, follower.topics_length, name, limit)
    except ValueError:
        raise _refusal(
            "limit",
            f"A connection may subscribe to {limit} topics, with names of some 200,000 characters"
            " together.",
        ) from None
    subscription = _Subscription(connection, follower, name, rules)
    try:
        recovery = await subscription.begin(since, has_snapshot=options.snapshot)
    except BrokerError as error:
        await subscription.undo()
        raise _away() from error
    except BaseException:
        await subscription.undo()
        raise
    if options.presence is False:
        await follower.leave(name)
    else:
        await follower.attend(name, options.meta)
    return {"recovered": recovery.recovered, "position": recovery.position}


def _check_presence(rules: Rules | None, name: str, meta: dict[str, Any] | None) -> None:
    if rules is None or not rules.presence:
        raise _no_presence()
    try:
        presence.present(name, meta=meta)
    except (TypeError, ValueError) as error:
        raise _refusal("invalid", str(error)) from None
    _broker().presence(name)  # It raises where there can be none.


class _Subscription:
    """The beginning of a subscription."""

    def __init__(
        self, connection: HubConnection, follower: Follower, name: str, rules: Rules | None
    ) -> None:
        self._connection = connection
        self._follower = follower
        self._name = name
        self._rules = rules
        self._is_new = name not in follower.topics

    async def begin(self, since: Position | None, *, has_snapshot: bool) -> Recovery:
        if not _keeps_history(self._rules):
            recovery = await self._follower.subscribe(self._name, None)
            if has_snapshot:
                await self._send_snapshot(None)
            return recovery
        if since is not None or not has_snapshot:
            recovery = await self._follower.subscribe(self._name, since)
            if recovery.recovered or not has_snapshot:
                if recovery.position is None:  # What comes until the broker is back may be lost.
                    raise BrokerError("it does not answer")
                return recovery
        for _ in range(_SNAPSHOTS):
            # Nothing may come before the snapshot.
            await self.undo()
            position = (await _broker().read(self._name, None, 0)).position
            await self._send_snapshot(position)
            recovery = await self._follower.subscribe(self._name, position)
            if recovery.recovered:
                return Recovery(recovered=False, position=recovery.position)
        raise _refusal("unavailable", "Meanwhile, more is published than the history keeps.")

    async def _send_snapshot(self, position: Position | None) -> None:
        connection, rules = self._connection, self._rules
        state = await rules.snapshot(_user(connection))  # type: ignore[union-attr]
        value = json_for(json_of(state), connection.protocol)
        await connection.send(Invocation("Snapshot", [self._name, position, value]))

    async def undo(self) -> None:
        """Subscribe to no more than before."""
        if self._is_new:
            await self._follower.unsubscribe(self._name)


async def unsubscribe(connection: HubConnection, name: str) -> None:
    """Answer `Unsubscribe`."""
    await Follower.of(connection).unsubscribe(name)


async def publish(
    connection: HubConnection, name: str, data: Any, options: PublishOptions
) -> Position | None:
    """Answer `Publish`."""
    if not Follower.of(connection).may_publish_now():
        raise _refusal("limit", "Too many messages at a time.")
    rules = _rules(name)
    if rules is None or not await rules.may_publish(_user(connection), data):
        # The same for a topic that is not there: see `_forbidden()`.
        raise _refusal("forbidden", "You may not publish this here.")
    send = broadcast if isinstance(data, (str, bytes)) else broadcast_json
    try:
        return await send(name, data, exclude=None if options.echo else connection.id)
    except BroadcastError as error:
        raise _away() from error
    except (TypeError, ValueError) as error:
        raise _refusal("invalid", f"The data cannot be sent as JSON: {error}") from None


async def history(
    connection: HubConnection, name: str, since: str | None, limit: int | None
) -> KeptMessages:
    """Answer `History`."""
    follower = Follower.of(connection)
    rules = await _known(connection, name)
    if not _keeps_history(rules):
        raise _refusal("invalid", "This topic has no history.")
    most: int = rules.history  # type: ignore[union-attr]
    if limit is not None and limit < 1:
        raise _refusal("invalid", "limit is a number of messages above 0, or null.")
    try:
        log = await _broker().read(name, _checked(since), min(limit or most, most))
    except BrokerError as error:
        raise _away() from error
    messages: list[KeptMessage] = []
    for position, message in log.entries:
        published = Published(name, message, position)
        if not published.excluded or not follower.is_known_as(published.excluded):
            data = value_of(published.message, connection.protocol)
            messages.append({"position": position, "data": data})
    return {
        "messages": messages,
        "position": log.position,
        "recovered": log.is_complete,
        "more": log.has_more,
    }


async def members(connection: HubConnection, name: str) -> MembersPresent:
    """Answer `Members`."""
    rules = await _known(connection, name)
    if rules is None or not rules.presence:
        raise _no_presence()
    try:
        found = await presence.members(name)
    except presence.PresenceUnavailable as error:
        raise _away() from error
    return {"count": found.count, "members": sendable(found.members, connection.protocol)}


# Who may


async def _admitted(connection: HubConnection, name: str, token: str | None) -> Rules | None:
    """Return the rules of a topic to which the client may subscribe. Raises `HubException`."""
    rules, user = _rules(name), _user(connection)
    if token is not None and is_good_token(token, name, user):
        return rules
    if rules is not None and await rules.may_subscribe(user):
        return rules
    raise _forbidden()


async def _known(connection: HubConnection, name: str) -> Rules | None:
    """Return the rules of a topic of which the client may know. Raises `HubException`."""
    if name in Follower.of(connection).topics:
        return rules_of(name)
    return await _admitted(connection, name, None)


def _rules(name: str) -> Rules | None:
    if len(name) > LONGEST_NAME:
        raise _refusal("invalid", f"A topic has up to {LONGEST_NAME} characters.")
    return rules_of(name)


def _user(connection: HubConnection) -> Any:
    return connection.scope.get("user")


# What is there


def _broker() -> Any:
    return TopicRegistry.of_this_loop().broker


def _keeps_history(rules: Rules | None) -> bool:
    return rules is not None and rules.history > 0 and _broker().has_history


def _checked(since: str | None) -> Position | None:
    return None if since is None else checked_position(since)


# Errors: the first word is for programs.


def _refusal(code: str, text: str) -> HubException:
    return HubException(f"{code}: {text}")


def _forbidden() -> HubException:
    """Return the same error for a topic that is not there, and for one that is not for the user."""
    return _refusal("forbidden", "There is no such topic for you.")


def _no_presence() -> HubException:
    return _refusal("invalid", "This topic has no presence.")


def _away() -> HubException:
    return _refusal("unavailable", "The broker does not answer.")
