"""Django's settings for every application that is measured."""

from __future__ import annotations

import json
import os

from benchmarks.applications import HOST, ORIGIN

SECRET_KEY = "only-for-benchmarks"  # noqa: S105 - it protects nothing
DEBUG = False
ALLOWED_HOSTS = [HOST]
INSTALLED_APPS = ["ws_support", "channels"]
USE_TZ = True

# Under a name of its own: a "default" layer would be used by the consumers without one, too. Who
# fans out has one all the same.
CHANNEL_LAYERS = {
    "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    **json.loads(os.environ.get("BENCHMARKS_CHANNEL_LAYERS", "{}")),
}

# For `runasgi` and `runserver`: other servers are told on their command line.
ASGI_APPLICATION = os.environ.get("BENCHMARKS_ASGI_APPLICATION")

# Everything that costs something is on but compression. Who is only sent to is idle for longer than
# the heartbeat would let them be, on a slow machine.
WS_SUPPORT = {
    "ALLOWED_ORIGINS": [ORIGIN],
    "HEARTBEAT_INTERVAL": 3600 if "default" in CHANNEL_LAYERS else 15,
    "TOPICS": {
        "prices": {
            "history": int(os.environ.get("BENCHMARKS_HISTORY", "0")),
            "may_subscribe": True,
        },
        "room/<int:number>": {
            "history": 100,
            "history_seconds": 40,
            "presence": True,
            "may_subscribe": True,
            "may_publish": True,
        },
    },
    "TOPICS_PUBLISH_RATE": None,
}
