"""What `manage.py runasgi` asks of a server, and tells it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar

from django.utils.version import get_version_tuple

from ws_support.conf import Options

__all__ = ["ASGIServer", "Plan"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is served, where and how. It goes to workers, so all of it can be pickled."""

    options: Options
    """What `WS_SUPPORT` says."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    """The path of a Unix socket, instead of host and port."""

    workers: int = 1
    certfile: str | None = None
    """The path of a PEM file with the certificate chain; `None`: no TLS."""

    keyfile: str | None = None
    """The path of a PEM file with its private key."""

    protocol: str | None = None
    """What takes WebSocket frames apart, where a server leaves the choice; `None`: the best."""

    trusted_proxies: tuple[str, ...] = ()
    """Whose `X-Forwarded-*` headers are believed, as `ProxyHeaders` takes them."""

    @property
    def address(self) -> str:
        """For people: `http://127.0.0.1:8000`, `unix:/run/mysite/asgi.sock`."""
        if self.uds:
            return f"unix:{self.uds}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certfile else 'http'}://{host}:{self.port}"


class ASGIServer(ABC):
    """One server. It is imported only when it runs, and so may be missing."""

    name: ClassVar[str]
    """As `--server` takes it."""

    title: ClassVar[str]
    """As its makers write it."""

    requirements: ClassVar[Mapping[str, str]]
    """The distributions that have to be installed, the server's first, with the least versions."""

    extra: ClassVar[str | None]
    """The extra of this package that brings them along; `None`: this package does itself."""

    merit: ClassVar[str]
    """Why it is chosen when it is the best one that is there."""

    protocols: ClassVar[tuple[str, ...]] = ()
    """What takes WebSocket frames apart, as `--ws` names it, where there is a choice."""

    @property
    def version(self) -> str:
        return metadata.version(next(iter(self.requirements)))

    def missing(self) -> str | None:
        """What has to be installed first, in a sentence."""
        return lack(self.title, self.requirements, self.advice)

    @property
    def advice(self) -> str:
        """How to install it."""
        return how_to_install(self.extra)

    def refusals(self, plan: Plan) -> Iterator[str]:
        """What was asked for and cannot be had with this server, a sentence each."""
        if plan.protocol is not None and plan.protocol not in self.protocols:
            yield f"--ws {plan.protocol} is for Uvicorn, and {self.title} has no such choice."

    def differences(self, plan: Plan) -> dict[str, str]:
        """Lines of the summary that read otherwise with this server (`servers.summary`)."""
        return {}

    @abstractmethod
    def websocket_options(self, options: Options) -> dict[str, Any]:
        """`WS_SUPPORT` in the server's own words."""

    @abstractmethod
    def run(self, plan: Plan) -> None:
        """Serve until a signal says to stop.

        Raises `AddressError` when the address cannot be had. May exit the process, with 0 after a
        signal and otherwise with 1.
        """


def lack(who: str, requirements: Mapping[str, str], advice: str) -> str | None:
    """The first distribution that is not installed, or too old, in a sentence with `advice`."""
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
