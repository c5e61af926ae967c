"""Tools to test WebSockets: an in-process client, raw frames, and real servers."""

from __future__ import annotations

from ws_support.testing.application import RunningApplication, websocket_scope
from ws_support.testing.histories import clear_histories
from ws_support.testing.peer import HandshakeRefused, Peer
from ws_support.testing.pool import ServerPool
from ws_support.testing.ports import free_port
from ws_support.testing.server import Server
from ws_support.testing.waiting import BOUND, wait_until
from ws_support.testing.wire import RawClient

__all__ = [
    "BOUND",
    "HandshakeRefused",
    "Peer",
    "RawClient",
    "RunningApplication",
    "Server",
    "ServerPool",
    "clear_histories",
    "free_port",
    "wait_until",
    "websocket_scope",
]
