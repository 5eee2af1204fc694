"""Print the notes of a release, after checking that its tag, version and changelog agree."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class NotReleasable(Exception):
    """The tag, pyproject.toml and CHANGELOG.md do not name the same version."""


def release_notes(tag: str, pyproject: str, changelog: str) -> str:
    """Return the section of the changelog that a tag releases.

    Parameters
    ----------
    tag : str
        ``v`` and the version.
    pyproject, changelog : str
        The text of the files.

    Raises
    ------
    NotReleasable
    """
    version = tomllib.loads(pyproject)["project"]["version"]
    if tag != f"v{version}":
        raise NotReleasable(f"the tag is {tag}, but pyproject.toml has version {version}")
    section = re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(.+?)(?=^## |\Z)",
        changelog,
        re.M | re.S,
    )
    if section is None:
        raise NotReleasable(f"CHANGELOG.md has no section like '## [{version}] - 2026-12-31'")
    return section[1].strip()


def main() -> None:
    """Print the notes of the tag that is named on the command line."""
    (tag,) = sys.argv[1:]
    try:
        print(
            release_notes(
                tag, (ROOT / "pyproject.toml").read_text(), (ROOT / "CHANGELOG.md").read_text()
            )
        )
    except NotReleasable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
