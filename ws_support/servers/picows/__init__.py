"""A fast WebSocket protocol for Uvicorn, which parses frames with picows.

uvicorn.Config(application, ws="ws_support.servers.picows:PicowsProtocol")
"""

from __future__ import annotations

from ws_support.servers.picows.protocol import PicowsProtocol

__all__ = ["PicowsProtocol"]
