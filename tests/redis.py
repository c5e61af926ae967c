"""A real Redis on a port of its own, which goes away and comes back."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from tests.harness import BOUND, free_port, to_its_end, until

CORE = "channels_redis.core.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
BROKER = "redis"
WAYS = {"core": CORE, "pubsub": PUBSUB, "broker": BROKER}
"""What carries broadcasts: a channel layer, or our own broker beside one."""


class Redis:
    """Keeps nothing on the disk: who starts it again finds it empty."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def layers(self, backend: str = CORE, **config: Any) -> dict[str, Any]:
        """For `CHANNEL_LAYERS`."""
        config = {"hosts": [f"redis://127.0.0.1:{self.port}"], **config}
        return {"default": {"BACKEND": backend, "CONFIG": config}}

    def settings(self, way: str = CORE, *, options: Any = (), **config: Any) -> dict[str, Any]:
        """What carries broadcasts, as Django's settings, with `options` for `WS_SUPPORT`."""
        broker = {} if way == BROKER else {"BROKER": "channel_layer"}
        return {
            "CHANNEL_LAYERS": self.layers(CORE if way == BROKER else way, **config),
            "WS_SUPPORT": {**broker, **dict(options)},
        }

    def start(self, *options: str) -> None:
        address = ("--port", str(self.port), "--bind", "127.0.0.1")
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *(options or ("--save", "")), *address],
                cwd=self._directory,
                stdout=log,
            )
        for _ in until("Redis"):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                continue
            return

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)  # It may be paused.
            self._process.wait(BOUND)
            self._process = None

    def pause(self) -> None:
        """It stays connected and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> str:
        """One command, and what it answers, as Redis writes it."""
        command = "".join([f"*{len(words)}\r\n", *(f"${len(w)}\r\n{w}\r\n" for w in words)])
        with socket.create_connection(("127.0.0.1", self.port), BOUND) as connection:
            connection.sendall(command.encode())
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def names(self) -> list[str]:
        """Of groups and channels."""
        answer = self.ask("KEYS", "*") + self.ask("PUBSUB", "CHANNELS", "*")
        return [line for line in answer.split("\r\n") if line and line[0] not in "*$"]

    def channel_of(self, group: str) -> str:
        """The one channel that is in it."""
        answer = self.ask("ZRANGE", f"asgi:group:{group}", "0", "-1")
        return answer.split("\r\n")[2]


def broadcast_from_the_shell(
    settings: dict[str, Any], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """`manage.py broadcast`, to its end."""
    return to_its_end("broadcast", *arguments, settings=settings)
