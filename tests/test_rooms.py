"""The rooms of the house: a module imports from rooms below its own, and says what it exports."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ws_support"

ROOMS = [
    # Ground
    {
        "close_codes",
        "signals",
        "_protocol",
        "_asyncio",
        "_logging",
        "_asgi",
        "_queued_text",
    },
    # Shared mechanisms
    {"_topics", "conf", "_hub_options", "_topic_options", "_validators", "exceptions"},
    # Building blocks
    {"broadcast", "topics", "presence", "_connection", "_project", "checks", "templatetags"},
    # What users subclass and call
    {"consumers", "websocket", "middleware", "_hubs"},
    # What asgi.py imports
    {"asgi", "hubs", "servers"},
    # Entry points
    {"apps", "management", "urls", "routing", "demo", "testing"},
]
"""From the ground up. In a room, who imports whom is free, but for circles."""


def modules() -> list[str]:
    paths = sorted(PACKAGE.rglob("*.py"))
    names = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in paths]
    return [".".join(parts).removesuffix(".__init__") for parts in names]


def room_of(module: str) -> int:
    part = module.split(".")[1]
    return next(index for index, room in enumerate(ROOMS) if part in room)


def imported_by(module: str) -> set[str]:
    """The modules of the package that a module imports, wherever it does."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    known, found = set(modules()), set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & known) or {node.module}
    return {name for name in found if name.startswith("ws_support.")}


@pytest.mark.parametrize("module", modules()[1:])
def test_a_module_imports_from_its_own_room_and_those_below(module):
    for other in imported_by(module):
        assert room_of(other) <= room_of(module), f"{module} imports {other}"


def test_no_imports_go_in_a_circle():
    left = {module: imported_by(module) - {module} for module in modules()}
    while left:
        leaves = {module for module, imported in left.items() if not imported & left.keys()}
        assert leaves, f"a circle among {sorted(left)}"
        left = {module: imported for module, imported in left.items() if module not in leaves}


EXPORTS = {
    "ws_support.asgi": {"WebSocketSupport"},
    "ws_support.hubs": {
        "ClientProxy",
        "Hub",
        "HubCallerClients",
        "HubCallerGroups",
        "HubCallerTopics",
        "HubClients",
        "HubContext",
        "HubException",
        "HubFilter",
        "HubGroups",
        "HubInvocation",
        "HubOutside",
        "HubRouter",
        "PublishError",
        "SingleClientProxy",
        "TopicsHub",
        "authorize",
        "hub_context",
        "hub_method_name",
    },
    "ws_support.broadcast": {
        "BroadcastError",
        "Statistics",
        "broadcast",
        "broadcast_json_on_commit",
        "broadcast_json_sync",
        "broadcast_on_commit",
        "broadcast_sync",
        "broadcast_json",
        "statistics",
    },
    "ws_support.checks": {
        "check_application",
        "check_deployment",
        "check_project",
        "check_settings",
        "check_topics",
    },
    "ws_support.close_codes": {"CloseCode"},
    "ws_support.conf": {"FROM_SETTINGS", "SETTINGS", "Options", "get_options"},
    "ws_support.consumers": {
        "AsyncJsonWebsocketConsumer",
        "AsyncWebsocketConsumer",
        "EchoConsumer",
    },
    "ws_support.exceptions": {
        "BroadcastError",
        "ClientGone",
        "ConnectionClosed",
        "InvalidMessage",
    },
    "ws_support.middleware.errors": {"handle_client_error", "handle_error"},
    "ws_support.middleware.heartbeat": {"Heartbeat"},
    "ws_support.middleware.limits": {"MessageSizeLimit"},
    "ws_support.middleware.origin": {"OriginValidator"},
    "ws_support.middleware.proxy_headers": {"ProxyHeaders"},
    "ws_support.presence": {
        "Change",
        "Member",
        "Members",
        "Presence",
        "PresenceUnavailable",
        "changes",
        "members",
        "present",
    },
    "ws_support.routing": {"websocket_urlpatterns"},
    "ws_support.servers": {"SERVERS", "get_server"},
    "ws_support.servers.base": {"ASGIServer", "ServeConfig"},
    "ws_support.servers.daphne": {"Daphne"},
    "ws_support.servers.granian": {"Granian"},
    "ws_support.servers.hypercorn": {"Hypercorn"},
    "ws_support.servers.picows": {"PicowsProtocol"},
    "ws_support.servers.uvicorn": {"Uvicorn"},
    "ws_support.signals": {"connected", "disconnected", "rejected"},
    "ws_support.testing": {
        "BOUND",
        "HandshakeRefused",
        "Peer",
        "RawClient",
        "RunningApplication",
        "Server",
        "ServerPool",
        "clear_histories",
        "free_port",
        "wait_until",
        "websocket_scope",
    },
    "ws_support.testing.application": {"RunningApplication", "websocket_scope"},
    "ws_support.testing.histories": {"clear_histories"},
    "ws_support.testing.peer": {"HandshakeRefused", "Peer"},
    "ws_support.testing.plugin": {
        "websocket_peer",
        "websocket_server",
        "websocket_server_pool",
    },
    "ws_support.testing.pool": {"ServerGetter", "ServerPool"},
    "ws_support.testing.ports": {"free_port"},
    "ws_support.testing.server": {"Process", "Server", "Spawn", "spawn_python"},
    "ws_support.testing.waiting": {"BOUND", "wait_until"},
    "ws_support.testing.wire": {"RawClient"},
    "ws_support.topics": {
        "History",
        "HistoryMessage",
        "Recovery",
        "Topic",
        "history",
        "topic",
        "topic_token",
    },
    "ws_support.urls": {"urlpatterns"},
    "ws_support.websocket": {
        "ConnectionClosed",
        "WebSocket",
        "WebSocketView",
        "websocket_view",
    },
}
"""What users may rely on: a name goes from here only after a deprecation."""

EXEMPT = {"apps", "demo", "management", "templatetags"}
"""Names that Django gives, and pages that nobody imports."""


def is_public(module: str) -> bool:
    parts = module.split(".")[1:]
    # Of a server's folder, what its package exports.
    is_inside_a_server = parts[0] == "servers" and len(parts) > 2
    is_private = any(part.startswith("_") for part in parts)
    return not (is_inside_a_server or is_private or parts[0] in EXEMPT)


def test_every_public_module_is_listed():
    packages = {"ws_support.middleware"}  # It holds modules, and nothing itself.
    public = {module for module in modules()[1:] if is_public(module)}
    assert public - packages == EXPORTS.keys()


@pytest.mark.parametrize("module", EXPORTS)
def test_a_module_exports_what_users_may_rely_on(module):
    imported = import_module(module)
    assert set(imported.__all__) == EXPORTS[module]
    assert all(hasattr(imported, name) for name in imported.__all__)


@pytest.mark.parametrize("module", modules()[1:])
def test_a_module_imports_no_private_names_of_others(module):
    path = PACKAGE.parent.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    known = set(modules())
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ws_support"):
            for alias in node.names:
                is_module = f"{node.module}.{alias.name}" in known
                assert is_module or not alias.name.startswith("_"), alias.name
