"""What is done to a server, a module for each kind of load: coroutines that return figures."""

from __future__ import annotations
