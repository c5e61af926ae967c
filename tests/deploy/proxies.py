"""The files of docs/deploy at work: each proxy in front of `manage.py runasgi`, without root."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, ClassVar

from websockets.sync.client import ClientConnection, connect

from tests.certificates import Certificates
from tests.conftest import need_program
from tests.harness import BOUND, ROOT, Server, free_port, until
from tests.harness import running as running_server

FILES = ROOT / "docs" / "deploy"
NOTHING: Mapping[str, Any] = {}


@dataclass
class Answer:
    response: HTTPResponse
    body: bytes


class Proxy(ABC):
    """A proxy with its file of docs/deploy, in which paths and ports are replaced by a test's."""

    name: ClassVar[str]
    file: ClassVar[str]
    by_socket: ClassVar[bool]
    """Whether it reaches `runasgi` by a Unix socket; else by TCP."""

    def __init__(self, folder: Path, certificates: Certificates, static: Path) -> None:
        self.folder = folder
        self.certificates = certificates
        self.static = static
        self.port, self.http_port, self.server_port = free_port(), free_port(), free_port()
        self.socket = folder / "asgi.sock"
        self.process: subprocess.Popen[bytes]
        self.server: Server
        """What is behind it."""

    @property
    def origin(self) -> str:
        return f"https://localhost:{self.port}"

    def connect(self, path: str = "/ws", **options: Any) -> ClientConnection:
        """A client from an allowed origin that sends no pings of its own."""
        options = {"origin": self.origin, "ping_interval": None, **options}
        return connect(
            f"wss://localhost:{self.port}{path}",
            ssl=self.certificates.context_for_threads(),
            max_size=None,
            proxy=None,  # None on the way there.
            **options,
        )

    def client(self, source: str = "127.0.0.1") -> HTTPSConnection:
        return HTTPSConnection(
            "localhost",
            self.port,
            timeout=BOUND,
            context=self.certificates.context(),
            source_address=(source, 0),
        )

    def get(
        self, path: str, headers: Mapping[str, str] = NOTHING, *, source: str = "127.0.0.1"
    ) -> Answer:
        return answer(self.client(source), "GET", path, headers=headers)

    def get_by_http(self, path: str, headers: Mapping[str, str]) -> Answer:
        client = HTTPConnection("localhost", self.http_port, timeout=BOUND)
        return answer(client, "GET", path, headers=headers)

    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    @property
    def _log_file(self) -> Path:
        return self.folder / "proxy.log"

    @contextmanager
    def running(self, changes: Mapping[str, str]) -> Iterator[None]:
        self.write(changes)
        with started(self.command(), self._log_file, self.environment()) as self.process:
            for port in (self.port, self.http_port):
                wait_until_listening(("127.0.0.1", port), self.process, self.log)
            yield

    def write(self, changes: Mapping[str, str]) -> None:
        """The file of docs/deploy with a test's changes, and those without which it cannot run."""
        text = replaced((FILES / self.file).read_text(), changes)
        (self.folder / self.file).write_text(replaced(text, self.replacements()))

    @abstractmethod
    def replacements(self) -> dict[str, str]:
        """What only root may use or others use already, and what to use instead."""

    @abstractmethod
    def command(self) -> list[str]: ...

    def environment(self) -> dict[str, str]:
        return {}

    @abstractmethod
    def reload(self) -> None:
        """Have it use the file as that is now, from some time soon."""


class Nginx(Proxy):
    name = "nginx"
    file = "nginx.conf"
    by_socket = True

    def replacements(self) -> dict[str, str]:
        return {
            "listen 80;": f"listen 127.0.0.1:{self.http_port};",
            "listen [::]:80;": "",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{self.port} ssl http2;",
            "listen [::]:443 ssl http2;": "",
            "www.example.com": "localhost",
            "/etc/ssl/mysite/fullchain.pem": str(self.certificates.chain),
            "/etc/ssl/mysite/privkey.pem": str(self.certificates.key),
            "/srv/mysite/static/": f"{self.static}/",
            "/run/mysite/asgi.sock": str(self.socket),
        }

    def command(self) -> list[str]:
        # Who is not root cannot become anybody else; and who is would, and could read nothing here.
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = self.folder / "main.conf"
        main.write_text(f"""
            {user} daemon off; worker_processes 2; pid {self.folder}/nginx.pid;
            events {{ worker_connections 100; }}
            http {{
                types {{ text/html html; text/css css; text/javascript js; }}
                access_log {self._log_file};
                {temporary}
                include {self.folder / self.file};
            }}
        """)
        return [need_program("nginx"), "-e", "stderr", "-c", str(main)]

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)


