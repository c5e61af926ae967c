"""The settings as the documentation lists them."""

from __future__ import annotations

import pytest

from tests.docs.settings_table import (
    PAGE_OF_HUBS,
    PAGE_OF_TOPICS,
    heading,
    table,
    table_of_hubs,
    table_of_the_page,
    table_of_topics,
)
from tests.harness import ROOT
from ws_support.conf import SETTINGS


def test_the_table_of_the_settings_is_that_of_the_code():
    assert table_of_the_page() == table(), "Run: python -m tests.docs.settings_table"


def test_the_table_of_the_options_of_hubs_is_that_of_the_code():
    found = table_of_the_page(PAGE_OF_HUBS)
    assert found == table_of_hubs(), "Run: python -m tests.docs.settings_table"


def test_the_table_of_the_rules_of_topics_is_that_of_the_code():
    found = table_of_the_page(PAGE_OF_TOPICS)
    assert found == table_of_topics(), "Run: python -m tests.docs.settings_table"


@pytest.mark.parametrize("page", ["README.md", "docs/settings.md"])
def test_a_heading_says_type_and_default_of_each_setting(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    for key, setting in SETTINGS.items():
        assert any(f"`{heading(key, setting)}`" in line for line in headings), key
