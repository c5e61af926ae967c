"""The rooms of the house: a module imports from rooms below its own, and says what it exports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ws_support"

ROOMS = [
    # Ground
    {"close_codes", "signals", "_protocol", "_types", "_asyncio", "_logging", "_asgi"},
    # Shared mechanisms
    {"_topics", "conf", "_validators", "exceptions"},
    # Building blocks
    {"broadcast", "_connection", "_project", "checks", "templatetags"},
    # What users subclass and call
    {"consumers", "websocket", "middleware"},
    # What asgi.py imports
    {"asgi", "servers"},
    # Entry points
    {"apps", "management", "urls", "routing", "demo", "views"},
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
