"""Limits that hold on several servers: of a request's head, and of a client that was refused."""

from __future__ import annotations

from typing import Final

MAX_HEAD: Final = 2**16
"""Bytes of a head: the request line, the header lines, and the empty line after them."""

MAX_HEADERS: Final = 256
"""Header lines of a head, or lines of trailers."""

HEAD_TIMEOUT: Final = 20.0
"""Seconds from the first byte of a head to its last, or from the start of the connection."""

SILENCE: Final = 0.3
"""Seconds without data from a client that was refused or has broken the protocol. After that its
connection is closed: closing TCP while data comes resets it, and the answer may be lost."""

LINGER: Final = 5.0
"""Seconds after which such a client is cut off, even if it still sends."""
