"""Tests of the generated pages, and of the guides that must mention everything of their kind."""

from __future__ import annotations

import inspect

import pytest

from aggregation.rules import known_rules
from connectors import BaseAggConnector
from local.reference import FOLDER, PAGES
from local.reference.markdown import NOTICE


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_up_to_date(name: str) -> None:
    """A committed page equals the page that `make reference` generates."""
    assert (FOLDER / name).read_text() == PAGES[name]()


def test_no_generated_page_is_left_over() -> None:
    """Every page with the notice of a generated page is still generated."""
    pages = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*.md")}
    generated = {name for name in PAGES if name.endswith(".md")}
    assert {name for name, path in pages.items() if NOTICE in path.read_text()} == generated


@pytest.mark.parametrize("rule", sorted({rule.name for rule in known_rules().values()}))
def test_guide_to_rules_mentions_every_rule(rule: str) -> None:
    """The guide "Choose a rule" mentions each registered rule."""
    assert f"`{rule}`" in (FOLDER / "how-to" / "choose-a-rule.md").read_text()


def test_migration_guide_mentions_every_method() -> None:
    """The guide for users of the older aggregator mentions every method of the interface."""
    guide = (FOLDER / "how-to" / "migrate.md").read_text()
    methods = inspect.getmembers(BaseAggConnector, inspect.isroutine)
    public = {name for name, _ in methods if not name.startswith("_")} - {"known", "create"}
    assert not {name for name in public if f"`{name}`" not in guide}
