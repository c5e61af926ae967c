"""The summary of the settings that `runserver` and `runasgi` print."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from channels.layers import get_channel_layer

from ws_support import conf
from ws_support._project import has_unguarded_routes
from ws_support._topics.brokers import broker_class, is_between_processes
from ws_support._topics.brokers.channel_layer import ChannelLayerBroker
from ws_support.conf import Options


def summary(options: Options, differences: Mapping[str, str]) -> str:
    """Return the settings as lines of text. `differences` replaces or adds lines."""
    lines = {
        "origins": _origins(options),
        "keep-alive": _keep_alive(options),
        "heartbeat": _heartbeat(options),
        "messages": f"up to {options.max_message_size} bytes",
        "compression": "for clients that offer it" if options.per_message_deflate else "off",
        "broadcasts": broadcasts(workers=1),
        **differences,
    }
    width = max(map(len, lines))
    text = "".join(f"  {name:{width}} {line}\n" for name, line in lines.items())
    return f"WebSockets (WS_SUPPORT):\n{text}"


def unguarded() -> dict[str, str]:
    """Return lines that replace those of settings that are not enforced on every route."""
    if not has_unguarded_routes():
        return {}
    line = (
        f"NOT checked on every route: {conf.asgi_application()} has some without WebSocketSupport"
    )
    return {"origins": line}


def ping_interval(options: Options) -> str:
    return (
        f"a ping every {options.keep_alive_interval:g} s" if options.keep_alive_interval else "off"
    )


def broadcasts(workers: int) -> str:
    """Return a phrase that says which processes `broadcast()` reaches."""
    if is_between_processes():
        is_by_layer = broker_class() is ChannelLayerBroker
        name = type(get_channel_layer()).__qualname__ if is_by_layer else "Redis"
        return f"through {name} to every process that uses it"
    where = "this process" if workers == 1 else f"each of the {workers} processes by itself"
    return f"within {where}: CHANNEL_LAYERS has no layer between processes"


def hubs(workers: int) -> dict[str, str]:
    """Return a line about hubs if their clients need what the processes do not have."""
    if workers == 1 or is_between_processes() or "ws_support.hubs" not in sys.modules:
        return {}
    line = (
        "over WebSockets only: server-sent events and long polling need a layer between the"
        " processes"
    )
    return {"hubs": line}


def _origins(options: Options) -> str:
    if options.allowed_origins is None:
        origins = f"the hosts of ALLOWED_HOSTS: {', '.join(options.allowed_hosts) or 'none'}"
    else:
        origins = ", ".join(options.allowed_origins) or "none"
    return f"{origins} and ALLOWED_ORIGIN_REGEXES" if options.allowed_origin_regexes else origins


def _keep_alive(options: Options) -> str:
    if not options.keep_alive_interval or options.keep_alive_timeout is None:
        return ping_interval(options)
    return (
        f"{ping_interval(options)}, dropped when the pong takes more than"
        f" {options.keep_alive_timeout:g} s"
    )


def _heartbeat(options: Options) -> str:
    if options.heartbeat_interval is None:
        return "off"
    return f"closed after {2 * options.heartbeat_interval:g} s without a message"
