"""Daphne's server with the options of `WS_SUPPORT`, and with corrections.

Each difference names the symptom and the version with it, so that the difference can be deleted
when the server has been corrected. Everything else is Daphne's (4.2.3).
"""

from __future__ import annotations

import asyncio
import re
import socket
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Final

import daphne.server  # First, since this module chooses the reactor that other modules import.
import daphne.ws_protocol
from OpenSSL import crypto
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate, CertificateOptions, KeyPair
from twisted.protocols.tls import TLSMemoryBIOFactory

from ws_support._asgi import DirectSend, add_direct
from ws_support._connection.registry import CODE, REASON, open_connections
from ws_support.conf import Options
from ws_support.exceptions import ClientGone
from ws_support.servers._run.application import apply_prefix
from ws_support.servers._run.shutdown import Stop, wake_at_signals
from ws_support.servers.base import ServeConfig
from ws_support.servers.daphne.flow import ReceiveQueue
from ws_support.servers.daphne.http import HTTPFactory, WebRequest
from ws_support.servers.daphne.websocket import CAN_DEFLATE, WebSocketProtocol

_PATIENCE: Final = 1
"""Seconds that an application has to end after it was told that its client has left."""

_TALKING: Final = (WebSocketProtocol.STATE_CONNECTING, WebSocketProtocol.STATE_OPEN)

_NO_LIMITS: Final = {
    "websocket_timeout": -1,
    "websocket_connect_timeout": inf,
    "websocket_handshake_timeout": 0,
    "application_close_timeout": inf,
}
"""Options that switch off Daphne's own timeouts. Daphne ends a WebSocket after a day, a handshake
whose application takes more than 5 s, and an application 10 s after its client has left, with a
warning."""

_CERTIFICATE: Final = rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----"


def configuration(options: Options) -> dict[str, Any]:
    """Return `options` as keyword arguments of `Server`."""
    return {
        "ping_interval": options.keep_alive_interval or inf,
        "ping_timeout": options.keep_alive_timeout or 0,
        "websocket_max_message_size": options.max_message_size,
        "websocket_max_frame_size": options.max_message_size,
        "per_message_deflate": options.per_message_deflate and CAN_DEFLATE,
    }


