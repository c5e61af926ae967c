"""An application that is no coroutine function."""

from __future__ import annotations


def application(scope, receive, send):
    raise RuntimeError("no coroutine")
