"""The load: a process of its own, `python -m benchmarks.load`, that drives one server at a time."""

from __future__ import annotations


class LoadFailed(Exception):
    """A server did not do what it should have: its figures would mean nothing."""