class Server(daphne.server.Server):  # type: ignore[misc]
    """Daphne's server, with `WebSocketProtocol` for its connections.

    Takes Daphne's arguments. `ping_interval` and `ping_timeout` are seconds and may be fractions;
    `inf` switches pings off, and 0 the wait for pongs. `per_message_deflate`: compress for clients
    that offer it. `stop_timeout`: seconds that applications may take to end when the server stops.
    """

    def __init__(
        self,
        application: Any,
        *,
        ping_interval: float = 20,
        ping_timeout: float = 30,
        per_message_deflate: bool = False,
        stop_timeout: float = 10,
        **options: Any,
    ) -> None:
        # `WebSocketProtocol` has its own timers. Daphne checks every two seconds which pings are
        # due, and txaio (25.12) rounds the deadline of a pong down to whole seconds: a timeout of
        # 1 second ends a connection after 0 to 1 seconds.
        super().__init__(
            application, ping_interval=inf, ping_timeout=0, **{**_NO_LIMITS, **options}
        )
        self.keep_alive_interval = ping_interval
        self.keep_alive_timeout = ping_timeout
        self.per_message_deflate = per_message_deflate
        self.stop_timeout = stop_timeout
        self.patience: float = _PATIENCE
        self._ports: list[Any] = []

    def listen_success(self, port: Any) -> None:
        self._ports.append(port)
        super().listen_success(port)

    @property
    def http_factory(self) -> HTTPFactory:
        return self._http_factory

    @http_factory.setter
    def http_factory(self, _: Any) -> None:
        # Daphne's run() makes this factory, and has no option for the class of requests.
        self._http_factory = HTTPFactory(self)

    @property
    def ws_factory(self) -> daphne.ws_protocol.WebSocketFactory:
        return self._ws_factory

    @ws_factory.setter
    def ws_factory(self, factory: daphne.ws_protocol.WebSocketFactory) -> None:
        # Daphne's run() makes this factory, and has no option for its protocol.
        factory.protocol = WebSocketProtocol
        # autobahn also accepts a draft of the protocol (RFC 6455, section 4.1: the version is 13).
        factory.setProtocolOptions(versions=[13])
        self._ws_factory = factory

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> asyncio.Queue[Any] | None:
        if scope["type"] != "websocket":
            queue = super().create_application(protocol, scope)
            self.connections[protocol]["application_instance"].add_done_callback(
                partial(self._application_done, protocol)
            )
            return queue  # type: ignore[no-any-return]
        # Daphne decodes percent-encodings, which sub-protocols do not have.
        scope["subprotocols"] = list(protocol.websocket_protocols)
        # Daphne leaves these out, though ASGI asks for the first two.
        scope["scheme"] = protocol.scheme
        scope["http_version"] = "1.1"
        scope["extensions"] = {"websocket.http.response": {}}
        scope["asgi"] = {"version": "3.0"}
        if prefix := self.root_path.rstrip("/"):
            # `runserver` passes FORCE_SCRIPT_NAME as `root_path`. Django removes this prefix from
            # the path of a page if it is there; Channels' router requires it in the path of a
            # WebSocket.
            apply_prefix(scope, prefix)
        messages = ReceiveQueue(protocol.resume)
        send = partial(self._reply, protocol)
        add_direct(scope, DirectSend(send))
        application: asyncio.Future[None]
        try:
            application = asyncio.ensure_future(
                self.application(scope=scope, receive=messages.get, send=send)
            )
        except Exception as error:
            # Daphne leaves such a client without an answer until the timeout of the handshake.
            application = asyncio.get_running_loop().create_future()
            application.set_exception(error)
        application.add_done_callback(protocol.application_done)
        application.add_done_callback(partial(self._application_done, protocol))
        self.connections[protocol]["application_instance"] = application
        return messages

    async def _reply(self, protocol: WebSocketProtocol, message: dict[str, Any]) -> None:
        """Send a message of a WebSocket's application."""
        if message["type"] == "websocket.send":
            await protocol.room()
        if protocol.state in _TALKING and self._is_connected(protocol):
            protocol.handle_reply(message)
        else:
            await protocol.leftovers.drop()

    async def handle_reply(self, protocol: WebRequest, message: dict[str, Any]) -> None:
        """Send a message of a request's application."""
        if not self._is_connected(protocol):
            await protocol.leftovers.drop()
            return
        await super().handle_reply(protocol, message)
        if message["type"] == "http.response.body":
            await protocol.room()

    def _is_connected(self, protocol: Any) -> bool:
        details = self.connections.get(protocol)
        return details is not None and "disconnected" not in details

    def _application_done(self, protocol: Any, application: asyncio.Future[None]) -> None:
        """Forget an application that has ended with `ClientGone`, which `send()` raises.

        Daphne would log a traceback for such an application.
        """
        if not application.cancelled() and isinstance(application.exception(), ClientGone):
            self.connections.get(protocol, {}).pop("application_instance", None)

    def run(self) -> None:
        super().run()
        # Django and other applications leave tasks behind that they have started for their
        # connections, when they are cancelled. CPython 3.11 crashes at its exit while a task is
        # suspended.
        reactor._asyncioEventloop.run_until_complete(_end_tasks())

    def kill_all_applications(self) -> Deferred[Any]:
        """Stop listening, drain the connections, end every application and wait for all of them.

        Daphne 4.2.3 waits for the first application only. When a connection is younger than a
        second, Daphne waits for none: it looks up the application of the request that has become a
        WebSocket, and the KeyError goes to Twisted's log. Daphne also listens on meanwhile.
        """
        for port in self._ports:
            port.stopListening()
        ended = asyncio.wait_for(self._end_applications(), self.stop_timeout)
        deferred = Deferred.fromFuture(asyncio.ensure_future(ended))
        deferred.addErrback(lambda _: None)  # After the timeout, the server stops all the same.
        return deferred

    async def _end_applications(self) -> None:
        open_connections.drain()
        # Those of hubs have a last message to send, and some have no request at present.
        await open_connections.wait_until_empty(self.patience / 2)
        self._close_websockets()
        self._end_requests()
        if running := self._running_applications():
            await asyncio.wait(running, timeout=self.patience / 2)
        # Repeated, since a handshake may have been on its way.
        while running := self._cancel_applications():  # pragma: no branch
            await asyncio.wait(running)  # pragma: no cover  # Only for what ignores its end.

    def _end_requests(self) -> None:
        """Send every request's application `http.disconnect`.

        Django cancels a view at `http.disconnect`. When Django is cancelled itself, its view goes
        on.
        """
        for request in self._requests():
            request.leave()

    def _requests(self) -> list[WebRequest]:
        return [each for each in self.connections if isinstance(each, WebRequest)]

    def _cancel_applications(self) -> list[asyncio.Future[None]]:
        self._close_websockets()
        running = self._running_applications()
        for application in running:
            application.cancel()  # pragma: no cover  # Only for what ignores its end.
        return running

    def _close_websockets(self) -> None:
        for protocol in self.connections:
            if isinstance(protocol, WebSocketProtocol) and protocol.state == protocol.STATE_OPEN:
                protocol.sendCloseFrame(CODE, REASON.encode())

    def _running_applications(self) -> list[asyncio.Future[None]]:
        applications = (each.get("application_instance") for each in self.connections.values())
        return [each for each in applications if each is not None and not each.done()]


