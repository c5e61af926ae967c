"""The fuzzer that watches which lines are reached: `make fuzz`, for as long as is wanted.

Needs atheris (Linux, CPython 3.11 and newer), which is libFuzzer for Python.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import atheris

with atheris.instrument_imports(include=["ws_support.servers"]):
    import ws_support._protocol.handshake
    import ws_support.servers.picows.parser
    import ws_support.servers.picows.protocol
    import ws_support.servers.uvicorn.http  # noqa: F401

from tests.fuzz.chaos import Unasked, fuzz_echo, fuzz_everything
from tests.fuzz.connection import Records
from tests.fuzz.requests import fuzz_requests


class FuzzedChoices:
    def __init__(self, data: bytes) -> None:
        self._provider = atheris.FuzzedDataProvider(data)

    def number(self, least: int, most: int) -> int:
        return self._provider.ConsumeIntInRange(least, most)

    def data(self, most: int) -> bytes:
        return self._provider.ConsumeBytes(self._provider.ConsumeIntInRange(0, most))

    @property
    def is_done(self) -> bool:
        return self._provider.remaining_bytes() == 0


loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
records = Records()
records.addFilter(Unasked())
for name in ("uvicorn.error", "ws_support.servers", "asyncio"):
    logging.getLogger(name).addHandler(records)
    logging.getLogger(name).propagate = False


def test_one(data: bytes) -> None:
    choices = FuzzedChoices(data)
    records.records.clear()
    (fuzz_echo, fuzz_everything, fuzz_requests)[choices.number(0, 2)](loop, choices)
    assert not records.records, records.records[0].getMessage()


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one)
    atheris.Fuzz()
