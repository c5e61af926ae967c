"""The queues of Hypercorn (0.18) in front of an application, with room for the end.

Hypercorn makes a queue in `TaskGroup.spawn_app()`, and gives its connection only the method `put`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from hypercorn.asyncio import task_group, tcp_server

from ws_support._queued_text import UTF_8, packed, size, unpacked

_QUEUE: Final = 10
"""Messages that may wait for a consumer. Hypercorn's default."""

_LARGE: Final = 2**16
"""Characters or bytes of a message that fills the queue by itself: ten of the largest messages
would take 10 MiB."""


def install() -> None:
    tcp_server.TaskGroup = TaskGroup  # type: ignore[attr-defined]


class TaskGroup(task_group.TaskGroup):
    """The tasks of a TCP connection. `spawn_app()` returns the queue itself, which can be called.

    Hypercorn's streams keep that as `app_put`.
    """

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> RequestQueue:
        # Hypercorn's own setting counts messages and holds for HTTP requests as well: a request
        # whose body is not read has its chunks in the queue, and hangs when they and its end do
        # not fit.
        queue = (
            WebSocketQueue()
            if scope["type"] == "websocket"
            else RequestQueue(config.max_app_queue_size)
        )
        # The last two are for WSGI: functions that run code in a thread, and in the event loop.
        self.spawn(task_group._handle, app, config, scope, queue.get, send, None, None)
        return queue


class RequestQueue(asyncio.Queue[Any]):
    """The messages that wait for the application of a request."""

    __call__ = asyncio.Queue.put
    _is_ending = False

    def full(self) -> bool:
        return not self._is_ending and super().full()

    def let_in_the_end(self) -> None:
        """Never be full again: an application that does not read never makes room."""
        self._is_ending = True


class WebSocketQueue(RequestQueue):
    """The messages that wait for the application of a WebSocket, limited by number and size."""

    _queue: deque[dict[str, Any]]

    def full(self) -> bool:
        messages = self._queue
        if self._is_ending or not messages:
            return False
        return len(messages) >= _QUEUE or size(messages[-1]) > _LARGE

    def _put(self, item: dict[str, Any]) -> None:
        self._queue.append(packed(item))

    def _get(self) -> dict[str, Any]:
        message = self._queue.popleft()
        return unpacked(message) if UTF_8 in message else message
