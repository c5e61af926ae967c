"""Template tags (`{% load ws_support %}`) that give a page the settings of the server."""

from __future__ import annotations

from typing import Any, Final

from django import template
from django.template import Context
from django.urls import get_script_prefix
from django.utils.html import json_script
from django.utils.safestring import SafeString

from ws_support._topics.tokens import LIFETIME
from ws_support._topics.tokens import topic_token as new_topic_token
from ws_support.conf import get_options

register = template.Library()

_LONGEST: Final = 2**31 - 1
"""The most milliseconds that a timer in a browser can have."""


@register.simple_tag
def websocket_client(path: str | None = None) -> SafeString:
    """Return the settings of the heartbeat and the path of the WebSocket, for `client.js`.

    The result is data, not a script (a `<script type="application/json">`, which every Content
    Security Policy allows). Use the tag once in a page, anywhere. A `ReliableWebSocket` without a
    URL connects to `path`. A path that begins with a slash gets the prefix that `{% url %}` writes,
    unless it has that prefix.
    """
    options = get_options()
    settings: dict[str, Any] = {
        "heartbeatInterval": None,
        "heartbeatMessage": options.heartbeat_message,
        "heartbeatReply": options.heartbeat_reply,
    }
    if options.heartbeat_interval is not None:
        settings["heartbeatInterval"] = min(options.heartbeat_interval * 1000, _LONGEST)
    if path is not None:
        settings["path"] = _prefixed(path)
    return json_script(settings, "ws_support-client")


@register.simple_tag
def websocket_topics(path: str) -> SafeString:
    """Return the path of `TopicsHub`, for `topics.js`: data, as `websocket_client` does.

    Use the tag once in a page, anywhere. `new Topics()` without a URL connects to `path`.
    """
    return json_script({"path": _prefixed(path)}, "ws_support-topics")


@register.simple_tag(takes_context=True)
def topic_token(context: Context, topic: str, seconds: float = LIFETIME) -> str:
    """Return a token with which the user of this page may subscribe to `topic`, for `seconds`.

    In a page without a user who is logged in, everybody who has the token may use it. The rules of
    the topic are not asked: the view has decided. Raises `TypeError` or `ValueError` for an invalid
    topic.
    """
    user = getattr(context.get("request"), "user", None) or context.get("user")
    return new_topic_token(topic, user, seconds)


def _prefixed(path: str) -> str:
    """Return `path` with the prefix of the project, for example `FORCE_SCRIPT_NAME`."""
    prefix = get_script_prefix()
    is_absolute = path.startswith("/") and not path.startswith("//")
    if not is_absolute or path.startswith(prefix):
        return path
    return prefix + path[1:]
