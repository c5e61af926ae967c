"""Signals about connections, for example to count, to audit or to clean up.

All three signals are sent with `asend_robust`: Django logs a receiver that raises (logger
`django.dispatch`), and the connection goes on. Receivers may be coroutine functions; other
functions run in a thread. The connection waits for its receivers, so start a task of your own for
long work. `sender` is `None`.
"""

from __future__ import annotations

from django.dispatch import Signal

__all__ = ["connected", "disconnected", "rejected"]

connected = Signal()
"""A connection was accepted. Argument: `scope` (the ASGI scope; its type is "http" for a client of
a hub without a WebSocket)."""

disconnected = Signal()
"""An accepted connection has ended, and its application is done. Sent exactly once for each
`connected`. Arguments: `scope`, `code` (int: the code of the first side to close, 1005 if it sent
none, 1006 for a lost connection, 1011 after an exception, 1012 when the server stopped), `reason`
(str) and `duration` (float, seconds since the accept)."""

rejected = Signal()
"""A handshake, or the first request of a hub's client, was refused. Arguments: `scope`, `origin`
(str, or `None` without an `Origin` header), `status` (int, the HTTP status) and `rule` (str, what
failed: `"missing"`, `"duplicate"`, `"malformed"` or `"not allowed"` for the origin, `"host"` for
the Host header of a request to a hub, `"path"` for an unknown path, `"hub"` when a hub has refused
it, `"application"` when the consumer or a middleware of yours has)."""
