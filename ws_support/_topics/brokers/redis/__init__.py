"""The brokers on Redis itself: on one or several of them, and on a Redis Cluster."""

from __future__ import annotations

from ws_support._topics.brokers.redis.address import addresses
from ws_support._topics.brokers.redis.broker import RedisBroker
from ws_support._topics.brokers.redis.cluster import configured_cluster, is_cluster
from ws_support._topics.brokers.redis.cluster_broker import ClusterBroker

__all__ = ["ClusterBroker", "RedisBroker", "broker_class"]


def broker_class() -> type[RedisBroker]:
    """Return the class of broker that the settings ask for.

    Raises `ImproperlyConfigured` when it cannot know its Redis.
    """
    if is_cluster():
        configured_cluster()
        return ClusterBroker
    addresses()
    return RedisBroker
