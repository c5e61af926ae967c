"""The table of all settings in docs/settings.md, written from the code.

python -m tests.docs.settings_table
"""

from __future__ import annotations

import re
from pathlib import Path

from ws_support.conf import SETTINGS, Setting

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
_TABLE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- end -->)", re.DOTALL)


def heading(key: str, setting: Setting) -> str:
    """Return the type and the default of a key, as the headings of the page say them."""
    # Users write lists, which are kept as tuples.
    kind = setting.type.replace("tuple[", "list[").replace(", ...]", "]")
    default = "[]" if setting.default == () else _literal(setting.default)
    return f"{key}: {kind} = {default}"


def table() -> str:
    """Return the table, in Markdown."""
    lines = ["| key | type and default | what |", "| --- | --- | --- |"]
    for key, setting in SETTINGS.items():
        kind = heading(key, setting).partition(": ")[2].replace("|", r"\|")
        lines.append(f"| `{key}` | `{kind}` | {setting.description} |")
    return "\n".join(lines) + "\n"


def table_of_the_page() -> str:
    """Return what the page has now."""
    found = _TABLE.search(PAGE.read_text(encoding="utf-8"))
    return found[0] if found else ""


def _literal(value: object) -> str:
    if isinstance(value, str):
        # As people write control characters.
        return '"' + value.encode("unicode_escape").decode() + '"'
    return repr(value)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_TABLE.sub(lambda _: table(), text), encoding="utf-8")
