"""A command line as it is typed: what `manage.py` does with it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from django.core.management import ManagementUtility
from django.core.management.base import BaseCommand, CommandParser

#: What a shell says of a program whose output nobody reads on.
NOBODY_READS = 128 + signal.SIGPIPE

#: What a command that asks nothing of a federation is run with, where there is none.
NO_DATABASE, NO_STORAGE = "sqlite:///:memory:", "/nonexistent"


def needs_no_federation(typed: Sequence[str]) -> bool:
    """Whether only help, or an estimate, is asked for."""
    return bool({"-h", "--help"} & set(typed)) or typed[:1] in ([], ["help"], ["estimate_cost"])


def set_no_federation() -> None:
    """Give Django's settings, where they are missing, values that nothing is done with."""
    if not os.environ.get("DATABASE_URL"):
        os.environ["DATABASE_URL"] = NO_DATABASE
    if not (os.environ.get("BUCKET") or os.environ.get("STORAGE_ROOT")):
        os.environ["STORAGE_ROOT"] = NO_STORAGE


def run(argv: Sequence[str]) -> None:
    """Run a command. It ends quietly when nobody reads on, as in ``manage.py rounds 1 | head``."""
    try:
        try:
            CommandLine(list(argv)).execute()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Or Python, which flushes once more as it ends, would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(NOBODY_READS)


class CommandLine(ManagementUtility):
    """Django's, whose commands tell in one line what is wrong with their arguments."""

    def fetch_command(self, subcommand: str) -> BaseCommand:
        command = super().fetch_command(subcommand)
        create_parser = command.create_parser

        def with_brief_errors(*args: Any, **kwargs: Any) -> CommandParser:
            parser = create_parser(*args, **kwargs)
            parser.error = partial(_error, parser)  # type: ignore[method-assign]
            return parser

        command.create_parser = with_brief_errors  # type: ignore[method-assign]
        return command


def _error(parser: CommandParser, message: str) -> NoReturn:
    """Say what is wrong; argparse repeats the usage first, most of which is the same for all commands."""
    parser.exit(2, f"{parser.prog}: error: {message}; see {parser.prog} --help\n")
