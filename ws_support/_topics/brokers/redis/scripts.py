"""Scripts: what Redis does in one step, in Lua."""

from __future__ import annotations

from functools import cached_property
from hashlib import sha1
from typing import NamedTuple


class Script:
    """A script in Lua, which Redis keeps under its SHA-1 digest."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.digest = sha1(self.text, usedforsecurity=False).hexdigest().encode()

    @cached_property
    def sharded(self) -> Script:
        """The same script for a Redis Cluster: what it publishes stays in the shard."""
        return Script(self.text.decode().replace("'PUBLISH'", "'SPUBLISH'"))


class Call(NamedTuple):
    """A call of a script."""

    script: Script
    keys: tuple[bytes, ...]
    arguments: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """How many bytes there are of arguments."""
        return sum(map(len, self.arguments))

    @property
    def words(self) -> tuple[bytes, ...]:
        """The command."""
        count = b"%d" % len(self.keys)
        return (b"EVALSHA", self.script.digest, count, *self.keys, *self.arguments)

    @property
    def loading(self) -> tuple[bytes, ...]:
        """The command that gives the script to Redis."""
        return (b"SCRIPT", b"LOAD", self.script.text)
