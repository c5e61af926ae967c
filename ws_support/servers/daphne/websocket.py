"""Daphne's side of a WebSocket, without the gaps that its users meet.

Each difference names the symptom and the version it was seen with, so that it can go on the day
it is mended there. Whatever is not named here is Daphne's (4.2.3) and autobahn's (26.10.2).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from inspect import signature
from math import inf
from typing import Any, Final

import daphne.server  # First: it chooses the reactor, which others only import.
import daphne.ws_protocol
from autobahn.util import encode_truncate
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.compress_deflate import PerMessageDeflate
from autobahn.websocket.protocol import WebSocketProtocol as AutobahnProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.web.http import RESPONSES

from ws_support._protocol.handshake import Refused, Request
from ws_support.close_codes import CloseCode, may_be_sent
from ws_support.servers._run.leftovers import Leftovers
from ws_support.servers.daphne.flow import Outbox, ReceiveQueue

logger = logging.getLogger("ws_support.daphne")

# Twisted (26.10) answers 426 Unknown Status.
RESPONSES.setdefault(426, b"Upgrade Required")

# autobahn (26.10) knows the codes up to 1013.
AutobahnProtocol.CLOSE_STATUS_CODES_ALLOWED.append(CloseCode.BAD_GATEWAY)

_ORIGIN_HEADER = re.compile(rb"\r\norigin:([^\r\n]*)\r\n", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_FLUSH_TIMEOUT = 10
"""Seconds in which the last words have to reach a client that we have finished with."""
_WINDOW_BITS = 12  # 4 KiB
_MAX_REASON_SIZE = 123  # bytes (RFC 6455, section 5.5)

CAN_DEFLATE: Final = (
    "max_output_len" in signature(PerMessageDeflate.decompress_message_data).parameters
)
"""Whether autobahn limits what a compressed message becomes. Older ones than 26 inflate a few
kilobytes to gigabytes (GHSA-hxp9-w8x3-p566)."""


class WebSocketProtocol(daphne.ws_protocol.WebSocketProtocol):  # type: ignore[misc]
    """One WebSocket connection."""

    # Options of autobahn. Daphne leaves the defaults, by which a client that breaks the protocol
    # or sends too much is cut off without a close frame, and its own code is answered with 1000.
    failByDrop = False
    echoCloseCodeReason = True
    # Seconds for the client to answer a close. autobahn allows 1 and waits for anything from 0
    # to 1, for the reason that Server gives, and so cuts off clients before they can read it.
    closeHandshakeTimeout = 3

    _origin: str | None = None
    _ping_timer: asyncio.TimerHandle | None = None
    _pong_timer: asyncio.TimerHandle | None = None
    _flush_timer: asyncio.TimerHandle | None = None
    _denial: dict[str, Any] | None = None
    _outbox: Outbox | None = None
    _late_pong: bytes | None = None
    _is_paused = False
    application_queue: ReceiveQueue
    websocket_extensions: list[tuple[str, dict[str, Any]]]
    muted: bool

    # Handshake

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.leftovers = Leftovers()

    @property
    def http_headers(self) -> dict[str, str]:
        return self._http_headers

    @http_headers.setter
    def http_headers(self, headers: dict[str, str]) -> None:
        # autobahn refuses some malformed origins by itself and with 400. Who may connect is the
        # application's decision, and so are the log line and the signal that go with it. It also
        # strips what Unicode calls a space, such as the byte A0, and so mends others.
        headers.pop("origin", None)
        origin = _ORIGIN_HEADER.search(self.http_request_data)
        self._origin = origin[1].strip(b" \t").decode("latin-1") if origin else None
        self._http_headers = headers

    @property
    def scheme(self) -> str:
        secure = self._transport_details.is_secure
        return "wss" if secure or getattr(self, "client_scheme", None) == "https" else "ws"

    def onConnect(self, request: ConnectionRequest) -> Any:
        if self._origin is not None:
            request.headers["origin"] = self._origin
        self.websocket_extensions = [
            each for each in self.websocket_extensions if self._is_usable(*each)
        ]
        self.perMessageCompressionAccept = self._accept_deflate
        if not all(map(_TOKEN.fullmatch, self.websocket_protocols)):
            # Daphne logs a traceback for what is not ASCII, and takes the rest.
            raise ConnectionDeny(400, "A sub-protocol is not a token.")
        offers = self._http_headers.get("sec-websocket-extensions", "").encode("latin-1")
        try:
            Request(b"", b"", [(b"sec-websocket-extensions", offers)]).check_extensions()
        except Refused as refused:
            raise ConnectionDeny(int(refused.status), refused.reason) from None
        return super().onConnect(request)

    def _is_usable(self, extension: str, parameters: dict[str, Any]) -> bool:
        """autobahn parses the offers when the application has accepted, and refuses the whole
        handshake for one that is odd. RFC 7692 (5.1) declines the offer."""
        if (
            not self.factory.server_class.per_message_deflate
            or extension != PerMessageDeflate.EXTENSION_NAME
        ):
            return False
        try:
            PerMessageDeflateOffer.parse(parameters)
        except Exception:  # It raises nothing less.
            return False
        return True

    def _accept_deflate(self, offers: list[PerMessageDeflateOffer]) -> PerMessageDeflateOfferAccept:
        """The first offer, with windows of 4 KiB where the client lets us choose, as in Uvicorn:
        the usual 32 KiB save little more and take eight times the memory."""
        offer = offers[0]
        # autobahn does not say which window the client wants, which the answer has to respect.
        [wanted] = self.websocket_extensions[0][1].get("client_max_window_bits", [None])
        may_choose = wanted is not None and (wanted is True or int(wanted) >= _WINDOW_BITS)
        return PerMessageDeflateOfferAccept(
            offer,
            window_bits=min(_WINDOW_BITS, offer.request_max_window_bits or _WINDOW_BITS),
            request_max_window_bits=_WINDOW_BITS if may_choose else 0,
            mem_level=5,
        )

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        if code == 400 and responseHeaders:
            # An unknown version. autobahn names the known ones, but with 400 (RFC 6455, 4.2.2).
            code = 426
        if not hasattr(self, "application_queue"):
            # Else the application refused, and knows best what to log.
            # autobahn quotes an address that it cannot parse.
            told = reason.partition("?")[0]
            logger.warning("Refused with %d: %.200a", code, told, extra=self._log_fields())
        super().failHandshake(reason, code, responseHeaders)

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        # autobahn writes the reason into the status line and sends no body.
        headers = {name: [value] for name, value in responseHeaders or ()}
        headers["Content-Type"] = ["text/plain; charset=utf-8"]
        self._write_response(code, headers, f"{reason}\n".encode())

    def serverAccept(
        self, subprotocol: str | None = None, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        if not hasattr(self, "handshake_deferred"):
            raise ValueError("This connection was accepted or refused before.")
        if subprotocol is not None and subprotocol not in self.websocket_protocols:
            # autobahn raises where nobody sees it, and the client waits in vain.
            raise ValueError(
                f"The client did not offer the sub-protocol {subprotocol!r}, but"
                f" {self.websocket_protocols}."
            )
        # Daphne drops the headers of the accept.
        super().serverAccept((subprotocol, _header_values(headers)))

    def _deny(self, message: dict[str, Any]) -> None:
        """The ASGI extension "WebSocket Denial Response", which Daphne lacks: 403 for all."""
        if message["type"] == "websocket.http.response.start":
            headers = _header_values(message.get("headers", ()))
            self._denial = {"status": message["status"], "headers": headers, "body": b""}
            return
        if self._denial is None:
            raise ValueError("websocket.http.response.body came before its start.")
        self._denial["body"] += message.get("body", b"")
        if not message.get("more_body", False):
            del self.handshake_deferred
            self._write_response(**self._denial)
            self.wasNotCleanReason = "denied by the application"
            self.dropConnection(abort=False)
            self.server.protocol_disconnected(self)

    def _write_response(self, status: int, headers: dict[str, list[str]], body: bytes) -> None:
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
        lines = [f"HTTP/1.1 {status} {phrase}", "Connection: close"]
        if "content-length" not in map(str.lower, headers):
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, values in headers.items() for value in values]
        self.sendData("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    # Messages

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        # Daphne still delivers what arrives after the application closed.
        if self.state == self.STATE_OPEN:
            super().onMessage(payload, isBinary)
            if self.application_queue.is_full and not self._is_paused:
                self._is_paused = True
                self.transport.pauseProducing()

    def handle_reply(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            self._send(message.get("text"), message.get("bytes"))
        elif kind == "websocket.accept":
            self.serverAccept(message.get("subprotocol"), message.get("headers") or ())
        elif kind == "websocket.close" and self.state != self.STATE_CONNECTING:
            self._close(message.get("code"), message.get("reason"))
        elif kind.startswith("websocket.http.response.") and self.state == self.STATE_CONNECTING:
            self._deny(message)
        else:
            super().handle_reply(message)

    def _send(self, text: str | None, payload: bytes | None) -> None:
        if self.state == self.STATE_CONNECTING:
            raise ValueError("Accept the connection before you send over it.")
        if (text is None) == (payload is None):
            raise ValueError("websocket.send needs either text or bytes.")
        # Not sendMessage(): it holds our own messages to the size limit for the client's. And not
        # Daphne's serverSend(): Daphne drops empty messages.
        opcode, data = (1, text.encode()) if text is not None else (2, bytes(payload or b""))
        deflate = self._perMessageCompress
        if deflate is None:
            self.sendFrame(opcode=opcode, payload=data)
            return
        deflate.start_compress_message()
        data = deflate.compress_message_data(data) + deflate.end_compress_message()
        self.sendFrame(opcode=opcode, payload=data, rsv=4)

    # Flow control. Daphne has none: what a client sends waits in memory for its application, and
    # what it does not read waits in memory for it (4.2.3: 100 MB a second).

    async def room(self) -> None:
        """Wait while the client is behind with reading."""
        if self._outbox is not None:
            await self._outbox.room()

    def resume(self) -> None:
        """The application has received everything, or nobody wants it any more."""
        if self._is_paused:
            self._is_paused = False
            self.transport.resumeProducing()
            self.consumeData()

    def processData(self) -> bool:
        # A read brings up to 64 KiB, which can be ten thousand messages.
        if self._is_paused and self.state == self.STATE_OPEN:
            return False
        return super().processData()  # type: ignore[no-any-return]

    def onPing(self, payload: bytes) -> None:
        # Answers to a client that does not read would add up. The last ping is the one that has
        # to be answered (RFC 6455, section 5.5.3).
        if self._outbox is not None and self._outbox.is_full:
            self._late_pong = payload
        else:
            super().onPing(payload)

    def _answer_late(self) -> None:
        payload, self._late_pong = self._late_pong, None
        if payload is not None and self.state == self.STATE_OPEN:
            super().onPing(payload)

    # Keep-alive

    def onOpen(self) -> None:
        super().onOpen()
        self._outbox = Outbox(self._answer_late)
        # Of the HTTP request that this connection began with.
        self.transport.unregisterProducer()
        self.transport.registerProducer(self._outbox, True)
        self._ping_later()

    def _ping_later(self) -> None:
        if self.server.keep_alive_interval < inf:
            self._ping_timer = self._call_later(self.server.keep_alive_interval, self._ping)

    def _ping(self) -> None:
        if self.state != self.STATE_OPEN:
            return
        # One at a time, as in the other servers.
        if self._pong_timer is None:
            self.sendPing(os.urandom(4))
            if self.server.keep_alive_timeout:
                self._pong_timer = self._call_later(self.server.keep_alive_timeout, self._drop)
        self._ping_later()

    def _call_later(self, seconds: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        # Twisted runs on asyncio here.
        return asyncio.get_running_loop().call_later(seconds, function)

    def dataReceived(self, data: bytes) -> None:
        # Whatever comes shows that the client is there: its pong may stand behind a large message.
        if self._pong_timer is not None:
            self._pong_timer.cancel()
            self._pong_timer = None
        if self.state == self.STATE_CONNECTING and hasattr(self, "handshake_deferred"):
            # The application has not answered. autobahn would take this for a second handshake.
            self.data += data
            if len(self.data) > self.maxMessagePayloadSize:
                self.dropConnection(abort=True)
            return
        super().dataReceived(data)

    def _drop(self) -> None:
        self._pong_timer = None
        if self.state != self.STATE_OPEN:
            return
        if self._is_paused and not (self._outbox and self._outbox.is_full):
            return  # It is the application that is behind, and the pong may be there.
        logger.info(
            "Dropped: no pong within %g seconds. To wait longer, raise"
            ' WS_SUPPORT["KEEP_ALIVE_TIMEOUT"].',
            self.server.keep_alive_timeout,
            extra=self._log_fields(CloseCode.ABNORMAL_CLOSURE),
        )
        self.onAutoPingTimeout()

    # Closing

    def _close(self, code: int | None, reason: str | None) -> None:
        """Daphne hands over no reason, and autobahn raises for the codes from 1001 to 2999."""
        code = 1000 if code is None else int(code)
        if not may_be_sent(code):
            raise ValueError(f"The close code {code} may not be sent (RFC 6455, section 7.4).")
        self.sendCloseFrame(code, encode_truncate(reason, _MAX_REASON_SIZE) if reason else None)

    def sendCloseFrame(self, *arguments: Any, **options: Any) -> None:
        super().sendCloseFrame(*arguments, **options)
        # What is unread is of no interest now, and the client's own close stands behind it.
        self._call_later(0, self.resume)

    def application_done(self, application: asyncio.Future[None]) -> None:
        """Daphne leaves a connection open whose application has returned: nobody reads it."""
        if application.cancelled() or application.exception() is not None:
            return  # Daphne's application_checker deals with these.
        if self.state == self.STATE_CONNECTING and hasattr(self, "handshake_deferred"):
            self.serverReject()
        elif self.state == self.STATE_OPEN:
            self._close(1000, None)

    def _max_message_size_exceeded(self, size: int, limit: int, reason: str) -> None:
        # autobahn gives as the size of the message what it has seen of it.
        self._fail_connection(
            CloseCode.MESSAGE_TOO_BIG, f"A message may have at most {limit} bytes"
        )

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        if self.state == self.STATE_OPEN:
            advice = ""
            if code == CloseCode.MESSAGE_TOO_BIG:
                advice = ' To allow more, raise WS_SUPPORT["MAX_MESSAGE_SIZE"].'
            logger.warning(
                "Closed with %d: %s.%s", code, reason, advice, extra=self._log_fields(code)
            )
        super()._fail_connection(code, reason)

    def onFrameData(self, payload: bytes) -> bool | None:
        if self.failedByMe and self.current_frame.opcode > 7:
            # autobahn collects the rest of a control frame that it found too large.
            return None
        return super().onFrameData(payload)  # type: ignore[no-any-return]

    def _closeConnection(self, abort: bool = False) -> None:
        # autobahn aborts when it takes a malformed close frame for the answer to its own, which
        # says what was wrong: the client would never see it.
        abort = abort and not self.wasClean
        if self._outbox is not None:
            # Twisted closes no connection whose producer is paused.
            self.transport.unregisterProducer()
            self._outbox.stopProducing()
        super()._closeConnection(abort)
        if not abort:
            # A client that does not read would keep Twisted waiting forever.
            self._flush_timer = self._call_later(_FLUSH_TIMEOUT, self.transport.abortConnection)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        for timer in (self._ping_timer, self._pong_timer, self._flush_timer):
            if timer is not None:
                timer.cancel()
        if not hasattr(self, "application_queue"):
            # Refused before there was an application. Daphne raises AttributeError, into Twisted's
            # log.
            self.factory.server_class.connections.pop(self, None)
            return
        # Daphne hands over None for a close without a code, and no reason.
        told = (reason or "") if wasClean else ""
        if self.closedByMe and self.localCloseCode is not None:
            # The application learns why, also when the client did not answer the close.
            code = self.localCloseCode
            told = (self.localCloseReason or b"").decode()
        self.application_queue.put_nowait(
            {
                "type": "websocket.disconnect",
                "code": CloseCode.NO_STATUS_RECEIVED if code is None else code,
                "reason": told,
            }
        )
        self.muted = True  # Daphne's own message would be the second.
        super().onClose(wasClean, code, reason)

    def _log_fields(self, code: int | None = None) -> dict[str, Any]:
        """As `ws_support._logging.fields`, for connections that have no scope yet."""
        address = getattr(self, "client_addr", None)
        return {
            # autobahn's own has the family in front: tcp4:127.0.0.1:4711.
            "client": "{}:{}".format(*address) if address else self.peer.partition(":")[2],
            "path": getattr(self, "http_request_path", None),
            "origin": self._origin,
            "code": code,
            "duration": self.duration() if hasattr(self, "socket_opened") else None,
        }


def _header_values(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """ASGI's pairs of bytes as autobahn takes them.

    Raises `ValueError` for a line break, which would let a value start a header of its own.
    """
    values: dict[str, list[str]] = {}
    for name, value in headers:
        if {10, 13} & {*name, *value}:
            raise ValueError(f"The header {name!r} holds a line break.")
        values.setdefault(name.decode("ascii"), []).append(value.decode("latin-1"))
    return values
