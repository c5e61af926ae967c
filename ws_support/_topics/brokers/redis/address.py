"""Which Redis: one of `WS_SUPPORT["BROKER"]`, or those of the channel layer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final

import redis
from channels.layers import get_channel_layer
from channels_redis.utils import create_pool, decode_hosts
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ws_support._topics.brokers import layer
from ws_support._topics.brokers.base import TIMEOUT
from ws_support._topics.outages import Outages
from ws_support.conf import get_options

_REDIS: Final = (5, 3)
"""The oldest redis-py whose pools hand out connections without the name of a command."""


@dataclass(eq=False)
class Address:
    """One Redis, and how to connect to it."""

    host: dict[str, Any] = field(repr=False)
    """As channels_redis has it: keyword arguments, or a URL under `address`."""
    prefix: str
    layer: Any = None
    """The channel layer that uses the same Redis: its outages are those of the broker."""

    def channel(self, topic: str) -> bytes:
        """Return the channel for a topic. All databases of a Redis share their channels."""
        return f"{self.prefix}:{self.database}:{{{topic}}}".encode()

    def key(self, kind: str, topic: str) -> bytes:
        """Return the key for one kind of data of a topic. All of a topic have the same hash tag."""
        return f"{self.prefix}:{kind}:{{{topic}}}".encode()

    @property
    def probe(self) -> bytes:
        """The beginning of a channel that is no topic's."""
        return f"{self.prefix}:{self.database}:probe:".encode()

    @cached_property
    def database(self) -> int:
        """The number of the database."""
        return int(self.make_pool().connection_kwargs.get("db", 0))

    def outages(self) -> Outages:
        """Return the outages of this Redis, which are those of the channel layer, if it has one."""
        return Outages.of(self, "Redis") if self.layer is None else Outages.of(self.layer)

    def make_pool(self) -> ConnectionPool:
        """Return connections to this Redis, for the running event loop.

        A command is never repeated: it could be a message, which would come twice. Who uses them
        waits no longer than `TIMEOUT`, so a connection itself has no limit.
        """
        pool: ConnectionPool = create_pool({**self.host, "protocol": 2})
        options = pool.connection_kwargs
        # Also in place of what a URL says, of which nothing is left: these are of RESP 3 alone.
        for name in [each for each in options if each.startswith(("maint_notifications", "orig_"))]:
            del options[name]
        options.update(
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            retry_on_timeout=False,
            socket_timeout=None,
            socket_connect_timeout=TIMEOUT,
            health_check_interval=0,
            decode_responses=False,
            protocol=2,
        )
        return pool


async def close(pool: ConnectionPool) -> None:
    """End the connections of a pool, and those by which it has asked for the master."""
    try:
        await pool.disconnect()
    except asyncio.CancelledError:
        # When their event loop ends, all are cancelled, maybe before they have closed the first.
        await pool.disconnect()
        raise
    manager = getattr(pool, "sentinel_manager", None)
    for each in manager.sentinels if manager else ():
        await each.aclose()


def check_version() -> None:
    """Raise `ImproperlyConfigured` if redis-py is too old."""
    if tuple(map(int, redis.__version__.split(".")[:2])) < _REDIS:
        raise ImproperlyConfigured(
            f"Broadcasts through Redis need redis 5.3 or newer, and {redis.__version__} is"
            ' installed: pip install "django-ws-support[redis]".'
        )


def addresses() -> tuple[Address, ...]:
    """Return the Redis servers among which the topics are shared out.

    Raises `ImproperlyConfigured` when the channel layer has to say which, and is none of
    channels_redis.
    """
    return _addresses()


@lru_cache(maxsize=1)
def _addresses() -> tuple[Address, ...]:
    check_version()
    broker = get_options().broker
    if broker not in (None, "redis"):
        return _usable('WS_SUPPORT["BROKER"]', [Address({"address": broker}, "ws_support")])
    if not layer.is_redis():
        raise ImproperlyConfigured(
            'WS_SUPPORT["BROKER"] is "redis", which takes the hosts of the channel layer, and'
            ' CHANNEL_LAYERS["default"] is none of channels_redis. Write the URL of a Redis:'
            ' "redis://127.0.0.1:6379/0".'
        )
    if layer.encrypts():
        raise ImproperlyConfigured(
            'WS_SUPPORT["BROKER"] is "redis", and CHANNEL_LAYERS["default"] encrypts what it sends'
            " (symmetric_encryption_keys), which this broker does not: leave BROKER out."
        )
    config = layer.config()
    prefix, of_layer = config.get("prefix", "asgi"), get_channel_layer()
    hosts = decode_hosts(config.get("hosts"))
    return _usable('CHANNEL_LAYERS["default"]', [Address(each, prefix, of_layer) for each in hosts])


def _usable(name: str, addresses: list[Address]) -> tuple[Address, ...]:
    try:
        for each in addresses:
            each.make_pool()
    except (ValueError, TypeError):  # Its text may hold a password.
        raise ImproperlyConfigured(
            f"{name} has no URL of a Redis that can be read."
            ' Write "redis://127.0.0.1:6379/0", and what is special in a password as %2F.'
        ) from None
    return tuple(addresses)


def _forget(*, setting: str, **_: object) -> None:
    if setting in {"WS_SUPPORT", "CHANNEL_LAYERS"}:
        _addresses.cache_clear()


setting_changed.connect(_forget)
