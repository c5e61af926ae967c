"""The limit for the size of messages, on servers that have none of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Final

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from ws_support import _logging
from ws_support.close_codes import CloseCode

__all__ = ["MessageSizeLimit"]

logger = logging.getLogger("ws_support.limits")

_CLOSE_TIMEOUT: Final = 0.5
"""Seconds that sending the close frame may take: full buffers would block it forever."""


class MessageSizeLimit:
    """Closes connections whose client sends a message of more than `max_size` bytes, with 1009.

    The server has received the whole message by then. The limit keeps the message away from the
    application, but does not save the memory of the server. The cost is one coroutine a message.
    """

    def __init__(self, application: Any, max_size: int) -> None:
        self.application = application
        self._max_size = max_size
        # A character has at most four bytes: text of up to so many characters fits for sure, and
        # does not have to be encoded.
        self._surely_fits = max_size // 4

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        await self.limited(scope, receive, send)

    def limited(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Awaitable[None]:
        """Run the application with the limit, as `__call__()` does, for use by a middleware.

        This is not a coroutine function: a coroutine more would cost time for each message.
        """
        if scope["type"] != "websocket":
            return self.application(scope, receive, send)  # type: ignore[no-any-return]

        is_over = False

        async def receive_limited() -> Any:
            nonlocal is_over
            if not is_over:
                message = await receive()
                if message["type"] != "websocket.receive" or not self._is_too_large(message):
                    return message
                is_over = True
                self._log(scope)
            # Runs again on the next call if the receiving task was cancelled during the close.
            return await self._close(send)

        return self.application(scope, receive_limited, send)  # type: ignore[no-any-return]

    def _is_too_large(self, message: Any) -> bool:
        text = message.get("text")
        if text is None:
            return len(message["bytes"]) > self._max_size
        if len(text) <= self._surely_fits:
            return False
        return (len(text) if text.isascii() else len(text.encode())) > self._max_size

    @property
    def _reason(self) -> str:
        return f"A message may have at most {self._max_size} bytes"

    def _log(self, scope: Any) -> None:
        logger.warning(
            'Closed with 1009: %s. To allow more, raise WS_SUPPORT["MAX_MESSAGE_SIZE"].',
            self._reason,
            extra=_logging.fields(scope, code=CloseCode.MESSAGE_TOO_BIG),
        )

    async def _close(self, send: Any) -> Any:
        end = {"code": int(CloseCode.MESSAGE_TOO_BIG), "reason": self._reason}
        # A client that does not read blocks the close frame. The application still gets the end.
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(send({"type": "websocket.close", **end}), _CLOSE_TIMEOUT)
        return {"type": "websocket.disconnect", **end}
