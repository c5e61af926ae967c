"""The project's application, as the servers get it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import django
from asgiref.compatibility import guarantee_single_callable
from channels.routing import get_default_application

from ws_support.middleware.forwarded import ForwardedHeaders
from ws_support.servers.base import Plan


def load(plan: Plan) -> Application:
    """What `ASGI_APPLICATION` names, behind what `plan` asks for.

    Raises `ImproperlyConfigured` when there is no such thing.
    """
    django.setup()
    application = guarantee_single_callable(get_default_application())  # type: ignore[no-untyped-call]
    return Application(application, plan.trusted_proxies)


class Application:
    """An ASGI application that servers need not ask whether it knows of lifespans."""

    def __init__(self, application: Any, trusted_proxies: tuple[str, ...]) -> None:
        self._application = application
        self._forwarded = (
            ForwardedHeaders(application, trusted_proxies) if trusted_proxies else None
        )

    def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> Awaitable[None]:
        # No coroutine of its own: it would be gone through with each message.
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        if self._forwarded is not None:
            self._forwarded.apply(scope)
        return self._application(scope, receive, send)  # type: ignore[no-any-return]

    async def _lifespan(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Django and Channels raise for lifespans, of which servers warn at each start.

        An application that raises has none (ASGI, Lifespan Protocol), unless it has answered
        already.
        """
        has_answered = False
        unanswered: list[Any] = []

        async def listen() -> Any:
            unanswered.append(await receive())
            return unanswered[-1]

        async def answer(message: Any) -> None:
            nonlocal has_answered
            has_answered = True
            await send(message)

        try:
            await self._application(scope, listen, answer)
        except Exception:
            if has_answered:
                raise
        else:
            return
        while True:
            message = unanswered.pop() if unanswered else await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
