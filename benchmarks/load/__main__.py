"""Reads a request from each line, `{"load": ..., "port": ...}`, and writes what was measured."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from benchmarks.load import LoadFailed
from benchmarks.load.echo import echo
from benchmarks.load.fanout import fanout
from benchmarks.load.handshakes import handshakes
from benchmarks.load.memory import memory

LOADS: dict[str, Callable[..., Awaitable[dict[str, float]]]] = {
    "echo": echo,
    "handshakes": handshakes,
    "memory": memory,
    "fanout": fanout,
}


def main() -> None:
    # The load makes hardly any cycles, and a collection would be somebody's latency.
    gc.disable()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
        gc.collect()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    loop = uvloop.new_event_loop()
    try:
        return {"measured": loop.run_until_complete(LOADS[request.pop("load")](**request))}
    except (LoadFailed, OSError) as error:
        return {"failed": str(error)}
    finally:
        loop.close()


if __name__ == "__main__":
    main()
