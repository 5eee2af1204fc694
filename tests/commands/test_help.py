"""Every command is documented, in its help and in the guide."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
COMMANDS = sorted(
    (folder.parts[-3], path.stem)
    for folder in PROJECT.glob("*/management/commands")
    for path in folder.glob("[a-z]*.py")
)


@pytest.mark.parametrize(("app", "name"), COMMANDS)
def test_the_example_in_the_help_is_one(app: str, name: str) -> None:
    """A command's help ends with an example, which its own parser accepts."""
    from django.core.management import load_command_class

    command = load_command_class(app, name)
    example = re.search(r"Example: manage\.py (.*)$", command.help)
    assert example, f"{name} has no example"
    given, *arguments = shlex.split(example[1])
    assert given == name
    command.create_parser("manage.py", name).parse_args(arguments)


@pytest.mark.parametrize("name", [name for _, name in COMMANDS])
def test_the_guide_names_every_command(name: str) -> None:
    """`docs/how-to/commands.md` leaves no command out."""
    guide = (PROJECT / "docs" / "how-to" / "commands.md").read_text()
    assert re.search(rf"(`|manage\.py ){name}\b", guide)
