"""What happens to connections, for whoever wants to count, audit or clean up.

All three are sent with `asend_robust`: a receiver that raises is logged by Django (logger
`django.dispatch`) and harms nobody. Receivers may be coroutine functions; others run in a thread.
The connection waits for them: give long work to a task of your own. `sender` is `None`.
"""

from __future__ import annotations

from django.dispatch import Signal

__all__ = ["connected", "disconnected", "rejected"]

connected = Signal()
"""A connection was accepted. Argument: `scope` (the ASGI scope)."""

disconnected = Signal()
"""A connection that was accepted has ended and its application is done. Sent exactly once for
each `connected`. Arguments: `scope`, `code` (int: what the first side to close said, 1005 without
a code, 1006 for a lost connection, 1011 after an exception, 1012 when the server stopped it),
`reason` (str) and `duration` (float, seconds since it was accepted)."""

rejected = Signal()
"""A handshake was refused. Arguments: `scope`, `origin` (str, or `None` without an `Origin`
header), `status` (int, of HTTP) and `rule` (str, what failed: `"missing"`, `"duplicate"`,
`"malformed"` or `"not allowed"` for the origin, `"path"` for an unknown path,
`"application"` when the consumer or a middleware of yours refused)."""
