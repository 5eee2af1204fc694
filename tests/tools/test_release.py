"""A tag releases the version that pyproject.toml and the changelog name."""

from __future__ import annotations

import pytest

from tools.release import NotReleasable, release_notes

PYPROJECT = '[project]\nversion = "1.2.0"\n'
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-12-31

### Added

- A thing.

## [1.1.0] - 2026-11-30

- Another thing.
"""


def test_notes_are_the_section_of_the_version() -> None:
    """The notes have neither the heading nor the sections of other versions."""
    assert release_notes("v1.2.0", PYPROJECT, CHANGELOG) == "### Added\n\n- A thing."


@pytest.mark.parametrize(
    ("tag", "changelog", "message"),
    [
        ("v1.3.0", CHANGELOG, "the tag is v1.3.0, but pyproject.toml has version 1.2.0"),
        ("1.2.0", CHANGELOG, "the tag is 1.2.0"),
        ("v1.2.0", "# Changelog\n\n## [Unreleased]\n", "CHANGELOG.md has no section"),
    ],
)
def test_contradiction_stops_the_release(tag: str, changelog: str, message: str) -> None:
    """Nothing is released where the tag, the version and the changelog disagree."""
    with pytest.raises(NotReleasable, match=message):
        release_notes(tag, PYPROJECT, changelog)
