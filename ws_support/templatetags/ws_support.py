"""`{% load ws_support %}`: what a page has to know of the server."""

from __future__ import annotations

from typing import Any, Final

from django import template
from django.urls import get_script_prefix
from django.utils.html import json_script
from django.utils.safestring import SafeString

from ws_support.conf import get_options

register = template.Library()

_LONGEST: Final = 2**31 - 1
"""Milliseconds of a timer in a browser."""


@register.simple_tag
def websocket_client(path: str | None = None) -> SafeString:
    """The settings of the heartbeat, and the path of the WebSocket, for `client.js`.

    Data and no script (a `<script type="application/json">`, which every Content Security Policy
    admits), once a page and anywhere in it. `path` is where a `ReliableWebSocket` connects to that
    is given no URL; one that begins with a slash gets the prefix that `{% url %}` writes, unless it
    has it.
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


def _prefixed(path: str) -> str:
    """Return `path` below `FORCE_SCRIPT_NAME`, or where else the project is mounted."""
    prefix = get_script_prefix()
    is_absolute = path.startswith("/") and not path.startswith("//")
    if not is_absolute or path.startswith(prefix):
        return path
    return prefix + path[1:]
