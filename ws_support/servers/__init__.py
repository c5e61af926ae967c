"""The ASGI servers that `manage.py runasgi` knows, one a module."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from ws_support.servers.base import ASGIServer

__all__ = ["SERVERS", "get_server"]

SERVERS: Final = {
    # From the best to the one that is always there: `docs/servers.md` has the figures.
    "uvicorn": "Uvicorn",
    "granian": "Granian",
    "hypercorn": "Hypercorn",
    "daphne": "Daphne",
}
"""The module of each, in here, and the class in there."""


def get_server(name: str) -> ASGIServer:
    """The server of this name, which need not be installed."""
    server: ASGIServer = getattr(import_module(f"{__name__}.{name}"), SERVERS[name])()
    return server
