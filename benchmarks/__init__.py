"""How fast and how large: this package side by side with its peers, on the servers it runs on."""

from __future__ import annotations


class Failed(Exception):
    """A server did not do what it should have, or nothing can be measured here."""
