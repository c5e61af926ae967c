"""The project's ASGI application: its import, and the search of its routes for the checks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from types import CellType
from typing import Any, Final, NamedTuple

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.exceptions import ImproperlyConfigured

from ws_support import conf

_MAX_NODES: Final = 10_000
"""The most objects that are searched: an application may refer to any number of them."""


def load_application() -> Any:
    """Import and return the application that `ASGI_APPLICATION` names.

    Raises `ImproperlyConfigured`, with the reason in one line, if that fails in any way.
    """
    name = conf.asgi_application() or ""
    module, _, attribute = name.rpartition(".")
    try:
        application = getattr(import_module(module), attribute, None)
    except Exception as error:  # The modules of a project may raise anything.
        reason = " ".join(str(error).split())
        raise ImproperlyConfigured(
            f"ASGI_APPLICATION is {name!r}, which cannot be imported:"
            f" {type(error).__name__}: {reason:.300}"
        ) from error
    if not callable(application):
        raise ImproperlyConfigured(
            f"ASGI_APPLICATION is {name!r}, and {module} has no application of that name."
        )
    return application


class Node(NamedTuple):
    """A part of an ASGI application that gets WebSockets."""

    application: Any

    route: Any = None
    """The `path()` that leads to it; None in front of the first `URLRouter`."""

    is_guarded: bool = False
    """True if a middleware of ours in front of it has checked the origin."""

    is_last: bool = False
    """True if no part is visible behind it: a consumer, or a function that hides what it calls."""


def websocket_parts(application: Any) -> Iterator[Node]:
    """Yield the parts of `application` that a WebSocket can reach, as far as they are visible.

    The application behind a middleware is visible if it is in an attribute of the middleware, or,
    when the middleware is a function, in its closure.
    """
    waiting = [Node(application)]
    seen: set[tuple[int, int, bool]] = set()
    while waiting and len(seen) < _MAX_NODES:
        node = waiting.pop()
        guarded = node.is_guarded or getattr(node.application, "checks_origins", False) is True
        # One consumer may be at several paths, each with its own problems.
        key = (id(node.application), id(node.route), guarded)
        if key in seen:
            continue
        seen.add(key)
        behind = list(_behind(node))
        yield node._replace(is_guarded=guarded, is_last=not behind)
        waiting += [each._replace(is_guarded=guarded) for each in reversed(behind)]


def is_unguarded(node: Node) -> bool:
    """Return True if a route leads to `node` without an origin check of ours."""
    return node.is_last and node.route is not None and not node.is_guarded


def _behind(node: Node) -> Iterator[Node]:
    application = node.application
    if isinstance(application, ProtocolTypeRouter):
        if "websocket" in application.application_mapping:
            yield node._replace(application=application.application_mapping["websocket"])
    elif isinstance(application, URLRouter):
        routes: list[Any] = application.routes
        for route in routes:
            yield node._replace(application=route.callback, route=route)
    elif not inspect.isclass(application) and not hasattr(application, "consumer_class"):
        for each in _attributes(application):
            if callable(each) and not inspect.isclass(each) and _may_be_asgi(each):
                yield node._replace(application=each)


def _attributes(application: Any) -> list[Any]:
    if isinstance(application, partial):
        return [application.func, *application.args, *application.keywords.values()]
    if inspect.isfunction(application):
        return _closure(application)
    if inspect.ismethod(application):
        return [application.__self__]
    return list(getattr(application, "__dict__", {}).values())


def _closure(function: Any) -> list[Any]:
    cells = function.__closure__ or ()
    # An empty cell, whose variable is not set yet, raises when its contents are read.
    return [cell.cell_contents for cell in cells if cell != CellType()]


def _may_be_asgi(value: Any) -> bool:
    """Return True if the signature of `value` accepts `scope`, `receive` and `send`."""
    try:
        inspect.signature(value).bind(None, None, None)
    except (TypeError, ValueError):
        return False
    return True


def has_unguarded_routes() -> bool:
    """Return True if a route of the project has no origin check of ours in front of it."""
    try:
        application = load_application()
    except ImproperlyConfigured:
        return False  # No server can start then, and `manage.py check` says why.
    return any(map(is_unguarded, websocket_parts(application)))
