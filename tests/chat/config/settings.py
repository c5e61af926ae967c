"""A chat as its authors have it: users, sessions, a database and a channel layer."""

from __future__ import annotations

import os

SECRET_KEY = "a chat for tests only"
ALLOWED_HOSTS = ["127.0.0.1"]

INSTALLED_APPS = [
    "daphne",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "channels",
    "rooms",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["CHAT_DATABASE"]}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Of the passwords in the fixture: logging in is not what takes the time here.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

LANGUAGES = [("en", "English"), ("de", "Deutsch"), ("fr", "Français")]
TIME_ZONE = "UTC"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"bare": {"format": "%(message)s"}},
    "handlers": {"bare": {"class": "logging.StreamHandler", "formatter": "bare"}},
    "loggers": {"rooms": {"level": "INFO", "handlers": ["bare"], "propagate": False}},
}
