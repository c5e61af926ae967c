"""What the test project tells the tests, through its log."""

from __future__ import annotations

import json


def log(event: str, **fields: object) -> None:
    """A line of JSON that a test waits for."""
    print(json.dumps({"event": event, **fields}), flush=True)
