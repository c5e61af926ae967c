"""How fast and how large: this package side by side with its peers, on the servers it runs on."""

from __future__ import annotations
