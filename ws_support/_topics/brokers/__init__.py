"""Brokers: they carry messages between event loops and processes.

`base.py` has the contract. A new broker is a module here, and a line in `broker_class()`.
"""

from __future__ import annotations

from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from ws_support._topics.brokers import layer
from ws_support._topics.brokers.base import Broker
from ws_support._topics.brokers.channel_layer import ChannelLayerBroker
from ws_support._topics.brokers.local import LocalBroker
from ws_support.conf import get_options


def broker_class() -> type[Broker]:
    """Return the class of broker that the settings ask for.

    Raises `ImproperlyConfigured` when it needs what is not installed, or cannot know its Redis.
    """
    broker = get_options().broker
    if broker is None:
        broker = "redis" if layer.is_redis() and not layer.encrypts() else "channel_layer"
    if broker == "channel_layer":
        is_local = type(get_channel_layer()) in (type(None), InMemoryChannelLayer)
        return LocalBroker if is_local else ChannelLayerBroker
    try:
        from ws_support._topics.brokers import redis
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        raise ImproperlyConfigured(
            f'WS_SUPPORT["BROKER"] needs {name}: pip install "django-ws-support[redis]".'
        ) from error
    return redis.broker_class()


def is_between_processes() -> bool:
    """Return True if what is broadcast reaches other processes."""
    return broker_class().is_between_processes
