"""The ASGI servers that `manage.py runasgi` can start, one package for each."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from ws_support.servers.base import ASGIServer

__all__ = ["SERVERS", "get_server"]

SERVERS: Final = {
    # From the best to the one that is always installed: `docs/servers.md` has the figures.
    "uvicorn": "Uvicorn",
    "granian": "Granian",
    "hypercorn": "Hypercorn",
    "daphne": "Daphne",
}
"""Names of servers: each is a package in this one, with the class that the value names."""


def get_server(name: str) -> ASGIServer:
    """Return the server called `name`, which need not be installed."""
    server: ASGIServer = getattr(import_module(f"{__name__}.{name}"), SERVERS[name])()
    return server
