"""Django's settings for every application that is measured."""

from __future__ import annotations

import json
import os

from benchmarks.handshake import HOST, ORIGIN

SECRET_KEY = "only-for-benchmarks"  # noqa: S105 - it protects nothing
DEBUG = False
ALLOWED_HOSTS = [HOST]
INSTALLED_APPS = ["ws_support", "channels"]
USE_TZ = True

# Under a name of its own: a "default" layer would be used by the consumers without one, too. A
# case may have one all the same.
CHANNEL_LAYERS = {
    "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    **json.loads(os.environ.get("BENCHMARKS_CHANNEL_LAYERS", "{}")),
}

# For `manage.py runasgi`: other servers are told on their command line.
ASGI_APPLICATION = os.environ.get("BENCHMARKS_ASGI_APPLICATION")

# Everything that costs something is on but compression, which a case of its own turns on.
WS_SUPPORT = {
    "ALLOWED_ORIGINS": [ORIGIN],
    "HEARTBEAT_INTERVAL": 15,
    **json.loads(os.environ.get("BENCHMARKS_WS_SUPPORT", "{}")),
}
