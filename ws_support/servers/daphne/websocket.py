"""WebSockets in Daphne, with flow control, keep-alive, denial responses and corrections.

Each difference names the symptom and the version with it, so that the difference can be deleted
when the server has been corrected. Everything else is Daphne's (4.2.3) and autobahn's (26.10.2).
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

import daphne.server  # First, since this module chooses the reactor that other modules import.
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

# Twisted (26.10) has no phrase for this status and would answer "426 Unknown Status".
RESPONSES.setdefault(426, b"Upgrade Required")

# autobahn (26.10) allows close codes up to 1013 only.
AutobahnProtocol.CLOSE_STATUS_CODES_ALLOWED.append(CloseCode.BAD_GATEWAY)

_ORIGIN_HEADER = re.compile(rb"\r\norigin:([^\r\n]*)\r\n", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_FLUSH_TIMEOUT = 10
"""Seconds for the last data to reach the client after the connection has been closed."""
_WINDOW_BITS = 12  # 4 KiB
_MAX_REASON_SIZE = 123  # bytes (RFC 6455, section 5.5)

CAN_DEFLATE: Final = (
    "max_output_len" in signature(PerMessageDeflate.decompress_message_data).parameters
)
"""True if autobahn limits the size of an inflated message. Versions before 26 inflate a few
kilobytes to gigabytes (GHSA-hxp9-w8x3-p566)."""


class WebSocketProtocol(daphne.ws_protocol.WebSocketProtocol):  # type: ignore[misc]
    """One WebSocket connection."""

    # Options of autobahn. With the defaults, which Daphne keeps, a client that breaks the protocol
    # or sends too much is cut off without a close frame, and a client's close code is answered with
    # 1000.
    failByDrop = False
    echoCloseCodeReason = True
    # Seconds for the client to answer a close frame. autobahn's default is 1, which becomes 0 to 1
    # because of the rounding that `Server.__init__` explains: clients are cut off before they can
    # read the close frame.
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
        # autobahn refuses some malformed origins itself, with 400. The application has to decide
        # who may connect, and writes the log line and sends the signal for a refusal. autobahn also
        # strips what Unicode calls a space, such as the byte A0, and so repairs other malformed
        # origins.
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
            # Daphne logs a traceback for a sub-protocol that is not ASCII, and accepts other
            # malformed ones.
            raise ConnectionDeny(400, "A sub-protocol is not a token.")
        offers = self._http_headers.get("sec-websocket-extensions", "").encode("latin-1")
        try:
            Request(b"", b"", [(b"sec-websocket-extensions", offers)]).check_extensions()
        except Refused as refused:
            raise ConnectionDeny(int(refused.status), refused.reason) from None
        return super().onConnect(request)

    def _is_usable(self, extension: str, parameters: dict[str, Any]) -> bool:
        """Return True if autobahn can parse the offer of an extension.

        autobahn parses the offers after the application has accepted, and refuses the whole
        handshake for one that is malformed. RFC 7692 (section 5.1) says to decline such an offer.
        """
        if (
            not self.factory.server_class.per_message_deflate
            or extension != PerMessageDeflate.EXTENSION_NAME
        ):
            return False
        try:
            PerMessageDeflateOffer.parse(parameters)
        except Exception:  # autobahn raises a plain Exception.
            return False
        return True

    def _accept_deflate(self, offers: list[PerMessageDeflateOffer]) -> PerMessageDeflateOfferAccept:
        """Accept the first offer, with windows of 4 KiB if the client lets the server choose.

        Uvicorn uses 4 KiB, too: the usual 32 KiB save little more and take eight times the memory.
        """
        offer = offers[0]
        # The answer has to respect the window that the client wants. autobahn does not pass it on.
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
            # Only for an unknown version does autobahn pass headers, with the versions that it
            # supports. Its status is 400, where RFC 6455 (section 4.2.2) has 426.
            code = 426
        if not hasattr(self, "application_queue"):
            # If there is a queue, the application has refused, and logs the refusal itself.
            # autobahn quotes a URL that it cannot parse, so the query is cut off.
            told = reason.partition("?")[0]
            logger.warning("Refused with %d: %.200a", code, told, extra=self._log_fields())
        super().failHandshake(reason, code, responseHeaders)

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        # autobahn writes the reason into the status line, and sends no body.
        headers = {name: [value] for name, value in responseHeaders or ()}
        headers["Content-Type"] = ["text/plain; charset=utf-8"]
        self._write_response(code, headers, f"{reason}\n".encode())

    def serverAccept(
        self, subprotocol: str | None = None, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        if not hasattr(self, "handshake_deferred"):
            raise ValueError("This connection was accepted or refused before.")
        if subprotocol is not None and subprotocol not in self.websocket_protocols:
            # autobahn raises an error that is not logged, and the client waits without an answer.
            raise ValueError(
                f"The client did not offer the sub-protocol {subprotocol!r}, but"
                f" {self.websocket_protocols}."
            )
        # Daphne drops the headers of `websocket.accept`.
        super().serverAccept((subprotocol, _header_values(headers)))

    def _deny(self, message: dict[str, Any]) -> None:
        """Send a denial response.

        Daphne lacks the ASGI extension "WebSocket Denial Response", and refuses with 403 only.
        """
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
        # Daphne delivers messages even after the application has closed the connection.
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
        # autobahn's sendMessage() applies the size limit of the client's messages to those of the
        # server, and Daphne's serverSend() drops empty messages. So neither is used.
        opcode, data = (1, text.encode()) if text is not None else (2, bytes(payload or b""))
        deflate = self._perMessageCompress
        if deflate is None:
            self.sendFrame(opcode=opcode, payload=data)
            return
        deflate.start_compress_message()
        data = deflate.compress_message_data(data) + deflate.end_compress_message()
        self.sendFrame(opcode=opcode, payload=data, rsv=4)

    # Flow control. Daphne 4.2.3 has none: it keeps in memory what the application has not received,
    # and what the client has not read (100 MB a second).

    async def room(self) -> None:
        """Wait while the client is behind with reading."""
        if self._outbox is not None:
            await self._outbox.room()

    def resume(self) -> None:
        """Resume reading, when the queue is empty or its messages are no longer wanted."""
        if self._is_paused:
            self._is_paused = False
            self.transport.resumeProducing()
            self.consumeData()

    def processData(self) -> bool:
        # One read holds up to 64 KiB, which can be ten thousand messages.
        if self._is_paused and self.state == self.STATE_OPEN:
            return False
        return super().processData()  # type: ignore[no-any-return]

    def onPing(self, payload: bytes) -> None:
        # Pongs for a client that does not read would fill the memory. Only the last ping has to be
        # answered (RFC 6455, section 5.5.3).
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
        # Removes the producer of the HTTP request that this connection began with.
        self.transport.unregisterProducer()
        self.transport.registerProducer(self._outbox, True)
        self._ping_later()

    def _ping_later(self) -> None:
        if self.server.keep_alive_interval < inf:
            self._ping_timer = self._call_later(self.server.keep_alive_interval, self._ping)

    def _ping(self) -> None:
        if self.state != self.STATE_OPEN:
            return
        # Only one ping at a time waits for its pong, as on the other servers.
        if self._pong_timer is None:
            self.sendPing(os.urandom(4))
            if self.server.keep_alive_timeout:
                self._pong_timer = self._call_later(self.server.keep_alive_timeout, self._drop)
        self._ping_later()

    def _call_later(self, seconds: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        # Daphne runs Twisted on asyncio, so asyncio's timers can be used.
        return asyncio.get_running_loop().call_later(seconds, function)

    def dataReceived(self, data: bytes) -> None:
        # Any data shows that the client is there: its pong may come after a large message.
        if self._pong_timer is not None:
            self._pong_timer.cancel()
            self._pong_timer = None
        if self.state == self.STATE_CONNECTING and hasattr(self, "handshake_deferred"):
            # The application has not answered yet. autobahn would parse the data as a second
            # handshake.
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
            return  # Reading is paused for the application, so the pong may be there, unread.
        logger.info(
            "Dropped: no pong within %g seconds. To wait longer, raise"
            ' WS_SUPPORT["KEEP_ALIVE_TIMEOUT"].',
            self.server.keep_alive_timeout,
            extra=self._log_fields(CloseCode.ABNORMAL_CLOSURE),
        )
        self.onAutoPingTimeout()

    # Closing

    def _close(self, code: int | None, reason: str | None) -> None:
        """Close the connection with `code` and `reason`.

        Daphne passes on no reason, and autobahn raises an error for codes from 1001 to 2999.
        """
        code = 1000 if code is None else int(code)
        if not may_be_sent(code):
            raise ValueError(f"The close code {code} may not be sent (RFC 6455, section 7.4).")
        self.sendCloseFrame(code, encode_truncate(reason, _MAX_REASON_SIZE) if reason else None)

    def sendCloseFrame(self, *arguments: Any, **options: Any) -> None:
        super().sendCloseFrame(*arguments, **options)
        # The client's close frame comes after the unread data, so reading has to go on.
        self._call_later(0, self.resume)

    def application_done(self, application: asyncio.Future[None]) -> None:
        """Close the connection when its application has returned.

        Daphne would leave such a connection open, and nothing would read from it.
        """
        if application.cancelled() or application.exception() is not None:
            return  # Daphne's application_checker handles these cases.
        if self.state == self.STATE_CONNECTING and hasattr(self, "handshake_deferred"):
            self.serverReject()
        elif self.state == self.STATE_OPEN:
            self._close(1000, None)

    def _max_message_size_exceeded(self, size: int, limit: int, reason: str) -> None:
        # autobahn's reason names the size that it has read so far as the size of the message.
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
            # autobahn would store the rest of a control frame that is too large.
            return None
        return super().onFrameData(payload)  # type: ignore[no-any-return]

    def _closeConnection(self, abort: bool = False) -> None:
        # autobahn takes the client's malformed close frame for the answer to its own close frame,
        # and aborts: the client would never see what was wrong.
        abort = abort and not self.wasClean
        if self._outbox is not None:
            # Twisted does not close a connection while its producer is paused.
            self.transport.unregisterProducer()
            self._outbox.stopProducing()
        super()._closeConnection(abort)
        if not abort:
            # Twisted would wait for ever for a client that does not read.
            self._flush_timer = self._call_later(_FLUSH_TIMEOUT, self.transport.abortConnection)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        for timer in (self._ping_timer, self._pong_timer, self._flush_timer):
            if timer is not None:
                timer.cancel()
        if not hasattr(self, "application_queue"):
            # The handshake was refused before the application was called. Daphne raises
            # AttributeError here, which goes to Twisted's log.
            self.factory.server_class.connections.pop(self, None)
            return
        # Daphne passes on None as the code of a close without one, and never a reason.
        told = (reason or "") if wasClean else ""
        if self.closedByMe and self.localCloseCode is not None:
            # The application learns the server's own code, even if the client has not answered.
            code = self.localCloseCode
            told = (self.localCloseReason or b"").decode()
        self.application_queue.put_nowait(
            {
                "type": "websocket.disconnect",
                "code": CloseCode.NO_STATUS_RECEIVED if code is None else code,
                "reason": told,
            }
        )
        self.muted = True  # Prevents a second `websocket.disconnect`, from Daphne.
        super().onClose(wasClean, code, reason)

    def _log_fields(self, code: int | None = None) -> dict[str, Any]:
        """Return the fields of `ws_support._logging.fields`, for a connection without a scope."""
        address = getattr(self, "client_addr", None)
        return {
            # autobahn's `peer` begins with the family: tcp4:127.0.0.1:4711.
            "client": "{}:{}".format(*address) if address else self.peer.partition(":")[2],
            "path": getattr(self, "http_request_path", None),
            "origin": self._origin,
            "code": code,
            "duration": self.duration() if hasattr(self, "socket_opened") else None,
        }


def _header_values(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """Return ASGI's headers, which are pairs of bytes, in the form that autobahn takes.

    Raises `ValueError` for a line break, with which a value could begin a header of its own.
    """
    values: dict[str, list[str]] = {}
    for name, value in headers:
        if {10, 13} & {*name, *value}:
            raise ValueError(f"The header {name!r} holds a line break.")
        values.setdefault(name.decode("ascii"), []).append(value.decode("latin-1"))
    return values
