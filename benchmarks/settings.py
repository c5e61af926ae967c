"""Django's settings for every application that is measured."""

from __future__ import annotations

from benchmarks.handshake import HOST, ORIGIN

SECRET_KEY = "only-for-benchmarks"  # noqa: S105 - it protects nothing
DEBUG = False
ALLOWED_HOSTS = [HOST]
INSTALLED_APPS = ["ws_support", "channels"]
USE_TZ = True

# Under a name of its own: a "default" layer would be used by the consumers without one, too.
CHANNEL_LAYERS = {"memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

# Everything that costs something is on.
WS_SUPPORT = {"ALLOWED_ORIGINS": [ORIGIN], "HEARTBEAT_INTERVAL": 15}
