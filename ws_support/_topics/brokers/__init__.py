"""Brokers: they carry messages between event loops and processes.

`base.py` has the contract. A new broker is a module here, and a line in `broker_class()`.
"""

from __future__ import annotations

from channels.layers import InMemoryChannelLayer, get_channel_layer

from ws_support._topics.brokers.base import Broker
from ws_support._topics.brokers.channel_layer import ChannelLayerBroker
from ws_support._topics.brokers.local import LocalBroker


def broker_class() -> type[Broker]:
    """Return the class of broker that the settings ask for."""
    if type(get_channel_layer()) in (type(None), InMemoryChannelLayer):
        return LocalBroker
    return ChannelLayerBroker


def is_between_processes() -> bool:
    """Return True if what is broadcast reaches other processes."""
    return broker_class().is_between_processes
