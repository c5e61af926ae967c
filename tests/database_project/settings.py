"""The demo project with databases: one file, under one alias for each way to keep a connection."""

from __future__ import annotations

import os

from example_project.settings import *  # noqa: F403
from example_project.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.database_project"]

DATABASES = {
    alias: {
        "ENGINE": "tests.database_project.backend",
        "NAME": os.environ["TEST_DATABASE"],
        **options,
    }
    for alias, options in {
        "default": {},  # CONN_MAX_AGE = 0
        "aging": {"CONN_MAX_AGE": 0.5},
        "kept for an hour": {"CONN_MAX_AGE": 3600},
        "kept": {"CONN_MAX_AGE": None},
        "checked": {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True},
    }.items()
}
