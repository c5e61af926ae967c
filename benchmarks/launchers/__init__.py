"""Servers without a command line of their own: `python -m benchmarks.launchers.NAME ... PORT`."""

from __future__ import annotations
