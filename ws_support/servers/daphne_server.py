"""Daphne with the options of `WS_SUPPORT`, and without the gaps that its users meet.

Each difference names the symptom and the version it was seen with, so that it can go on the day
it is mended there. Whatever is not named here is Daphne's (4.2.3).
"""

from __future__ import annotations

import asyncio
import re
import socket
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Final

import daphne.server  # First: it chooses the reactor, which others only import.
import daphne.ws_protocol
from OpenSSL import crypto
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate, CertificateOptions, KeyPair
from twisted.protocols.tls import TLSMemoryBIOFactory

from ws_support.conf import Options
from ws_support.farewell import CODE, REASON
from ws_support.servers.base import Plan
from ws_support.servers.daphne_flow import ReceiveQueue
from ws_support.servers.daphne_protocol import CAN_DEFLATE, WebSocketProtocol
from ws_support.servers.stopping import Stop

_CERTIFICATE: Final = rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----"


def configuration(options: Options) -> dict[str, Any]:
    """`options` as keyword arguments of `Server`."""
    return {
        "ping_interval": options.keep_alive_interval or inf,
        "ping_timeout": options.keep_alive_timeout or 0,
        "websocket_max_message_size": options.max_message_size,
        "websocket_max_frame_size": options.max_message_size,
        "per_message_deflate": options.per_message_deflate and CAN_DEFLATE,
    }


class Server(daphne.server.Server):  # type: ignore[misc]
    """Daphne's server, for `WebSocketProtocol` connections.

    Takes Daphne's arguments. `ping_interval` and `ping_timeout` are seconds and may be fractions;
    `inf` and 0 switch them off. `per_message_deflate`: compress for clients that offer it.
    """

    def __init__(
        self,
        application: Any,
        *,
        ping_interval: float = 20,
        ping_timeout: float = 30,
        per_message_deflate: bool = False,
        **options: Any,
    ) -> None:
        # Our protocol has timers of its own. Daphne looks every two seconds which pings are due,
        # and txaio (25.12) cuts off the fractions of the second at which a pong is: a timeout of
        # 1 second ends a connection after anything from 0 to 1.
        super().__init__(application, ping_interval=inf, ping_timeout=0, **options)
        self.keep_alive_interval = ping_interval
        self.keep_alive_timeout = ping_timeout
        self.per_message_deflate = per_message_deflate
        self._ports: list[Any] = []

    def listen_success(self, port: Any) -> None:
        self._ports.append(port)
        super().listen_success(port)

    @property
    def ws_factory(self) -> daphne.ws_protocol.WebSocketFactory:
        return self._ws_factory

    @ws_factory.setter
    def ws_factory(self, factory: daphne.ws_protocol.WebSocketFactory) -> None:
        # Daphne's run() makes the factory and offers no choice of its protocol.
        factory.protocol = WebSocketProtocol
        self._ws_factory = factory

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> asyncio.Queue[Any] | None:
        if scope["type"] != "websocket":
            return super().create_application(protocol, scope)  # type: ignore[no-any-return]
        # Daphne undoes percent-encodings, which sub-protocols do not have.
        scope["subprotocols"] = list(protocol.websocket_protocols)
        # Daphne leaves these out, though ASGI asks for the first two.
        scope["scheme"] = protocol.scheme
        scope["http_version"] = "1.1"
        scope["extensions"] = {"websocket.http.response": {}}
        scope["asgi"] = {"version": "3.0"}
        queue = ReceiveQueue(protocol.resume)
        application = asyncio.ensure_future(
            self.application(scope=scope, receive=queue.get, send=partial(self._reply, protocol))
        )
        application.add_done_callback(protocol.application_done)
        self.connections[protocol]["application_instance"] = application
        return queue

    async def _reply(self, protocol: WebSocketProtocol, message: dict[str, Any]) -> None:
        """The application's `send()`."""
        if message["type"] == "websocket.send":
            await protocol.room()
        # As in Daphne: what is sent after the end is dropped.
        if not self.connections.get(protocol, {"disconnected": True}).get("disconnected"):
            protocol.handle_reply(message)

    def kill_all_applications(self) -> Deferred[Any]:
        """Stop listening, say goodbye, cancel every application and wait until all are done.

        Daphne waits for the first one only, and for none when a connection is younger than a
        second: it then looks for the application of the request that became a WebSocket, and the
        KeyError goes to Twisted's log. It listens on meanwhile. What is left over crashes CPython
        3.11 on its way out.
        """
        for port in self._ports:
            port.stopListening()
        ended = asyncio.wait_for(self._end_applications(), self.application_close_timeout)
        deferred = Deferred.fromFuture(asyncio.ensure_future(ended))
        deferred.addErrback(lambda _: None)  # They had their time.
        return deferred

    async def _end_applications(self) -> None:
        # More than once: a handshake may have been on its way.
        while running := self._cancel_applications():
            await asyncio.wait(running)

    def _cancel_applications(self) -> list[asyncio.Future[None]]:
        self._close_websockets()
        running = self._running_applications()
        for application in running:
            application.cancel()
        return running

    def _close_websockets(self) -> None:
        for protocol in self.connections:
            if isinstance(protocol, WebSocketProtocol) and protocol.state == protocol.STATE_OPEN:
                protocol.sendCloseFrame(CODE, REASON.encode())

    def _running_applications(self) -> list[asyncio.Future[None]]:
        applications = (each.get("application_instance") for each in self.connections.values())
        return [each for each in applications if each is not None and not each.done()]


class ProductionServer(Server):
    """What `manage.py runasgi` starts."""

    def __init__(self, application: Any, plan: Plan, listener: socket.socket, stop: Stop) -> None:
        super().__init__(
            application,
            endpoints=["one that listens already"],
            ready_callable=self._adopt_listener,
            signal_handlers=False,  # Twisted's raise at the second signal.
            application_close_timeout=plan.options.shutdown_timeout,
            **configuration(plan.options),
        )
        # Daphne wants some, but only as strings that Twisted makes listen by itself.
        self.endpoints: list[str] = []
        self._plan = plan
        self._listener = listener
        self._stop = stop
        stop.on_signal(partial(reactor.callFromThread, self.stop))

    def _adopt_listener(self) -> None:
        factory = self.http_factory
        if self._plan.certfile is not None and self._plan.keyfile is not None:
            tls: Any = _tls(Path(self._plan.certfile), Path(self._plan.keyfile))
            factory = TLSMemoryBIOFactory(tls, False, factory)
        port = reactor.adoptStreamPort(self._listener.fileno(), self._listener.family, factory)
        self._listener.close()  # Twisted has a copy.
        self.listen_success(port)

    async def _end_applications(self) -> None:
        await self._stop.say_goodbye()
        # What is left: WebSockets of other applications, and requests.
        self._close_websockets()
        if running := self._running_applications():
            await asyncio.wait(running, timeout=self._stop.left_for_the_server)
        await super()._end_applications()


def _tls(certfile: Path, keyfile: Path) -> CertificateOptions:
    """The certificate and all that stand behind it in its file, with TLS 1.2 or newer."""
    first, *others = map(
        Certificate.loadPEM, re.findall(_CERTIFICATE, certfile.read_bytes(), re.DOTALL)
    )
    return CertificateOptions(
        privateKey=KeyPair.load(keyfile.read_bytes(), crypto.FILETYPE_PEM).original,
        certificate=first.original,
        extraCertChain=[each.original for each in others],
    )
