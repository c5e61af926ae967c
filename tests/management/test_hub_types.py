"""`manage.py hub_types`."""

from __future__ import annotations

import sys
from io import StringIO
from typing import TypeVar

import pytest
from django.core.management import CommandError, call_command

from ws_support._hubs.typescript import declaration
from ws_support.hubs import Hub

T = TypeVar("T")


class Chat(Hub):
    async def send_message(self, message: str) -> None: ...


class Wrong(Hub):
    async def send_message(self, *messages: str) -> None: ...


def hub_types(name: str, *arguments: str) -> str:
    """What the command prints for a class of this module."""
    out = StringIO()
    call_command("hub_types", f"{__name__}.{name}", *arguments, stdout=out)
    return out.getvalue()


def test_the_types_are_printed():
    assert hub_types("Chat") == declaration(Chat, Hub)


def test_the_types_are_written_to_a_file(tmp_path):
    file = tmp_path / "chat.d.ts"
    assert hub_types("Chat", "-o", str(file)) == ""
    assert file.read_bytes() == declaration(Chat, Hub).encode()


def test_a_check_passes_for_what_is_written_and_fails_otherwise(tmp_path):
    file = tmp_path / "chat.d.ts"
    arguments = ["-o", str(file), "--check"]
    with pytest.raises(CommandError, match=r"chat\.d\.ts does not hold the types of .*Chat as"):
        hub_types("Chat", *arguments)
    assert not file.exists()
    hub_types("Chat", "-o", str(file))
    hub_types("Chat", *arguments)
    text = file.read_bytes()
    file.write_bytes(text.replace(b"\n", b"\r\n"))
    hub_types("Chat", *arguments)
    file.write_bytes(text + b"\n")
    with pytest.raises(CommandError, match=r"hub_types .*Chat -o .*chat\.d\.ts"):
        hub_types("Chat", *arguments)


def test_a_check_needs_a_file():
    with pytest.raises(CommandError, match="name it with --output FILE"):
        hub_types("Chat", "--check")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Missing", "Missing cannot be imported: .*Missing"),
        ("T", "T is no hub: it is not a subclass of ws_support.hubs.Hub"),
        ("StringIO", "StringIO is no hub"),
        ("Wrong", r"Wrong\.send_message\(\) takes \*messages"),
    ],
)
def test_a_class_that_has_no_types_is_an_error(name, problem):
    with pytest.raises(CommandError, match=problem):
        hub_types(name)


def test_a_path_without_a_module_is_an_error():
    with pytest.raises(CommandError, match="Chat cannot be imported"):
        call_command("hub_types", "Chat")


def test_a_file_that_is_a_directory_is_an_error(tmp_path):
    with pytest.raises(CommandError, match="cannot be written"):
        hub_types("Chat", "-o", str(tmp_path))
    with pytest.raises(CommandError, match="cannot be read"):
        hub_types("Chat", "-o", str(tmp_path), "--check")


def test_a_project_that_cannot_have_hubs_is_told_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "ws_support.hubs", None)
    with pytest.raises(CommandError, match=r"Hubs cannot be used here: .*ws_support\.hubs"):
        hub_types("Chat")
