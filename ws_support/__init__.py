"""WebSockets for Django in production, on Django Channels."""

from __future__ import annotations

__version__ = "0.1.0"
