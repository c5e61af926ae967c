"""The tables in docs/settings.md, docs/hubs.md and docs/topics.md, written from the code.

python -m tests.docs.settings_table
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from ws_support._hub_options import HubOptions
from ws_support._topic_options import TopicOptions
from ws_support.conf import SETTINGS, Setting

_DOCS = Path(__file__).parents[2] / "docs"
PAGE = _DOCS / "settings.md"
PAGE_OF_HUBS = _DOCS / "hubs.md"
PAGE_OF_TOPICS = _DOCS / "topics.md"
_TABLE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- end -->)", re.DOTALL)


# What users write, and what is kept as an object.
_DICTIONARIES = {"HUBS": "dict[str, Any]", "TOPICS": "dict[str, dict[str, Any]]"}


def heading(key: str, setting: Setting) -> str:
    """Return the type and the default of a key, as the headings of the page say them."""
    if key in _DICTIONARIES:
        return f"{key}: {_DICTIONARIES[key]} = {{}}"
    # Users write lists, which are kept as tuples.
    kind = setting.type.replace("tuple[", "list[").replace(", ...]", "]")
    return f"{key}: {kind} = {_literal(setting.default)}"


def table() -> str:
    """Return the table of all settings, in Markdown."""
    return _rows(SETTINGS.items())


def table_of_hubs() -> str:
    """Return the table of the options of hubs, in Markdown."""
    return _rows(
        (each.name.upper(), Setting(str(each.type), each.default, **each.metadata))
        for each in fields(HubOptions)
    )


def table_of_topics() -> str:
    """Return the table of the rules of a pattern, in Markdown."""
    return _rows(
        (each.name, Setting(str(each.type), each.default, **each.metadata))
        for each in fields(TopicOptions)
    )


def table_of_the_page(page: Path = PAGE) -> str:
    """Return what the page has now."""
    found = _TABLE.search(page.read_text(encoding="utf-8"))
    return found[0] if found else ""


def _rows(settings: Iterable[tuple[str, Setting]]) -> str:
    lines = ["| key | type and default | what |", "| --- | --- | --- |"]
    for key, setting in settings:
        kind = heading(key, setting).partition(": ")[2].replace("|", r"\|")
        lines.append(f"| `{key}` | `{kind}` | {setting.description} |")
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    if isinstance(value, str):
        # As people write control characters.
        return '"' + value.encode("unicode_escape").decode() + '"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


if __name__ == "__main__":
    for page, write in (
        (PAGE, table),
        (PAGE_OF_HUBS, table_of_hubs),
        (PAGE_OF_TOPICS, table_of_topics),
    ):
        text = page.read_text(encoding="utf-8")
        page.write_text(_TABLE.sub(lambda _, write=write: write(), text), encoding="utf-8")