class HAProxy(Proxy):
    name = "haproxy"
    file = "haproxy.cfg"
    by_socket = False

    def replacements(self) -> dict[str, str]:
        both = self.folder / "both.pem"
        both.write_bytes(self.certificates.chain.read_bytes() + self.certificates.key.read_bytes())
        return {
            "log /dev/log local0": "log stdout format raw local0",
            "user haproxy": "",
            "group haproxy": "",
            "chroot /var/lib/haproxy": "",
            "maxconn 20000": "maxconn 100",
            ":::80 v4v6": f"127.0.0.1:{self.http_port}",
            ":::443 v4v6": f"127.0.0.1:{self.port}",
            "/etc/haproxy/mysite.pem": str(both),
            "127.0.0.1:8000": f"127.0.0.1:{self.server_port}",
        }

    def command(self) -> list[str]:
        # With a master process, as Debian's unit starts it.
        return [need_program("haproxy"), "-W", "-f", str(self.folder / self.file)]

    def reload(self) -> None:
        # For some 50 ms after it has started, its master process loses them (2.6).
        for _ in until("reload", self.log):
            self.process.send_signal(signal.SIGUSR2)
            if "Reloading HAProxy" in self.log():
                return


class Caddy(Proxy):
    name = "caddy"
    file = "Caddyfile"
    by_socket = True

    def replacements(self) -> dict[str, str]:
        return {
            "\tservers {": (
                f"\tadmin unix/{self.folder}/admin.sock\n"
                "\tskip_install_trust\n"
                f"\thttp_port {self.http_port}\n"
                f"\thttps_port {self.port}\n"
                "\tservers {"
            ),
            "www.example.com {": (
                "localhost {\n"
                "\tbind 127.0.0.1\n"
                f"\ttls {self.certificates.chain} {self.certificates.key}\n"
            ),
            "/srv/mysite/static": str(self.static),
            "/run/mysite/asgi.sock": str(self.socket),
        }

    def environment(self) -> dict[str, str]:
        return dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(self.folder))

    def command(self) -> list[str]:
        return self._caddy("run")

    def reload(self) -> None:
        subprocess.run(
            self._caddy("reload"),
            env={**os.environ, **self.environment()},
            check=True,
            capture_output=True,
            timeout=BOUND,
        )

    def _caddy(self, command: str) -> list[str]:
        file = self.folder / self.file
        return [need_program("caddy"), command, "--adapter", "caddyfile", "--config", str(file)]


PROXIES = {each.name: each for each in (Nginx, HAProxy, Caddy)}


@contextmanager
def running(
    proxy: Proxy,
    *,
    changes: Mapping[str, str] = NOTHING,
    arguments: tuple[str, ...] = ("--proxy-headers",),
    **settings: Any,
) -> Iterator[None]:
    """`proxy`, its file with `changes`, in front of `tests.project` with these settings.

    `arguments` are those of `runasgi`, besides where it listens.
    """
    settings = {"WS_SUPPORT": {"ALLOWED_ORIGINS": [proxy.origin]}, **settings}
    with behind(proxy, arguments, settings), proxy.running(changes):
        yield


@contextmanager
def behind(proxy: Proxy, arguments: tuple[str, ...], settings: dict[str, Any]) -> Iterator[None]:
    listen = ["--host", "127.0.0.1", "--port", str(proxy.server_port)]
    if proxy.by_socket:
        listen = ["--uds", str(proxy.socket)]
    with running_server(
        ["manage.py", "runasgi", "--server", "uvicorn", *listen, *arguments],
        proxy.folder / "server.log",
        port=proxy.server_port,
        environment={
            "DJANGO_SETTINGS_MODULE": "tests.project.settings",
            "TEST_SETTINGS": json.dumps(settings),
        },
        listens_at=proxy.socket if proxy.by_socket else None,
        name="uvicorn",
    ) as proxy.server:
        yield


@contextmanager
def started(
    command: list[str], log_file: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the test, and with it all that it started."""
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(BOUND)
        finally:
            kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(BOUND)


Address = str | tuple[str, int]
"""The path of a Unix socket, or a host and a port."""


def wait_until_listening(
    address: Address, process: subprocess.Popen[bytes], log: Callable[[], str]
) -> None:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    for _ in until(f"server at {address}", log):
        assert process.poll() is None, log()
        with socket.socket(family) as probe, suppress(OSError):
            probe.connect(address)
            return


def replaced(text: str, replacements: Mapping[str, str]) -> str:
    """Fails for a string that is not there: what the test is about has gone."""
    for old, new in replacements.items():
        assert old in text, f"{old!r} is not in:\n{text}"
        text = text.replace(old, new)
    return text


def answer(client: HTTPConnection, method: str, path: str, **options: Any) -> Answer:
    try:
        client.request(method, path, **options)
        response = client.getresponse()
        return Answer(response, response.read())
    finally:
        client.close()


async def streaming(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """An application whose answer goes on until the client has seen enough."""
    if scope["type"] != "http":
        raise ValueError(f"No application for the scope type {scope['type']}.")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
