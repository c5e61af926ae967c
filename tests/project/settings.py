"""The demo project, with the overrides that a test gives its server in the environment."""

from __future__ import annotations

import json
import os

from example_project.settings import *  # noqa: F403

ASGI_APPLICATION = "tests.project.asgi.application"

CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"ws_support": {"level": "INFO", "handlers": ["console"], "propagate": False}},
}

globals().update(json.loads(os.environ.get("TEST_SETTINGS", "{}")))
