"""No test leaves a traceback in the log of a server that it has used."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests import harness

_late: set[harness.Server] = set()
"""Servers whose last test asked for an exception, which may be logged when the test has ended."""


@pytest.fixture(autouse=True)
def _no_traceback(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check, after each test, what servers have logged since it began.

    Tests that ask for an exception are marked with `websocket_tracebacks`.
    """
    marks = {server: server.mark() for server in harness.started}
    yield
    used = [each for each in harness.started if each.mark() > marks.get(each, 0)]
    if request.node.get_closest_marker("websocket_tracebacks"):
        _late.update(used)
    else:
        for server in set(used) - _late:
            server.check_log(marks.get(server, 0))
        _late.difference_update(used)
    harness.started[:] = [each for each in harness.started if each.process.poll() is None]


def exceptions_in(log: str) -> list[str]:
    """The exceptions of the tracebacks in a log: the last line of each, with name and text."""
    return re.findall(r"^Traceback \(most recent call last\):\n(?: .*\n)*(.*)", log, re.MULTILINE)
