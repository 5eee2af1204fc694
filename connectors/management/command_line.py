"""The command line of `manage.py`: Django's, with short errors and a quiet end when a pipe is closed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from django.core.management import ManagementUtility
from django.core.management.base import BaseCommand, CommandParser

#: The exit status that a shell reports for a program whose output pipe was closed.
BROKEN_PIPE_STATUS = 128 + signal.SIGPIPE

#: Settings for commands that use neither a database nor storage.
UNUSED_DATABASE, UNUSED_STORAGE = "sqlite:///:memory:", "/nonexistent"


def needs_settings(arguments: Sequence[str]) -> bool:
    """Return whether a command line needs a configured federation; help and estimates do not."""
    asks_for_help = bool({"-h", "--help"} & set(arguments)) or arguments[:1] in ([], ["help"])
    return not asks_for_help and arguments[:1] != ["estimate_cost"]


def set_unused_settings() -> None:
    """Fill in missing settings of the database and storage, for commands that use neither."""
    if not os.environ.get("DATABASE_URL"):
        os.environ["DATABASE_URL"] = UNUSED_DATABASE
    if not (os.environ.get("BUCKET") or os.environ.get("STORAGE_ROOT")):
        os.environ["STORAGE_ROOT"] = UNUSED_STORAGE


def run(argv: Sequence[str]) -> None:
    """Run a command; exit quietly if its output pipe is closed, as in ``manage.py rounds 1 | head``."""
    try:
        try:
            CommandLine(list(argv)).execute()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more when it exits, and would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE_STATUS)


class CommandLine(ManagementUtility):
    """Django's command line, with errors in arguments reported in one line."""

    def fetch_command(self, subcommand: str) -> BaseCommand:
        command = super().fetch_command(subcommand)
        create_parser = command.create_parser

        def create_brief_parser(*args: Any, **kwargs: Any) -> CommandParser:
            parser = create_parser(*args, **kwargs)
            parser.error = partial(_exit_with_error, parser)  # type: ignore[method-assign]
            return parser

        command.create_parser = create_brief_parser  # type: ignore[method-assign]
        return command


def _exit_with_error(parser: CommandParser, message: str) -> NoReturn:
    """Print the error without the usage, most of which is the same for all of Django's commands."""
    parser.exit(2, f"{parser.prog}: error: {message}; see {parser.prog} --help\n")
