"""The demo: what a fresh project needs for WebSockets, and nothing else.

No database, no migrations. `manage.py runserver` and open the page. Redis only for several
processes.
"""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = True

# Good for this demo on your own machine only: a key that is published is no secret.
SECRET_KEY = os.environ.get("SECRET_KEY", "demo-only-not-a-secret")

ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

INSTALLED_APPS = [
    "ws_support",  # before daphne: its runserver reads WS_SUPPORT
    "daphne",
    "django.contrib.staticfiles",
    "channels",
    "example_project",  # the topics, templates and static files of /live, /hub and /room
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "example_project.urls"
ASGI_APPLICATION = "example_project.asgi.application"

TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

# What is broadcast reaches every process that uses the same Redis, which keeps the history of /room
# as well; without one, both are those of this process.
REDIS_URL = os.environ.get("REDIS_URL")

if REDIS_URL:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [REDIS_URL]},
        }
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

STATIC_URL = "static/"
TIME_ZONE = "UTC"

# Who may connect: by default the hosts above. Try ["https://client.com"] and reload the page.
WS_SUPPORT = {
    "ALLOWED_ORIGINS": None,
    "KEEP_ALIVE_INTERVAL": 30,
}
