from __future__ import annotations

import argparse
import ssl
from contextlib import suppress
from functools import partial
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.management.commands.runserver import naiveip_re

from ws_support import conf
from ws_support.middleware.proxy_headers import UNIX, ProxyHeaders
from ws_support.servers import SERVERS, get_server
from ws_support.servers._run.banner import broadcasts, hubs, summary, unguarded
from ws_support.servers._run.shutdown import stop_at_once_until_it_serves
from ws_support.servers._run.sockets import AddressError
from ws_support.servers.base import ASGIServer, ServeConfig

_HOST: Final = "127.0.0.1"
_PORT: Final = 8000
_LOOPBACK: Final = f"127.0.0.1,::1,{UNIX}"


class Command(BaseCommand):
    help = "Serves ASGI_APPLICATION in production, with the options of WS_SUPPORT."

    def run_from_argv(self, argv: list[str]) -> None:
        stop_at_once_until_it_serves()
        super().run_from_argv(argv)

    def add_arguments(self, parser: CommandParser) -> None:
        add = partial(parser.add_argument, action=_Once)
        parser.add_argument(
            "addrport",
            nargs="?",
            metavar="[ADDRESS:]PORT",
            help="instead of --host and --port, as runserver takes it",
        )
        add("--server", choices=list(SERVERS), help="default: the best one that is installed")
        add(
            "--ws",
            choices=[name for each in map(get_server, SERVERS) for name in each.protocols],
            help="what takes WebSocket frames apart on Uvicorn, default: the fastest installed",
        )
        add("--host", metavar="ADDRESS", help=f"default: {_HOST}")
        add("--port", type=_port, help=f"default: {_PORT}")
        add("--uds", metavar="PATH", help="a Unix socket instead of host and port")
        add("--workers", type=_count, default=1, metavar="N", help="processes, default: 1")
        add("--ssl-certfile", metavar="FILE", help="PEM, with the chain: serve https and wss")
        add("--ssl-keyfile", metavar="FILE", help="PEM, default: in the file of the certificate")
        add(
            "--proxy-headers",
            nargs="?",
            const=_LOOPBACK,
            default="",
            metavar="ADDRESSES",
            help=(
                "believe X-Forwarded-For and X-Forwarded-Proto from these addresses and networks,"
                f' with commas between; "{UNIX}" is whoever comes by a Unix socket, "*" everybody;'
                f" without ADDRESSES: {_LOOPBACK}"
            ),
        )

    def handle(self, *args: Any, **given: Any) -> None:
        plan = _plan(given)
        name = given["server"] or _server_with(plan.protocol)
        server = _named(name, plan) if name else self._best(plan)
        processes = f", {plan.workers} processes" if plan.workers > 1 else ""
        self._say(f"{server.title} {server.version} at {plan.address}{processes}")
        self._say(summary(plan.options, _lines(server, plan)))
        _allow_many_connections()
        try:
            server.run(plan)
        except AddressError as error:
            raise CommandError(f"Cannot listen at {plan.address}: {error}.") from error
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error

    def _say(self, text: str) -> None:
        # A full disk, or a pipe that nobody reads, must not keep the server from starting.
        with suppress(OSError):
            self.stdout.write(text)
            # Otherwise the text stays in the buffer while the server runs, unless the output is a
            # terminal.
            self.stdout.flush()

    def _best(self, plan: ServeConfig) -> ASGIServer:
        """Return the first installed server that can do everything that `plan` asks for."""
        installed = [server for server in map(get_server, SERVERS) if server.missing() is None]
        reasons: list[str] = []
        for server in installed:
            refusals = list(server.refusals(plan))
            if not refusals:
                names = ", ".join(each.name for each in installed)
                self._say(
                    f"Of the servers that are installed ({names}), {server.name} is the best for"
                    f" this: {server.merit}. For another: --server."
                )
                return server
            reasons += refusals
        raise CommandError("\n".join([*reasons, get_server(next(iter(SERVERS))).advice]))


