"""The project's ASGI application, wrapped for the servers."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final
from urllib.parse import quote

import django
from asgiref.compatibility import guarantee_single_callable
from channels.routing import get_default_application
from django.conf import settings

from ws_support._asgi import DirectSend, add_direct
from ws_support.middleware.proxy_headers import ProxyHeaders
from ws_support.servers._run import requests
from ws_support.servers.base import ServeConfig

logger = logging.getLogger("ws_support.servers")


def load(plan: ServeConfig) -> Application:
    """Return the application that `ASGI_APPLICATION` names, wrapped as `plan` says.

    Raises `ImproperlyConfigured` when that application does not exist.
    """
    django.setup()
    application = guarantee_single_callable(get_default_application())  # type: ignore[no-untyped-call]
    return Application(application, plan.trusted_proxies)


class Application:
    """An ASGI application that always answers lifespan events."""

    is_starting: ClassVar[bool] = False
    """True while the application has not answered `lifespan.startup` yet."""

    def __init__(self, application: Any, trusted_proxies: tuple[str, ...]) -> None:
        self._application = application
        self._prefix = (settings.FORCE_SCRIPT_NAME or "").rstrip("/")
        self._forwarded = ProxyHeaders(application, trusted_proxies) if trusted_proxies else None

    def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> Awaitable[None]:
        # Not a coroutine: every receive() and send() would have to pass through that, too.
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        if self._forwarded is not None:
            self._forwarded.apply(scope)
        if scope["type"] == "http":
            return requests.here.serve(self._application, scope, receive, send)
        if self._prefix:
            apply_prefix(scope, self._prefix)
        # Every server here allows that.
        add_direct(scope, DirectSend(send))
        return self._application(scope, receive, send)  # type: ignore[no-any-return]

    async def _lifespan(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Answer for an application without a lifespan, and report a lifespan that fails.

        Routers raise for a scope of an unknown type, and servers log a warning about that at each
        start. Uvicorn 0.54 and Granian 2.8 treat every other exception in the same way, and serve.
        """
        received: list[str] = []
        answered: list[str] = []

        async def listen() -> Any:
            message = await receive()
            received.append(message["type"])
            return message

        async def answer(message: Any) -> None:
            Application.is_starting = False
            answered.append(message["type"])
            await send(message)

        Application.is_starting = True
        try:
            await self._application(scope, listen, answer)
        except Exception as error:
            if answered and answered[-1].endswith(".failed"):
                raise  # The application has reported the failure itself.
            is_unknown = not answered and _is_for_an_unknown_scope(error, bool(received))
            if not is_unknown:
                logger.exception(
                    "The lifespan of ASGI_APPLICATION has failed. (An application without one"
                    " raises a ValueError that names the scope type, as ProtocolTypeRouter does.)"
                )
        else:
            return
        finally:
            Application.is_starting = False
        unanswered = received[len(answered) :]
        while True:
            kind = unanswered.pop() if unanswered else (await receive())["type"]
            await send({"type": f"{kind}.{'complete' if is_unknown else 'failed'}"})
            if kind == "lifespan.shutdown" or not is_unknown:
                return


def apply_prefix(scope: Any, prefix: str) -> None:
    """Set `root_path` and `path` so that `URLRouter` finds its routes below `prefix`.

    The proxy may have removed the prefix from the path or not. Django does the same for requests:
    `FORCE_SCRIPT_NAME` decides there, and not `root_path`.
    """
    scope["root_path"] = prefix
    path = scope["path"]
    if path != prefix and not path.startswith(f"{prefix}/"):
        scope["path"] = prefix + path
        if scope.get("raw_path") is not None:
            scope["raw_path"] = quote(prefix).encode() + scope["raw_path"]


_HTTP_KEYS: Final = ("client", "headers", "method", "path", "query_string", "scheme")
"""Keys of HTTP and WebSocket scopes, which middleware reads without a check."""


def _is_for_an_unknown_scope(error: Exception, has_listened: bool) -> bool:
    """Return True if a router or a middleware raised `error` for the scope type "lifespan".

    They raise before the first `receive()`, except for one that looks the type up in a dictionary.
    """
    if isinstance(error, KeyError):
        key = error.args[0] if error.args else None
        return key == "lifespan" or (key in _HTTP_KEYS and not has_listened)
    if has_listened:
        return False
    if isinstance(error, ValueError):
        # From Django, and from the routers, the middleware and the origin validator of Channels.
        return re.search(r"lifespan|scope|non-WebSocket", str(error)) is not None
    return isinstance(error, NotImplementedError) or (
        isinstance(error, AssertionError) and not error.args  # assert scope["type"] == "http"
    )
