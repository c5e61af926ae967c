"""What the settings say of the channel layer `default`."""

from __future__ import annotations

from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers, get_channel_layer


def config() -> dict[str, Any]:
    """Return the `CONFIG` of the layer."""
    config: dict[str, Any] = channel_layers.configs[DEFAULT_CHANNEL_LAYER].get("CONFIG", {})
    return config


def is_redis() -> bool:
    """Return True for a layer of channels_redis itself: a class made from one may do more."""
    return type(get_channel_layer()).__module__.startswith("channels_redis.")


def encrypts() -> bool:
    """Return True for a layer of channels_redis that encrypts what it sends."""
    return bool(config().get("symmetric_encryption_keys"))
