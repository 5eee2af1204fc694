"""The page about the commands, from their parsers."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from aggregation import __main__ as aggregation_command
from local.reference.markdown import code, page, table


def commands_page() -> str:
    """Return the page about the project's commands."""
    own = sorted(
        name for name, app in get_commands().items() if app in ("connectors", "models_app")
    )
    return page(
        "Commands",
        "`python manage.py COMMAND` runs a command; [a guide](../how-to/commands.md) shows how. "
        "They read the same [settings](settings.md) as the function. Exit codes: 0, done; 1, it could "
        "not be done, and standard error says why and what to do; 2, the arguments are not valid.",
        "Each command also has Django's options: `--help`, `--traceback`, `--no-color` and others.",
        *(part for name in own for part in _command(name)),
        *_aggregation_command(),
    )


def _command(name: str) -> Iterator[str]:
    command = load_command_class(str(get_commands()[name]), name)
    does, _, example = command.help.partition(" Example: ")
    yield f"## {name}"
    yield does
    yield f"```sh\n{_wrapped('python ' + example)}\n```"
    # Positional arguments first, as they are given.
    actions = sorted(_own_actions(command, name), key=lambda each: bool(each.option_strings))
    rows = [_argument(each) for each in actions]
    if rows:
        yield table(["argument", "default", "meaning"], rows)


def _wrapped(command: str) -> str:
    """Return a command on lines that need no scrolling."""
    first, *options = re.split(r" (?=--)", command)
    lines = [first]
    for option in options:
        if len(lines[-1]) + len(option) < 88:
            lines[-1] += f" {option}"
        else:
            lines.append(f"    {option}")
    return " \\\n".join(lines)


def _own_actions(command: Any, name: str) -> Iterator[argparse.Action]:
    """Yield the arguments of a command that not every command of Django has."""
    usual = {
        (tuple(action.option_strings), action.help)
        for action in BaseCommand().create_parser("manage.py", name)._actions
    }
    for action in command.create_parser("manage.py", name)._actions:
        if (tuple(action.option_strings), action.help) not in usual:
            yield action


def _argument(action: argparse.Action) -> list[str]:
    """Return a row: how an argument is given, its default and its meaning."""
    default = _default_of(action)
    meaning = (action.help or "") % {"default": action.default, "prog": ""}
    if default:  # It has a column of its own.
        meaning = re.sub(rf"[\s(;,]*default: {re.escape(default)}\)?$", "", meaning)
    if action.choices:
        meaning = f"{meaning}: " if meaning else ""
        meaning += ", ".join(code(choice) for choice in action.choices)
    without = "required" if action.required else code(default) if default else ""
    return [code(_given(action)), without, meaning]


def _default_of(action: argparse.Action) -> str:
    if action.default in (None, False, [], 0, ""):
        return ""
    return f"{action.default:g}" if isinstance(action.default, float) else str(action.default)


def _given(action: argparse.Action) -> str:
    if not action.option_strings:
        return action.dest.upper()
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return f"{action.option_strings[-1]}{value}"


def _aggregation_command() -> Iterator[str]:
    assert aggregation_command.__doc__
    codes = aggregation_command.__doc__.partition("\n\n")[2].strip()
    yield "## The command aggregation"
    yield (
        "Aggregates files, without Django, database and AWS: see [Audit a result](../how-to/audit.md)."
    )
    yield codes
    yield f"```text\n{_help(aggregation_command.main)}```"
    yield "### aggregation explain"
    yield (
        "Takes the same options, but for those that say where a result is written: see "
        "[Simulate a federation](../how-to/simulate.md#what-happened)."
    )
    yield f"```text\n{_help(aggregation_command.main, 'explain')}```"


def _help(main: Callable[[Sequence[str]], int], *command: str) -> str:
    with (
        patch.dict(os.environ, COLUMNS="100"),
        contextlib.redirect_stdout(io.StringIO()) as printed,
        contextlib.suppress(SystemExit),
    ):
        main([*command, "--help"])
    return printed.getvalue()
