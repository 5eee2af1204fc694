"""What is written from the code says what the code says, and so do the drawings."""

from __future__ import annotations

import inspect

import pytest

from aggregation.rules import known_rules
from connectors import BaseAggConnector
from local import diagrams
from local.reference import FOLDER, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_gives(name: str) -> None:
    """Written anew, nothing of it changes; if something does: make reference."""
    assert (FOLDER / name).read_text() == PAGES[name]()


def test_every_page_of_the_reference_is_written() -> None:
    """A page that is left behind would be believed."""
    there = {f"reference/{path.name}" for path in (FOLDER / "reference").glob("*.md")}
    assert there == PAGES.keys() - {"decisions/README.md"}


@pytest.mark.parametrize("name", diagrams.DRAWINGS)
def test_the_drawing_is_what_the_code_gives(name: str) -> None:
    """Drawn anew, nothing of it changes; if something does: make reference."""
    assert (diagrams.FOLDER / name).read_text() == diagrams.DRAWINGS[name]()


def test_the_core_and_the_client_import_nothing_of_the_others() -> None:
    """The drawing has no arrow that begins at them."""
    assert diagrams.imports_of("aggregation") == diagrams.imports_of("client") == set()
    assert "aggregation" in diagrams.imports_of("connectors")


@pytest.mark.parametrize("rule", sorted(set(known_rules().values()), key=lambda rule: rule.name))
def test_the_guide_to_rules_leaves_none_out(rule: type) -> None:
    """Whoever chooses is told of each of them."""
    assert f"`{rule.name}`" in (FOLDER / "how-to" / "choose-a-rule.md").read_text()  # type: ignore[attr-defined]


def test_the_guide_to_moving_names_every_method() -> None:
    """Whoever brings a workflow finds each method it calls."""
    guide = (FOLDER / "how-to" / "migrate.md").read_text()
    methods = inspect.getmembers(BaseAggConnector, inspect.isroutine)
    public = {name for name, _ in methods if not name.startswith("_")} - {"known", "create"}
    assert not {name for name in public if f"`{name}`" not in guide}
