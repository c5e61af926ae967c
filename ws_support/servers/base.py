"""The interface of a server for `manage.py runasgi`, and the configuration that a server gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar

from django.utils.version import get_version_tuple

from ws_support.conf import Options

__all__ = ["ASGIServer", "ServeConfig"]


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Configuration of a server: the address, the workers, TLS and the options.

    Workers get a copy, so every value can be pickled.
    """

    options: Options
    """The options of `WS_SUPPORT`."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    """The path of a Unix socket, which replaces host and port."""

    workers: int = 1
    certfile: str | None = None
    """The path of a PEM file with the certificate chain; `None`: no TLS."""

    keyfile: str | None = None
    """The path of a PEM file with the private key of the certificate."""

    protocol: str | None = None
    """The parser of WebSocket frames, on a server that has several; `None`: the best one."""

    trusted_proxies: tuple[str, ...] = ()
    """Proxies whose `X-Forwarded-*` headers are trusted, in the notation of `ProxyHeaders`."""

    @property
    def address(self) -> str:
        """Return the address as text: `http://127.0.0.1:8000`, `unix:/run/mysite/asgi.sock`."""
        if self.uds:
            return f"unix:{self.uds}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certfile else 'http'}://{host}:{self.port}"


class ASGIServer(ABC):
    """One server, whose package is imported only when the server runs, and so may be missing."""

    name: ClassVar[str]
    """The name that `--server` takes."""

    title: ClassVar[str]
    """The name as the makers of the server write it."""

    requirements: ClassVar[Mapping[str, str]]
    """Required distributions, the server's own first, with the lowest version of each."""

    extra: ClassVar[str | None]
    """The extra of this package that installs the requirements; `None`: no extra is needed."""

    merit: ClassVar[str]
    """The reason that is printed when the command has chosen this server as the best one."""

    protocols: ClassVar[tuple[str, ...]] = ()
    """The parsers of WebSocket frames that `--ws` can choose from; empty: there is no choice."""

    @property
    def version(self) -> str:
        return metadata.version(next(iter(self.requirements)))

    def missing(self) -> str | None:
        """Return a sentence that says what has to be installed first, or `None`."""
        return lack(self.title, self.requirements, self.advice)

    @property
    def advice(self) -> str:
        """Return a sentence that says how to install the server."""
        return how_to_install(self.extra)

    def refusals(self, plan: ServeConfig) -> Iterator[str]:
        """Yield a sentence for each part of `plan` that this server cannot do."""
        if plan.protocol is not None and plan.protocol not in self.protocols:
            yield f"--ws {plan.protocol} is for Uvicorn, and {self.title} has no such choice."

    def differences(self, plan: ServeConfig) -> dict[str, str]:
        """Return the lines of the summary that differ on this server (`banner.summary`)."""
        return {}

    @abstractmethod
    def websocket_options(self, options: Options) -> dict[str, Any]:
        """Return the options of `WS_SUPPORT` under the server's own names."""

    @abstractmethod
    def run(self, plan: ServeConfig) -> None:
        """Serve until a signal says to stop.

        Raises `AddressError` when the server cannot listen at the address. May exit the process,
        with 0 after a signal and otherwise with 1.
        """


def lack(who: str, requirements: Mapping[str, str], advice: str) -> str | None:
    """Return a sentence about the first requirement that is missing or too old, or `None`.

    `requirements` are distributions and their lowest versions. The sentence ends with `advice`.
    """
    for distribution, least in requirements.items():
        try:
            found = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return f"{who} needs {distribution}, which is not installed. {advice}"
        if get_version_tuple(found) < get_version_tuple(least):
            return (
                f"{who} needs {distribution} {least} or newer, and {found} is installed. {advice}"
            )
    return None


def how_to_install(extra: str | None) -> str:
    package = f"django-ws-support[{extra}]" if extra else "django-ws-support"
    return f'Run: python -m pip install --upgrade "{package}"'
