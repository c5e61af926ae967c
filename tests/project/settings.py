"""The demo project, with the overrides that a test gives its server in the environment."""

from __future__ import annotations

import json
import os
import posix
import threading

from example_project.settings import *  # noqa: F403

ASGI_APPLICATION = "tests.project.asgi.application"

if os.environ.get("WITHOUT_DAPHNE"):
    INSTALLED_APPS.remove("daphne")  # noqa: F405

CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"ws_support": {"level": "INFO", "handlers": ["console"], "propagate": False}},
}

_exit = os._exit


def _exit_with_coverage(status):
    # It crashes when a thread saves what the main thread is writing at that moment.
    if threading.current_thread() is threading.main_thread():
        _exit(status)
    posix._exit(status)


os._exit = _exit_with_coverage

globals().update(json.loads(os.environ.get("TEST_SETTINGS", "{}")))
