"""Limits of a request's head: its size, its number of lines, and the time for it."""

from __future__ import annotations

from typing import Final

MAX_HEAD: Final = 2**16
"""Bytes of a head: the request line, the header lines, and the empty line after them."""

MAX_HEADERS: Final = 256
"""Header lines of a head, or lines of trailers."""

HEAD_TIMEOUT: Final = 20.0
"""Seconds from the first byte of a head to its last, or from the start of the connection."""
