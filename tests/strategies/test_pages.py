"""Every strategy has a page that names all of its settings."""

import re
from pathlib import Path

import pytest

from unlearn.registry import strategies

PAGES = Path(__file__).parents[2] / "docs" / "strategies"


@pytest.mark.parametrize("name", strategies.names())
def test_the_page_of_a_strategy_names_every_setting_and_no_other(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    rows = text.partition("## Settings")[2].partition("\n\nSites:")[0]
    named = {
        setting
        for row in re.findall(r"^\| (`[^|]*) \|", rows, re.MULTILINE)
        for setting in re.findall(r"`([a-z_0-9]+)`", row)
    }
    assert named == set(strategies.get(name).Config.model_fields)


@pytest.mark.parametrize("name", strategies.names())
def test_the_page_of_a_strategy_says_when_to_use_it_and_what_it_honours(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert "## When to use it, and when not" in text
    for part in strategies.get(name).honours:
        assert f"`{part}`" in text