async def _end_tasks() -> None:
    """Cancel every task of this loop and wait until all have ended, as `asyncio.run()` does."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


class ProductionServer(Server):
    """The server that `manage.py runasgi` starts."""

    def __init__(
        self, application: Any, plan: ServeConfig, listener: socket.socket, stop: Stop
    ) -> None:
        super().__init__(
            application,
            endpoints=["one that listens already"],
            ready_callable=self._adopt_listener,
            signal_handlers=False,  # Twisted's handlers raise an error at the second signal.
            stop_timeout=plan.options.shutdown_timeout,
            **configuration(plan.options),
        )
        # This wait begins after 90 % of the shutdown time, so only a part of the rest is used.
        self.patience = min(_PATIENCE, 0.05 * plan.options.shutdown_timeout)
        self._is_stopping = False
        # Daphne requires endpoints as strings, for which Twisted would make its own sockets. The
        # listener is adopted instead, so the list is emptied.
        self.endpoints: list[str] = []
        self._plan = plan
        self._listener = listener
        self._stop = stop
        reactor.callWhenRunning(lambda: wake_at_signals(asyncio.get_running_loop()))
        stop.on_signal(partial(reactor.callFromThread, self.stop))

    def _adopt_listener(self) -> None:
        factory: Any = self.http_factory
        if self._plan.certfile is not None and self._plan.keyfile is not None:
            tls: Any = _tls(Path(self._plan.certfile), Path(self._plan.keyfile))
            factory = TLSMemoryBIOFactory(tls, False, factory)
        port = reactor.adoptStreamPort(self._listener.fileno(), self._listener.family, factory)
        self._listener.close()  # Twisted has a copy.
        self.listen_success(port)

    async def _end_applications(self) -> None:
        # Event streams end first: they would take all of the time, and their clients reconnect.
        self._is_stopping = True
        for request in self._requests():
            if request.is_event_stream:
                self._end_stream(request)
        await self._stop.say_goodbye()
        # What is left are WebSockets of applications other than ours, and requests.
        self._close_websockets()
        if running := self._running_applications():
            await asyncio.wait(running, timeout=self._stop.left_for_the_server)
        await super()._end_applications()

    async def handle_reply(self, protocol: WebRequest, message: dict[str, Any]) -> None:
        await super().handle_reply(protocol, message)
        if (
            self._is_stopping
            and message["type"] == "http.response.start"
            and protocol.is_event_stream
        ):
            self._end_stream(protocol)

    def _end_stream(self, request: WebRequest) -> None:
        request.leave()
        application = self.connections[request]["application_instance"]
        # For an application that does not receive `http.disconnect`.
        asyncio.get_running_loop().call_later(_PATIENCE, application.cancel)


def _tls(certfile: Path, keyfile: Path) -> CertificateOptions:
    """Return options for TLS 1.2 or newer, with the certificate and the chain of `certfile`."""
    first, *others = map(
        Certificate.loadPEM, re.findall(_CERTIFICATE, certfile.read_bytes(), re.DOTALL)
    )
    return CertificateOptions(
        privateKey=KeyPair.load(keyfile.read_bytes(), crypto.FILETYPE_PEM).original,
        certificate=first.original,
        extraCertChain=[each.original for each in others],
    )
