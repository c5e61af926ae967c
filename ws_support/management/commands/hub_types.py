from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.module_loading import import_string

_HUB: Final = "ws_support.hubs.Hub"


class Command(BaseCommand):
    help = "Writes the types of a hub for pages in TypeScript: what a .d.ts file holds."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("hub", help="the dotted path of the class, such as chat.hubs.Chat")
        parser.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
        parser.add_argument(
            "--check",
            action="store_true",
            help="write nothing, and fail if FILE does not hold what would be written",
        )

    def handle(self, *args: Any, **given: Any) -> None:
        path, output = given["hub"], given["output"]
        if given["check"] and output is None:
            raise CommandError("--check compares with a file: name it with --output FILE.")
        text = _declaration_of(path)
        if output is None:
            self.stdout.write(text, ending="")
        elif not given["check"]:
            _write(Path(output), text)
        elif _read(Path(output)) != text.encode():
            raise CommandError(
                f"{output} does not hold the types of {path} as they are now. Write them with:"
                f" manage.py hub_types {path} -o {output}"
            )


def _declaration_of(path: str) -> str:
    # A project without hubs may have no msgspec.
    try:
        base = import_string(_HUB)
        from ws_support._hubs.typescript import declaration
    except ModuleNotFoundError as error:
        raise CommandError(f"Hubs cannot be used here: {error}.") from error
    try:
        hub = import_string(path)
    except ImportError as error:
        raise CommandError(f"{path} cannot be imported: {error}.") from error
    if not (isinstance(hub, type) and issubclass(hub, base)):
        raise CommandError(f"{path} is no hub: it is not a subclass of {_HUB}.")
    try:
        return declaration(hub, base)
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error


def _write(file: Path, text: str) -> None:
    try:
        file.write_bytes(text.encode())
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error}.") from error


def _read(file: Path) -> bytes | None:
    """Return what is in a file, or None if there is no such file."""
    try:
        return file.read_bytes().replace(b"\r\n", b"\n")  # As Git may have it on Windows.
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error}.") from error
