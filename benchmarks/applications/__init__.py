"""The applications: each echoes at /ws what came, as what it came, and is a module of its own.

A module imports nothing that its application does not need: what is loaded besides costs memory and
garbage collection.
"""

from __future__ import annotations
