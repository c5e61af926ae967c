"""Which node of a Redis Cluster: the map of its slots, of `WS_SUPPORT["BROKER"]`."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import Future
from functools import lru_cache
from itertools import count
from time import monotonic
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import MovedError

from ws_support._topics.brokers.base import TIMEOUT, BrokerError, BrokerUnavailable
from ws_support._topics.brokers.redis.address import Address, check_version, close
from ws_support._topics.brokers.redis.background import once_in_background
from ws_support._topics.brokers.redis.publisher import within
from ws_support._topics.outages import Outages
from ws_support.conf import get_options

NAME: Final = 'WS_SUPPORT["BROKER"]'

_URL: Final = re.compile(r"(rediss?)\+cluster://(?:([^/?]*)@)?([^/?@]+)((?:[/?].*)?)\Z")
"""The scheme, user and password, the nodes, and what follows."""

_PORT: Final = 6379

_EVERY: Final = 1.0
"""Seconds between two readings of the map."""

_TURN: Final = 1.0
"""Seconds that a node has to tell the map. Then the next one is asked."""

_PARTS: Final = 4
"""What CLUSTER SLOTS says of a node since Redis 7: host, port, id, and a list of metadata."""


class Node(Address):
    """One node of a cluster. The names of channels and keys are the same for all nodes."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__({"address": cluster.url_of(name)}, "ws_support")
        self.cluster = cluster
        self.name = name
        """The host and the port."""

    def channel(self, topic: str) -> bytes:
        return f"{self.prefix}:{self.database}:{_tagged(topic)}".encode()

    def key(self, kind: str, topic: str) -> bytes:
        return f"{self.prefix}:{kind}:{_tagged(topic)}".encode()

    @property
    def probe(self) -> bytes:
        """The beginning of a channel that is no topic's, whose slot this node has, if it has one.

        One needs 16384 attempts to find one certain slot.
        """
        slots = self.cluster.slots
        tags = (b"{%d}" % number for number in count())
        if self not in slots:
            return super().probe
        return super().probe + next(each for each in tags if slots[key_slot(each)] is self) + b":"

    def outages(self) -> Outages:
        """Return the outages of the cluster: the log tells of them together."""
        return Outages.of(self.cluster, "Redis Cluster")


def _tagged(topic: str) -> str:
    """Return the name of a topic within a channel or key: what is between the first braces says
    which slot it has. With nothing there, all of the name would."""
    return f"{{{topic}}}" if topic and topic[0] != "}" else f"no tag{{-}}{topic}"


