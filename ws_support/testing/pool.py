"""Servers that are kept, for every test that asks for the same."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol

from ws_support.testing.ports import free_port
from ws_support.testing.server import Server, Spawn, spawn_python

__all__ = ["ServerGetter", "ServerPool"]


class ServerPool:
    """Servers of a project, each of which is kept and given to every test that asks for its like.

    `directory` is where the logs go, and `cwd` where `manage.py` is. Of more than `most` servers
    the one that was asked for least recently is stopped.
    """

    def __init__(
        self,
        directory: Path,
        *,
        cwd: Path | None = None,
        spawn: Spawn = spawn_python,
        most: int = 8,
    ) -> None:
        self._directory = directory
        self._cwd = cwd or Path.cwd()
        self._spawn = spawn
        self._most = most
        self._kept: OrderedDict[str, Server] = OrderedDict()
        self._count = 0

    def get(
        self,
        server: str | None = None,
        *,
        command: str | Sequence[str] = "runasgi",
        arguments: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        group: str = "",
    ) -> Server:
        """Return a server that listens, started by an earlier call with equal arguments, or now.

        One that has ended meanwhile is started again.

        - `server`: what `runasgi --server` takes: "uvicorn", "granian", "hypercorn" or "daphne".
        - `command`: "runasgi", "runserver", or the arguments of Python for any other command, in
          which `{host}` and `{port}` are replaced.
        - `arguments`: further ones for the command.
        - `settings`: Django settings in place of the project's. They travel as JSON.
        - `environment`: further environment variables.
        - `group`: any name. Tests of one group do not share servers with those of another.
        """
        variables = {**(environment or {}), **_overriding(settings or {}, environment or {})}
        line = [*self._command(command, server), *arguments]
        key = json.dumps([group, line, variables, host], sort_keys=True)
        kept = self._kept.pop(key, None)
        if kept is None or kept.process.poll() is not None:
            name = server or (command if isinstance(command, str) else " ".join(command))
            kept = self._start(line, variables, host, name)
        self._kept[key] = kept
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)[1].stop()
        return kept

    def stop(self) -> None:
        """Stop every server."""
        with ExitStack() as stack:
            while self._kept:
                stack.enter_context(self._kept.popitem()[1])

    def _command(self, command: str | Sequence[str], server: str | None) -> list[str]:
        if not isinstance(command, str):
            return list(command)
        manage = ["manage.py"] if (self._cwd / "manage.py").exists() else ["-m", "django"]
        if command == "runserver":
            return [*manage, "runserver", "--noreload", "{host}:{port}"]
        if command == "runasgi":
            choice = [] if server is None else ["--server", server]
            return [*manage, "runasgi", *choice, "--host", "{host}", "--port", "{port}"]
        raise ValueError(
            f"command={command!r}: use 'runasgi', 'runserver', or a list of the arguments of Python"
            ' such as ["-m", "uvicorn", "mysite.asgi:application", "--port", "{port}"].'
        )

    def _start(
        self, line: Sequence[str], environment: Mapping[str, str], host: str, name: str
    ) -> Server:
        self._count += 1
        port = free_port(host)
        server = Server.start(
            [each.replace("{host}", host).replace("{port}", str(port)) for each in line],
            self._directory / f"server-{self._count}.log",
            host=host,
            port=port,
            environment=environment,
            cwd=self._cwd,
            name=name,
            spawn=self._spawn,
        )
        try:
            server.wait_until_listening()
        except BaseException:
            server.stop()
            raise
        return server


class ServerGetter(Protocol):
    """`ServerPool.get`, for one test."""

    def __call__(
        self,
        server: str | None = None,
        *,
        command: str | Sequence[str] = "runasgi",
        arguments: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        group: str = "",
    ) -> Server: ...


_SETTINGS_MODULE: Final = "DJANGO_SETTINGS_MODULE"
_OVERRIDDEN_MODULE: Final = "WS_SUPPORT_TESTING_SETTINGS_MODULE"
_OVERRIDES: Final = "WS_SUPPORT_TESTING_SETTINGS"


def _overriding(settings: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables by which a process has `settings` in place of its own."""
    if not settings:
        return {}
    module = environment.get(_SETTINGS_MODULE) or os.environ.get(_SETTINGS_MODULE)
    if not module:
        raise ValueError(
            f"settings: {_SETTINGS_MODULE} is not set, so that nobody knows which settings to"
            " change. Set it, or give it in environment."
        )
    try:
        text = json.dumps(settings, sort_keys=True)
    except TypeError as error:
        raise TypeError(f"settings: they go to another process as JSON: {error}.") from error
    return {
        _SETTINGS_MODULE: "ws_support.testing._settings",
        _OVERRIDDEN_MODULE: module,
        _OVERRIDES: text,
    }
