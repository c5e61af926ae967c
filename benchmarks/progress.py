"""How far it is: a line that is rewritten on a terminal, and a line for each step elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType


class Progress:
    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._started_at = time.monotonic()
        self._on_terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._on_terminal:
            self._write("\r\x1b[K")

    def step(self, text: str) -> None:
        """A step begins."""
        self.say(f"{self._done * 100 // self._steps:3d} %, {self._time()}: {text}")
        self._done += 1

    def say(self, text: str) -> None:
        if self._on_terminal:
            width = shutil.get_terminal_size().columns
            self._write(f"\r\x1b[K{text[: width - 1]}")
        else:
            self._write(f"{text}\n")

    def _time(self) -> str:
        elapsed = int(time.monotonic() - self._started_at)
        return f"{elapsed // 60}:{elapsed % 60:02d}"

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