class Cluster:
    """A Redis Cluster: which of its masters has which slot.

    Used by all event loops of the process. The map is read by the thread of those who publish
    without a subscription, so that no two loops ask at the same time.
    """

    def __init__(self, url: str) -> None:
        match = _URL.match(url)
        if match is None:
            raise ValueError("no URL of a cluster")
        self._scheme, user, names, self._rest = match.groups()
        self._user = f"{user}@" if user else ""
        with_ports = [
            each if re.search(r":\d+\Z", each) else f"{each}:{_PORT}" for each in names.split(",")
        ]
        self.seeds = [Node(self, each) for each in with_ports]
        self._nodes: dict[str, Node] = {}
        # Who is asked for the map first.
        self._best = self.seeds[0]
        self.slots: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        """The master of each slot. It may change any time."""
        self.version = object()
        """Another object after each change of the map."""
        self._problem: tuple[type[BrokerError], str] | None = (BrokerUnavailable, "no answer yet")
        self._read_at = self._asked_at = -_EVERY

    def url_of(self, name: str) -> str:
        """Return the URL of a node: what is configured holds for each of them."""
        return f"{self._scheme}://{self._user}{name}{self._rest}"

    @property
    def is_known(self) -> bool:
        """True once the map has been read."""
        return bool(self._nodes)

    def error(self, slot: int) -> BrokerError:
        """Return why there is no node for a slot."""
        if self._problem is None:
            return BrokerUnavailable(f"no node of the cluster has the slot {slot}")
        kind, text = self._problem
        return kind(text)

    async def renew(self) -> None:
        """Read the map again, or wait for the end of a reading that goes on. It may fail."""
        reading = asyncio.wrap_future(self._start())
        await asyncio.wait([reading], timeout=TIMEOUT)

    def renew_soon(self) -> None:
        """Read the map again, without waiting for it."""
        if monotonic() - self._asked_at >= _EVERY:
            self._asked_at = monotonic()
            self._start()

    def heed(self, error: BrokerError, node: Node) -> Node | None:
        """Heed an error of a node. Return the node that has taken its place, if the error says so.

        What was asked for was not executed then. The map is read again.
        """
        moved = moved_to(error.__cause__)
        if moved is not None:
            return self.note(*moved, node)
        if isinstance(error, BrokerUnavailable):
            self.renew_soon()
        return None

    def note(self, slot: int, name: str, node: Node) -> Node:
        """Note that `node` has said that a slot is at another one, which is returned."""
        target = self._node(name, node)
        self.slots[slot] = self._best = target
        self.version = object()
        self.renew_soon()
        return target

    def _node(self, name: str, asked: Node) -> Node:
        """Return the node with this name, as the node that was asked has called it.

        Without a host, it is that of the node that was asked.
        """
        host, _, port = name.rpartition(":")
        host = host or asked.name.rpartition(":")[0]
        if ":" in host and host[0] != "[":
            host = f"[{host}]"
        name = f"{host}:{port}"
        # Several threads may note the same.
        return self._nodes.get(name) or self._nodes.setdefault(name, Node(self, name))

    def _start(self) -> Future[None]:
        return once_in_background(self, self._read)

    async def _read(self) -> None:
        await asyncio.sleep(self._read_at + _EVERY - monotonic())
        problems = []
        for node in dict.fromkeys([self._best, *self._nodes.values(), *self.seeds]):
            self._read_at = monotonic()
            try:
                await within(self._learn_from(node), _TURN, of=_TURN)
            except BrokerError as error:
                problems.append(_explained(error, node))
            else:
                self._best = node
                self._problem = None
                return
        self._problem = problems[0]

    async def _learn_from(self, node: Node) -> None:
        spans = await _spans(node)
        if not spans:  # It has left the cluster. Others may know better.
            raise BrokerUnavailable("it knows of no slots")
        if any(len(master) < _PARTS for _, _, master, *_ in spans):
            raise BrokerError(f"a cluster in {NAME} needs Redis 7, and this is older")
        self._take(spans, node)

    def _take(self, spans: list[Any], asked: Node) -> None:
        slots: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        nodes: dict[str, Node] = {}
        for start, end, *of_shard in spans:
            master, *replicas = [self._named(each, asked) for each in of_shard]
            nodes.update((each.name, each) for each in (master, *replicas))
            slots[start : end + 1] = [master] * (end + 1 - start)
        self._nodes = nodes
        if slots != self.slots:
            self.slots = slots
            self.version = object()

    def _named(self, node: list[Any], asked: Node) -> Node:
        host, port, *_ = node
        # Without a host, or with one that the node has not been told yet.
        host = "" if host in (None, b"?") else host.decode()
        return self._node(f"{host}:{port}", asked)


def moved_to(error: BaseException | None) -> tuple[int, str] | None:
    """Return the slot and the node that an error of Redis names, if it is "MOVED"."""
    # Older versions of redis-py know this error only in a client of their own for clusters.
    code = "" if isinstance(error, MovedError) else "MOVED "
    found = re.match(rf"{code}(\d+) (\S+)", str(error))
    return (int(found[1]), found[2]) if found else None


async def _spans(node: Node) -> list[Any]:
    """Return spans of slots: their start and end, the master, and the replicas.

    CLUSTER SHARDS has more, but newer servers name there also the master that has failed beside the
    one that took its place, and some give the slots to neither.
    """
    pool = node.make_pool()
    try:
        connection = await pool.get_connection()
        await connection.send_command(b"CLUSTER", b"SLOTS")
        spans: list[Any] = await connection.read_response()
        return spans
    finally:
        await close(pool)


def _explained(error: BrokerError, node: Node) -> tuple[type[BrokerError], str]:
    text = str(error)
    if "cluster support disabled" in text:
        return BrokerError, (
            f"{NAME} names a Redis Cluster, and {node.name} is none: write redis:// in place of"
            " redis+cluster://"
        )
    return type(error), f"{node.name}: {text}"


def is_cluster() -> bool:
    """Return True if `WS_SUPPORT["BROKER"]` is the URL of a cluster."""
    return "+cluster://" in (get_options().broker or "")


@lru_cache(maxsize=1)
def configured_cluster() -> Cluster:
    """Return the cluster of `WS_SUPPORT["BROKER"]`.

    Raises `ImproperlyConfigured` when its URL cannot be read.
    """
    check_version()
    try:
        cluster = Cluster(get_options().broker or "")
        databases = {each.database for each in cluster.seeds}
    except ValueError:  # Its text may hold a password.
        raise ImproperlyConfigured(
            f'{NAME} has no URL of a Redis Cluster that can be read. Write "redis+cluster://'
            '10.0.0.1:6379,10.0.0.2:6379", and what is special in a password as %2F.'
        ) from None
    if databases != {0}:
        raise ImproperlyConfigured(f"{NAME} names a database, and a Redis Cluster has only 0.")
    return cluster


def _forget(*, setting: str, **_: object) -> None:
    if setting == "WS_SUPPORT":
        configured_cluster.cache_clear()


setting_changed.connect(_forget)