def _plan(given: dict[str, Any]) -> ServeConfig:
    if conf.asgi_application() is None:
        raise CommandError(
            "ASGI_APPLICATION is not set. Write in your settings:"
            ' ASGI_APPLICATION = "mysite.asgi.application"'
        )
    host, port = _address(given)
    certfile, keyfile = given["ssl_certfile"], given["ssl_keyfile"]
    if keyfile and not certfile:
        raise CommandError("--ssl-keyfile is given, and --ssl-certfile is not.")
    if certfile:
        if given["uds"]:
            raise CommandError("--uds and --ssl-certfile: a Unix socket is served without TLS.")
        keyfile = keyfile or certfile
        _check_certificate(certfile, keyfile)
    trusted = tuple(filter(None, given["proxy_headers"].split(",")))
    try:
        ProxyHeaders(None, trusted)
    except ImproperlyConfigured as error:
        raise CommandError(f"--proxy-headers: {error}") from error
    return ServeConfig(
        options=conf.get_options(),
        host=host,
        port=port,
        uds=given["uds"],
        workers=given["workers"],
        protocol=given["ws"],
        certfile=certfile,
        keyfile=keyfile,
        trusted_proxies=trusted,
    )


def _address(given: dict[str, Any]) -> tuple[str, int]:
    """Return the host and the port, from `--host` and `--port` or from the argument."""
    text = given["addrport"]
    if text is None:
        return given["host"] or _HOST, given["port"] or _PORT
    if more := [name for name in ("host", "port", "uds") if given[name] is not None]:
        raise CommandError(f"{text} and --{more[0]} are given: both say where to listen.")
    found = naiveip_re.fullmatch(text)
    try:
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r} is no port and no address:port")
        return (found["addr"] or _HOST).strip("[]"), _port(found["port"])
    except argparse.ArgumentTypeError as error:
        raise CommandError(str(error)) from None


def _server_with(protocol: str | None) -> str | None:
    """Return the name of the server that has the `--ws` choice `protocol`, or `None`."""
    return next((name for name in SERVERS if protocol in get_server(name).protocols), None)


def _named(name: str, plan: ServeConfig) -> ASGIServer:
    server = get_server(name)
    if missing := server.missing():
        raise CommandError(missing)
    if refusals := list(server.refusals(plan)):
        raise CommandError("\n".join(refusals))
    return server


def _lines(server: ASGIServer, plan: ServeConfig) -> dict[str, str]:
    lines = {
        **unguarded(),
        **server.differences(plan),
        "broadcasts": broadcasts(plan.workers),
        **hubs(plan.workers),
        "stopping": f"within {plan.options.shutdown_timeout:g} s",
    }
    if plan.trusted_proxies:
        lines["proxies"] = f"X-Forwarded-* is believed from {', '.join(plan.trusted_proxies)}"
    if options := server.websocket_options(plan.options):
        lines[server.name] = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return lines


def _check_certificate(certfile: str, keyfile: str) -> None:
    """Raise `CommandError` if the files cannot be used.

    Every server would refuse them, too, each with its own error.
    """
    try:
        # Without a password, OpenSSL would ask for one at the terminal.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            certfile, keyfile, password=lambda: ""
        )
    except OSError as error:
        raise CommandError(
            f"--ssl-certfile {certfile} and --ssl-keyfile {keyfile} cannot be used: {error}"
        ) from error


def _allow_many_connections() -> None:
    """Raise the limit of open files, since each connection is one.

    Many systems allow 1,024 until a process asks for more.
    """
    with suppress(ImportError):  # Windows
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # macOS allows less than the hard limit that it reports.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Once(argparse.Action):
    """An option that may be given only once: argparse ignores the first of two silently."""

    _is_given = False

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if self._is_given:
            raise argparse.ArgumentError(self, "given twice")
        self._is_given = True
        setattr(namespace, self.dest, values)


def _port(text: str) -> int:
    return _number(text, 1, 65535)


def _count(text: str) -> int:
    return _number(text, 1, 1024)


def _number(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
    return int(text)
