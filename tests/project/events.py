from __future__ import annotations

import json
import os


def log(event: str, **fields: object) -> None:
    """A line of JSON in the server's log, in one piece also when several processes write there."""
    os.write(1, f"{json.dumps({'event': event, **fields})}\n".encode())
