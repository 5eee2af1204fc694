"""The base of the project's commands: they print rows or results, and report errors in one line."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from aggregation.errors import AggregationError, TemporarilyUnavailable
from connectors import application
from connectors.errors import ServiceRefused
from connectors.management.tables import Row, cell, table, terminal_width, to_json
from connectors.publication.credentials import write_credentials
from connectors.publication.pointer import try_write_pointer
from connectors.publication.progress import try_write_progress


class ReportCommand(BaseCommand):
    """A command that prints text, or JSON with ``--json``.

    A subclass implements `run`; errors that it raises become errors of the command.
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="for scripts")

    def handle(self, *args: Any, **options: Any) -> None:
        with errors_of_commands():
            self.run(**options)

    def run(self, *args: Any, **options: Any) -> None:
        """Do what the command is for."""
        raise NotImplementedError

    def print_rows(
        self, rows: Sequence[Row], *, as_json: bool, empty: str, limit: int | None = None
    ) -> None:
        """Print rows that have the same columns; with a limit, the first ``limit`` of them.

        If there are more rows than the limit, a note on standard error says so.
        """
        more = limit is not None and len(rows) > limit
        rows = rows[:limit]
        if as_json:
            self.stdout.write(to_json(rows))
        elif rows:
            width = terminal_width() if self.stdout.isatty() else None
            self.stdout.write(table(rows, width), ending="")
        else:
            self.stdout.write(empty)
        if more:
            self.stderr.write(f"the first {limit} are shown; --limit {2 * (limit or 0)} shows more")

    def print_row(self, row: Row, *, as_json: bool) -> None:
        """Print one row, with a line for each column."""
        if as_json:
            self.stdout.write(to_json(row))
            return
        width = max(map(len, row))
        for name, value in row.items():
            self.stdout.write(f"{name:<{width}}  {cell(value)}")

    def print_result(self, row: Row, sentence: str, *, as_json: bool) -> None:
        """Print what a command has done: as a sentence, or as JSON."""
        self.stdout.write(to_json(row) if as_json else sentence)

    def write_pointer(self, model_id: int) -> None:
        """Update what clients read about the model; a failure is a note: it is tried again later."""
        objects = application.objects()
        for write in (try_write_pointer, try_write_progress):
            if problem := write(objects, model_id):
                self.stderr.write(problem)

    def write_credentials(self) -> None:
        """Write clients' credentials that are out of date; a failure is a note: the sweep tries again."""
        try:
            write_credentials(application.objects())
        except AggregationError as error:
            self.stderr.write(f"credentials were not written; the next sweep writes them: {error}")


@contextmanager
def errors_of_commands() -> Iterator[None]:
    """Turn errors of AWS, storage, the database and the core into a `CommandError`."""
    try:
        yield
    except BrokenPipeError:  # The reader of the output has finished; nothing is wrong.
        raise
    except (
        TemporarilyUnavailable,
        ServiceRefused,
        BotoCoreError,
        ClientError,
        DatabaseError,
        OSError,
    ) as error:
        why = " ".join(str(error).split())
        raise CommandError(f"{why}; `manage.py doctor` finds the cause") from error
    except AggregationError as error:
        raise CommandError(str(error)) from error
    except ValidationError as error:
        raise CommandError(" ".join(error.messages)) from error
